import numpy as np
import pytest

from rocket_hub.errors import InputError
from rocket_hub.options import InstructionOptions
from rocket_hub.selection.instructions import choose
from rocket_hub.selection.near_duplicates import MODES, ordered, similarity


def unit(raw):
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Rows and shots, and all their cosines in double precision."""
    rng = np.random.default_rng(0)
    rows, shots = unit(rng.normal(size=(300, 12))), unit(rng.normal(size=(7, 12)))
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
    monkeypatch.setattr("rocket_hub.selection.near_duplicates._SIMILARITY_BLOCK", 17)
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
    many = unit(shots[0] + 0.1 * rng.normal(size=(500, 4)))  # all near the first shot
    few = unit(shots[1] + 0.6 * rng.normal(size=(40, 4)))
    rows = np.concatenate([many, few])
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
    pool = unit(np.repeat(rows, 3, axis=0) + 0.03 * rng.normal(size=(900, 12)))
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
