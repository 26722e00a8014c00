import numpy as np
import pytest

from rocket_hub.errors import InputError
from rocket_hub.selection.groups import (
    behaviour_similarity,
    delta_w_similarity,
    group_diversity,
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


def test_narrow_and_wide_modules_are_compared_alike():
    """Many experts of a narrow module are compared by their updates themselves, few of a wide one by their factors."""
    rng = np.random.default_rng(6)
    for count, (width_in, width_out) in ((12, (5, 4)), (3, (60, 50))):
        experts = [{"q": (rng.normal(size=(4, width_in)), rng.normal(size=(width_out, 4)))} for _ in range(count)]
        flat = [(b @ a).ravel() for a, b in (expert["q"] for expert in experts)]
        expected = [[cosine(x, y) for y in flat] for x in flat]
        assert delta_w_similarity(experts) == pytest.approx(np.array(expected), abs=1e-12)


def test_behaviour_is_how_often_two_are_right_or_wrong_together():
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, -1], [-1, -1, -1, 1]])
    expected = [[1, 3 / 4, 0, 0], [3 / 4, 1, 1 / 3, 0], [0, 1 / 3, 1, 1], [0, 0, 1, 1]]
    assert behaviour_similarity(correct) == pytest.approx(np.array(expected))
    assert behaviour_similarity(np.zeros((2, 5))).tolist() == [[1, 1], [1, 1]]
