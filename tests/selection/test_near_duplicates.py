import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.options import InstructionOptions
from rocket_hub.selection.instructions import MODES, choose, distinct, ordered, similarity


def unit(raw):
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def clustered(rows, width, centres, spread, seed=0):
    """Rows around centres, in float32, so that many are near-duplicates."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(centres, width))[rng.integers(0, centres, rows)]
    return unit(raw + spread * rng.normal(size=raw.shape)).astype(np.float32)


def walked(embeddings, threshold):
    """What `distinct` keeps, and the dropped rows with their partners."""
    found = list(distinct(embeddings, range(len(embeddings)), threshold))
    return [row for row, partner in found if partner is None], {row: p for row, p in found if p is not None}


def naive_distinct(embeddings, threshold):
    """The definition, pair by pair and in double precision."""
    kept, dropped = [], {}
    exact = embeddings.astype(np.float64)
    for row in range(len(exact)):
        near = [k for k in kept if min(float(exact[row] @ exact[k]), 1.0) > threshold]
        if near:
            dropped[row] = near[0]
        else:
            kept.append(row)
    return kept, dropped


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 3), st.sampled_from([-0.5, 0.3, 0.8, 0.97, 1.0]))
def test_distinct_is_the_naive_definition(seed, count, width, threshold):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that equal rows and equal directions occur.
    raw = rng.integers(-2, 3, size=(count, width)).astype(np.float64) + 1e-3
    assert walked(unit(raw), threshold) == naive_distinct(unit(raw), threshold)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.6, 0.9, 0.95]), st.sampled_from([0.05, 0.1, 0.2]))
def test_distinct_across_blocks_is_the_naive_definition(seed, threshold, spread):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rocket_hub.selection.instructions._BLOCK", 16)
        embeddings = clustered(150, 24, 60, spread, seed)
        assert walked(embeddings, threshold) == naive_distinct(embeddings, threshold)


def test_distinct_across_whole_blocks():
    embeddings = clustered(2600, 8, 300, 0.05)
    kept, dropped = walked(embeddings, 0.9)
    assert (kept, dropped) == naive_distinct(embeddings, 0.9)
    assert max(kept) > 1024 and any(row > 1024 and partner < 1024 for row, partner in dropped.items())


def test_a_cosine_within_rounding_of_the_threshold_is_computed_in_double_precision():
    """4,096 rows 1e-8 apart around the threshold: float32 products put some of them on the wrong side."""
    threshold = 0.9
    cosines = threshold + 1e-8 * np.arange(-256, 256)
    rows = np.zeros((1 + len(cosines), 600), dtype=np.float32)
    rng = np.random.default_rng(0)
    rows[0] = unit(rng.normal(size=(1, 600)))[0]
    across = rng.normal(size=(len(cosines), 600))
    across -= np.outer(across @ rows[0].astype(np.float64), rows[0])
    rows[1:] = cosines[:, None] * rows[0] + np.sqrt(1 - cosines**2)[:, None] * unit(across)
    exact = rows[1:].astype(np.float64) @ rows[0].astype(np.float64) > threshold
    assert ((rows[1:] @ rows[0] > threshold) != exact).any(), "else this test shows nothing"
    _, dropped = walked(rows, threshold)
    assert {row for row, partner in dropped.items() if partner == 0} == set(1 + np.flatnonzero(exact))


def test_a_dropped_row_drops_no_other():
    angles = np.array([0.0, 0.4, 0.8])  # each is near the next, the first is not near the last
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert walked(embeddings, 0.9) == ([0, 2], {1: 0})


def test_at_threshold_one_nothing_is_dropped():
    rows = unit(np.random.default_rng(0).normal(size=(50, 33))).astype(np.float32)
    assert len(walked(np.concatenate([rows, rows]), 1.0)[0]) == 100


def test_rows_are_walked_in_the_given_order_and_read_only_when_they_are_due():
    class Counted:
        def __init__(self, rows):
            self.rows, self.shape, self.read = rows, rows.shape, 0

        def __getitem__(self, positions):
            self.read += len(positions)
            return self.rows[positions]

    rows = Counted(clustered(5000, 16, 4000, 0.01))
    walk = distinct(rows, range(4999, -1, -1), 0.9)
    assert [row for row, _ in itertools.islice(walk, 3)] == [4999, 4998, 4997]
    assert rows.read == 1024
    assert list(distinct(rows, [], 0.9)) == []


def test_memory_beside_the_rows_does_not_grow_with_their_square():
    peaks = []
    for count in (4000, 8000):
        embeddings = clustered(count, 32, count, 0.3)
        tracemalloc.start()
        kept, _ = walked(embeddings, 0.99)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(kept) > 0.9 * count
    assert peaks[1] < 1.3 * peaks[0]  # four times as many pairs


@pytest.fixture(scope="module")
def world():
    """Rows and shots, and all their cosines in double precision."""
    rng = np.random.default_rng(0)
    rows, shots = (unit(rng.normal(size=(n, 12))).astype(np.float32) for n in (300, 7))
    return rows, shots, rows.astype(np.float64) @ shots.T.astype(np.float64)


def falls(values, within):
    """Whether values fall, but for the rounding of what they were ranked by."""
    return np.diff(values).max() < within


def test_each_mode_is_its_definition(world):
    rows, shots, cosines = world
    assert similarity(rows, shots) == pytest.approx(cosines.max(axis=1), abs=1e-6)
    assert similarity(rows, shots, "round_robin") == pytest.approx(cosines.max(axis=1), abs=1e-6)
    assert similarity(rows, shots, "mean") == pytest.approx(cosines.mean(axis=1), abs=1e-6)
    mean = shots.mean(axis=0)
    by_mean_shot = rows @ mean / np.linalg.norm(mean)
    assert falls(by_mean_shot[np.argsort(-similarity(rows, shots, "mean"))], 1e-5)


@pytest.mark.parametrize("gamma", [2.0, 10.0])
def test_kde_ranks_by_the_density_of_the_shots(world, gamma):
    rows, shots, cosines = world
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - shots[None].astype(np.float64), axis=2)
    density = np.exp(-gamma * distances**2).mean(axis=1)
    found = similarity(rows, shots, "kde", gamma)
    assert np.exp(2 * gamma * (found - 1.0)) == pytest.approx(density, rel=1e-4)
    assert falls(np.log(density[np.argsort(-found)]), 1e-4)
    assert np.all((found <= cosines.max(axis=1) + 1e-6) & (found >= cosines.mean(axis=1) - 1e-6))


def test_kde_lies_between_the_mean_and_the_maximum(world):
    rows, shots, cosines = world
    assert similarity(rows, shots, "kde", 1e-3) == pytest.approx(cosines.mean(axis=1), abs=1e-3)
    assert similarity(rows, shots, "kde", 1e4) == pytest.approx(cosines.max(axis=1), abs=1e-3)


def test_blocks_make_no_difference_and_equal_rows_are_equal(world, monkeypatch):
    rows, shots, _ = world
    again = np.concatenate([rows, rows])
    whole = [similarity(again, shots, mode) for mode in MODES]
    monkeypatch.setattr("rocket_hub.selection.instructions._SIMILARITY_BLOCK", 17)
    for mode, expected in zip(MODES, whole, strict=True):
        found = similarity(again, shots, mode)
        assert found.tolist() == expected.tolist()
        assert found[:300].tolist() == found[300:].tolist()


@pytest.mark.parametrize("mode", ["max", "mean", "kde"])
def test_the_most_similar_row_comes_first_and_the_least_is_a_limit(world, mode):
    rows, shots, _ = world
    ranked_by = similarity(rows, shots, mode)
    assert list(ordered(rows, shots, ranked_by, mode)) == np.argsort(-ranked_by, kind="stable").tolist()
    least = float(np.median(ranked_by))
    near = list(ordered(rows, shots, ranked_by, mode, least))
    assert 100 < len(near) < 200 and set(near) == set(np.flatnonzero(ranked_by >= least))


def by_hand(cosines):
    """Each shot in turn takes the nearest row that is left."""
    left, taken = set(range(len(cosines))), []
    while left:
        for column in cosines.T:
            if left:
                taken.append(min(left, key=lambda row: (-round(column[row], 6), row)))
                left.remove(taken[-1])
    return taken


@pytest.mark.parametrize("count", [1, 6, 7, 8, 300])
def test_round_robin_gives_each_shot_its_nearest_row_in_turn(world, count):
    rows, shots, cosines = world
    ranked_by = similarity(rows[:count], shots, "round_robin")
    assert list(ordered(rows[:count], shots, ranked_by, "round_robin")) == by_hand(cosines[:count])


def test_one_shot_cannot_fill_the_budget_of_round_robin():
    shots = np.eye(4, dtype=np.float32)[:2]
    rng = np.random.default_rng(0)
    many = shots[0] + 0.1 * rng.normal(size=(500, 4))  # all near the first shot
    rows = unit(np.concatenate([many, shots[1] + 0.6 * rng.normal(size=(40, 4))])).astype(np.float32)
    options = {"max_rows": 20, "threshold": 1.0}
    by_max = choose(rows, shots, InstructionOptions(**options)).taken
    by_turns = choose(rows, shots, InstructionOptions(similarity="round_robin", **options)).taken
    assert sum(row >= 500 for row in by_max) < 5
    assert sum(row >= 500 for row in by_turns) == 10


def test_what_cannot_be_compared_is_refused(world):
    rows, shots, _ = world
    with pytest.raises(InputError, match=r"instructions.similarity: expected one of max, mean, kde, round_robin"):
        similarity(rows, shots, "maximum")
    with pytest.raises(InputError, match="kde_gamma"):
        similarity(rows, shots, "kde", 0.0)
    with pytest.raises(InputError, match="12 numbers"):
        similarity(rows, shots[:, :5])


@pytest.mark.parametrize("mode", MODES)
def test_of_two_near_duplicates_the_one_less_like_the_kshot_goes_and_the_budget_is_refilled(world, mode):
    rows, shots, _ = world
    rng = np.random.default_rng(1)
    pool = unit(np.repeat(rows, 3, axis=0) + 0.03 * rng.normal(size=(900, 12))).astype(np.float32)
    choice = choose(pool, shots, InstructionOptions(similarity=mode, max_rows=200, threshold=0.9))
    assert len(choice.taken) == 200 and len(choice.near) > 100
    cosines = pool.astype(np.float64) @ pool.T.astype(np.float64)
    assert (cosines[np.ix_(choice.taken, choice.taken)] - 2 * np.eye(200)).max() <= 0.9
    assert all(cosines[row, partner] > 0.9 for row, partner in choice.near.items())
    if mode != "round_robin":
        assert all(choice.similarity[row] <= choice.similarity[partner] for row, partner in choice.near.items())
        looked_at = {*choice.taken, *choice.near}
        assert len(looked_at) == (choice.similarity >= choice.similarity[choice.taken[-1]]).sum()


def test_a_budget_of_tokens_is_spent_in_order_and_never_exceeded(world):
    rows, shots, _ = world
    tokens = np.random.default_rng(0).integers(5, 60, 300)
    first = int(np.argmax(similarity(rows, shots)))
    tokens[first] = 1000
    options = InstructionOptions(max_tokens=500, threshold=1.0)
    choice = choose(rows, shots, options, lambda row: int(tokens[row]))
    assert choice.too_long == [first]
    assert choice.tokens == tokens[choice.taken].sum() <= 500
    order = [row for row in np.argsort(-choice.similarity, kind="stable") if row != first]
    assert choice.taken == order[: len(choice.taken)]
    assert choice.tokens + tokens[order[len(choice.taken)]] > 500
    fewer = choose(rows, shots, InstructionOptions(max_tokens=500, max_rows=3), lambda row: int(tokens[row]))
    assert fewer.taken == order[:3]
