import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.selection import groups

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
    assert groups.mean_ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]
    assert groups.mean_ranks(np.array([])).tolist() == []


def test_delta_w_similarity_is_the_cosine_of_the_full_updates():
    rng = np.random.default_rng(0)
    experts = [
        expert(rng, [("q", 2), ("v", 2)]),
        expert(rng, [("q", 4), ("up", 3)]),
        expert(rng, [("v", 1)]),
        expert(rng, [("up", 5), ("v", 2), ("q", 1)]),
    ]
    expected = [[cosine(dense(x), dense(y)) for y in experts] for x in experts]
    assert groups.delta_w_similarity(experts) == pytest.approx(np.array(expected), abs=1e-12)


def test_delta_w_similarity_sees_the_update_and_not_its_factors():
    rng = np.random.default_rng(1)
    one = expert(rng, [("q", 3), ("v", 2)])
    turned = {}
    for name, (a, b) in one.items():
        turn = rng.normal(size=(len(a), len(a)))
        turned[name] = (turn @ a, b @ np.linalg.inv(turn))
    assert groups.delta_w_similarity([one, turned])[0, 1] == pytest.approx(1)
    assert groups.paper_similarity([one, turned])[0, 1] < 0.9


def test_an_expert_without_update_is_like_no_other():
    rng = np.random.default_rng(2)
    nothing = {"q": (rng.normal(size=(2, 6)), np.zeros((5, 2)))}
    assert groups.delta_w_similarity([nothing, expert(rng, [("q", 2)]), {}]).tolist() == np.eye(3).tolist()


def test_paper_similarity_averages_the_cosines_of_all_matrices():
    rng = np.random.default_rng(3)
    x, y = (expert(rng, [("q", 2), ("v", 2)]) for _ in range(2))
    expected = np.mean([cosine(x[name][side].ravel(), y[name][side].ravel()) for name in x for side in (0, 1)])
    assert groups.paper_similarity([x, y]) == pytest.approx(np.array([[1, expected], [expected, 1]]))


@pytest.mark.parametrize("other", [[("q", 3)], [("v", 2)], [("q", 2), ("v", 2)]])
def test_paper_similarity_needs_equal_shapes(other):
    rng = np.random.default_rng(4)
    with pytest.raises(InputError, match="delta_w"):
        groups.paper_similarity([expert(rng, [("q", 2)]), expert(rng, other)])


def test_other_widths_are_an_error_that_names_the_module():
    rng = np.random.default_rng(5)
    with pytest.raises(InputError, match=r"layer\.q"):
        groups.delta_w_similarity([{"layer.q": (rng.normal(size=(2, w)), np.ones((3, 2)))} for w in (4, 5)])


def test_group_diversity_is_the_inverse_of_the_mean_similarity():
    similarity = np.array([[1, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 1]])
    assert groups.group_diversity(similarity, (0, 1, 2)) == pytest.approx(1 / 0.3)
    assert groups.group_diversity(similarity, (0, 2)) == pytest.approx(10)
    assert groups.group_diversity(similarity, (1,)) == 1
    assert groups.group_diversity(np.array([[1, -0.5], [-0.5, 1]]), (0, 1)) == pytest.approx(1e6)


def test_narrow_and_wide_modules_are_compared_alike():
    """Many experts of a narrow module are compared by their updates themselves, few of a wide one by their factors."""
    rng = np.random.default_rng(6)
    for count, (width_in, width_out) in ((12, (5, 4)), (3, (60, 50))):
        experts = [{"q": (rng.normal(size=(4, width_in)), rng.normal(size=(width_out, 4)))} for _ in range(count)]
        flat = [(b @ a).ravel() for a, b in (expert["q"] for expert in experts)]
        expected = [[cosine(x, y) for y in flat] for x in flat]
        assert groups.delta_w_similarity(experts) == pytest.approx(np.array(expected), abs=1e-12)


def test_behaviour_is_how_often_two_are_right_or_wrong_together():
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, -1], [-1, -1, -1, 1]])
    expected = [[1, 3 / 4, 0, 0], [3 / 4, 1, 1 / 3, 0], [0, 1 / 3, 1, 1], [0, 0, 1, 1]]
    assert groups.behaviour_similarity(correct) == pytest.approx(np.array(expected))
    assert groups.behaviour_similarity(np.zeros((2, 5))).tolist() == [[1, 1], [1, 1]]


def every_group(count, size):
    return np.array(list(itertools.combinations(range(count), size)))


def mean_similarity(similarity, group):
    pairs = [similarity[i, j] for i, j in itertools.combinations(group, 2)]
    return float(np.mean(pairs)) if pairs else 1.0


def algorithm_1(rank_sums, similarity, size):
    """Algorithm 1, word by word, over all groups: (total, Σ (RP + RA), group), best first."""
    all_groups = every_group(len(rank_sums), size)
    ranks = groups.mean_ranks(np.array([mean_similarity(similarity, g) for g in all_groups]).round(12))
    sums = rank_sums[all_groups].sum(axis=1)
    return sorted(zip((sums + ranks).tolist(), sums.tolist(), map(tuple, all_groups.tolist()), strict=True))


