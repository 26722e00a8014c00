import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.selection.diversity import (
    best_group,
    delta_w_similarity,
    group_diversity,
    keep_distinct,
    mean_ranks,
    paper_similarity,
)

WIDTHS = {"q": (6, 5), "v": (6, 3), "up": (4, 8)}


def expert(rng, ranks):
    return {name: (rng.normal(size=(r, WIDTHS[name][0])), rng.normal(size=(WIDTHS[name][1], r))) for name, r in ranks}


def dense(factors):
    parts = [(b @ a).ravel() if name in factors else np.zeros(i * o) for name, (i, o) in WIDTHS.items()
             for a, b in [factors.get(name, (None, None))]]  # fmt: skip
    return np.concatenate(parts)


def cosine(x, y):
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def test_mean_ranks_share_ties():
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]
    assert mean_ranks(np.array([])).tolist() == []


def test_delta_w_similarity_is_the_cosine_of_the_full_updates():
    rng = np.random.default_rng(0)
    experts = [
        expert(rng, [("q", 2), ("v", 2)]),
        expert(rng, [("q", 4), ("up", 3)]),
        expert(rng, [("v", 1)]),
        expert(rng, [("up", 5), ("v", 2), ("q", 1)]),
    ]
    expected = [[cosine(dense(x), dense(y)) for y in experts] for x in experts]
    assert delta_w_similarity(experts) == pytest.approx(np.array(expected), abs=1e-12)


def test_delta_w_similarity_sees_the_update_and_not_its_factors():
    rng = np.random.default_rng(1)
    one = expert(rng, [("q", 3), ("v", 2)])
    turned = {}
    for name, (a, b) in one.items():
        turn = rng.normal(size=(len(a), len(a)))
        turned[name] = (turn @ a, b @ np.linalg.inv(turn))
    assert delta_w_similarity([one, turned])[0, 1] == pytest.approx(1)
    assert paper_similarity([one, turned])[0, 1] < 0.9


def test_an_expert_without_update_is_like_no_other():
    rng = np.random.default_rng(2)
    nothing = {"q": (rng.normal(size=(2, 6)), np.zeros((5, 2)))}
    assert delta_w_similarity([nothing, expert(rng, [("q", 2)]), {}]).tolist() == np.eye(3).tolist()


def test_paper_similarity_averages_the_cosines_of_all_matrices():
    rng = np.random.default_rng(3)
    x, y = (expert(rng, [("q", 2), ("v", 2)]) for _ in range(2))
    expected = np.mean([cosine(x[name][side].ravel(), y[name][side].ravel()) for name in x for side in (0, 1)])
    assert paper_similarity([x, y]) == pytest.approx(np.array([[1, expected], [expected, 1]]))


@pytest.mark.parametrize("other", [[("q", 3)], [("v", 2)], [("q", 2), ("v", 2)]])
def test_paper_similarity_needs_equal_shapes(other):
    rng = np.random.default_rng(4)
    with pytest.raises(InputError, match="delta_w"):
        paper_similarity([expert(rng, [("q", 2)]), expert(rng, other)])


def test_other_widths_are_an_error_that_names_the_module():
    rng = np.random.default_rng(5)
    with pytest.raises(InputError, match=r"layer\.q"):
        delta_w_similarity([{"layer.q": (rng.normal(size=(2, w)), np.ones((3, 2)))} for w in (4, 5)])


def test_group_diversity_is_the_inverse_of_the_mean_similarity():
    similarity = np.array([[1, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 1]])
    assert group_diversity(similarity, (0, 1, 2)) == pytest.approx(1 / 0.3)
    assert group_diversity(similarity, (0, 2)) == pytest.approx(10)
    assert group_diversity(similarity, (1,)) == 1
    assert group_diversity(np.array([[1, -0.5], [-0.5, 1]]), (0, 1)) == pytest.approx(1e6)


def naive_best(rank_sums, similarity, size):
    """Algorithm 1, word by word, where no two groups are equally diverse."""
    groups = list(itertools.combinations(range(len(rank_sums)), size))
    means = {g: np.mean([similarity[i, j] for i, j in itertools.combinations(g, 2)]) for g in groups}
    rank = {g: place for place, g in enumerate(sorted(groups, key=means.__getitem__), 1)}
    return min(groups, key=lambda g: (sum(rank_sums[list(g)]) + rank[g], sum(rank_sums[list(g)]), g))


@pytest.mark.parametrize(("count", "size"), [(2, 2), (5, 2), (8, 4), (9, 3)])
def test_best_group_is_algorithm_1(count, size):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(count, 4))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rank_sums = np.sort(rng.integers(2, 20, count).astype(float))
        similarity = vectors @ vectors.T
        assert best_group(rank_sums, similarity, size) == naive_best(rank_sums, similarity, size)


def test_best_group_settles_ties_by_rank_sum_and_then_by_order():
    assert best_group(np.array([4.0, 4.0, 4.0]), np.eye(3), 2) == (0, 1)
    assert best_group(np.array([6.0, 3.0, 3.0]), np.eye(3), 2) == (1, 2)
    assert best_group(np.array([2.0, 3.0]), np.eye(2), 1) == (0,)


def test_best_group_of_thirty_is_fast_and_too_many_are_refused():
    rng = np.random.default_rng(0)
    similarity = np.corrcoef(rng.normal(size=(30, 9)))
    assert len(best_group(np.arange(30.0), similarity, 4)) == 4
    with pytest.raises(InputError, match="shortlist"):
        best_group(np.arange(60.0), np.eye(60), 8)


def naive_distinct(embeddings, threshold):
    kept, dropped = [], {}
    for row in range(len(embeddings)):
        near = [k for k in kept if min(float(embeddings[row] @ embeddings[k]), 1.0) > threshold]
        if near:
            dropped[row] = near[0]
        else:
            kept.append(row)
    return kept, dropped


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 3), st.sampled_from([-0.5, 0.3, 0.8, 0.97, 1.0]))
def test_keep_distinct_is_the_naive_definition(seed, count, width, threshold):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that equal rows and equal directions occur.
    raw = rng.integers(-2, 3, size=(count, width)).astype(np.float64) + 1e-3
    embeddings = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert keep_distinct(embeddings, threshold) == naive_distinct(embeddings, threshold)


def test_keep_distinct_across_blocks():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, 8))
    raw = centres[rng.integers(0, 300, 2600)] + 0.05 * rng.normal(size=(2600, 8))
    embeddings = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    kept, dropped = keep_distinct(embeddings, 0.9)
    assert (kept, dropped) == naive_distinct(embeddings, 0.9)
    assert max(kept) > 1024 and any(row > 1024 and partner < 1024 for row, partner in dropped.items())
    assert keep_distinct(embeddings, 0.9, limit=20)[0] == kept[:20]


def test_a_dropped_row_drops_no_other():
    angles = np.array([0.0, 0.4, 0.8])  # each is near the next, the first is not near the last
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert keep_distinct(embeddings, 0.9) == ([0, 2], {1: 0})


def test_at_threshold_one_nothing_is_dropped():
    rows = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert len(keep_distinct(np.concatenate([rows, rows]), 1.0)[0]) == 100