def bank(seed, count, kind):
    """Similarities as of experts at random, in families, all alike (ties everywhere), and of both signs."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 6))
    if kind == "families":
        vectors = rng.normal(size=(3, 6))[rng.integers(0, 3, count)] + 0.3 * vectors
    if kind == "ties":
        vectors = np.eye(6)[rng.integers(0, 3, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(rng.integers(2, 2 * count + 1, count).astype(float)), vectors @ vectors.T


def best_group(*given):
    """The first group of all."""
    return tuple(groups.ranked_groups(*given)[0][0].tolist())


KINDS = st.sampled_from(["random", "families", "ties"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), KINDS)
def test_groups_are_ranked_as_in_algorithm_1(seed, count, size, kind):
    size = min(size, count)
    rank_sums, similarity = bank(seed, count, kind)
    expected = algorithm_1(rank_sums, similarity, size)
    found, totals = groups.ranked_groups(rank_sums, similarity, size)
    assert best_group(rank_sums, similarity, size) == expected[0][2]
    assert list(zip(totals.tolist(), map(tuple, found.tolist()), strict=True)) == [(t, g) for t, _, g in expected]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), KINDS)
def test_the_first_two_and_all_ties_are_right_where_not_all_groups_are_listed(seed, kind):
    rank_sums, similarity = bank(seed, 16, kind)
    expected = algorithm_1(rank_sums, similarity, 4)
    found, totals = groups.ranked_groups(rank_sums, similarity, 4)
    assert [tuple(group) for group in found[:2].tolist()] == [group for _, _, group in expected[:2]]
    tied = {group for total, _, group in expected if total == expected[0][0]}
    assert {tuple(group) for group in found[totals == totals[0]].tolist()} == tied


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 5), KINDS, st.integers(1, 40))
def test_the_lowest_groups_are_those_of_all_groups(seed, count, size, kind, wanted):
    size = min(size, count)
    linear, pair = bank(seed, count, kind)
    all_groups = every_group(count, size)
    values = linear[all_groups].sum(axis=1)
    values = values + [sum(pair[i, j] for i, j in itertools.combinations(group, 2)) for group in all_groups]
    order = np.lexsort((*all_groups.T[::-1], values.round(12)))
    limit = values.round(12)[order[min(wanted, len(order)) - 1]]
    expected = [tuple(all_groups[i]) for i in order if values.round(12)[i] <= limit]
    found, found_values = groups.lowest_groups(linear, pair, size, wanted)
    assert [tuple(group) for group in found] == expected
    assert found_values == pytest.approx(np.sort(values)[: len(expected)])


def test_ties_fall_to_the_rank_sum_and_then_to_the_order():
    assert best_group(np.array([4.0, 4.0, 4.0]), np.eye(3), 2) == (0, 1)
    assert best_group(np.array([6.0, 3.0, 3.0]), np.eye(3), 2) == (1, 2)
    assert best_group(np.array([2.0, 3.0]), np.eye(2), 1) == (0,)


def test_the_whole_bank_of_the_paper_and_more_is_searched_exactly():
    """M = 38 against all 73,815 groups; M = 200 has 64,684,950, and takes a fraction of a second."""
    rng = np.random.default_rng(0)
    similarity = np.corrcoef(rng.normal(size=(38, 50)))
    rank_sums = np.sort(rng.permutation(38) + rng.permutation(38) + 2.0)
    everything = every_group(38, 4)
    means = sum(similarity[everything[:, i], everything[:, j]] for i, j in itertools.combinations(range(4), 2)) / 6
    totals = rank_sums[everything].sum(axis=1) + groups.mean_ranks(means.round(12))
    assert best_group(rank_sums, similarity, 4) == tuple(everything[totals.argmin()])
    started = time.process_time()
    assert len(best_group(np.sort(rng.uniform(2, 400, 200)), np.corrcoef(rng.normal(size=(200, 50))), 4)) == 4
    assert time.process_time() - started < 5, "a bound has gone slack: this takes half a second"


def test_what_cannot_be_searched_is_refused(monkeypatch):
    monkeypatch.setattr(groups, "MAX_TIED", 1000)
    with pytest.raises(InputError, match=r"more than 1,000 groups.*shortlist"):
        best_group(np.arange(20.0), np.eye(20), 6)
    monkeypatch.setattr(groups, "MAX_VISITS", 10)
    with pytest.raises(InputError, match=r"groups of 6 among 30 experts.*shortlist"):
        best_group(np.arange(30.0), np.corrcoef(np.random.default_rng(0).normal(size=(30, 9))), 6)


def test_similarities_of_both_signs_and_a_diagonal_of_any_kind_are_right():
    similarity = -np.ones((5, 5)) + np.diag([7.0] * 5)
    similarity[0, 1] = similarity[1, 0] = -2
    found, values = groups.lowest_groups(np.zeros(5), similarity, 3, 1)
    assert found[0].tolist() == [0, 1, 2] and math.isclose(values[0], -4)
