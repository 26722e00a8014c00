"""The controls: fair starts, and a recommendation that is no better than its evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocket_hub.controls.methods import PRODUCTS, ROUTED, recommend
from rocket_hub.errors import RecipeError
from rocket_hub.evaluation import paired_difference
from rocket_hub.recipe import CONTROLS, CORE_CONTROLS, TRAINED_CONTROLS, check_controls
from rocket_hub.records import Evaluation


def measured(method, correct):
    return Evaluation(method, sum(correct) / len(correct), 0.0, 1.0, tuple(correct))


def right(count, first, total=100):
    """Right from problem `first` on, `count` times."""
    return [0] * first + [1] * count + [0] * (total - first - count)


RECOMMENDED = [
    ([("base", 40), ("stack_trained", 60), (ROUTED, 61)], "stack_trained"),  # six problems won and five lost: noise
    ([("base", 40), ("stack_trained", 60), (ROUTED, 70)], ROUTED),  # fifteen problems won and five lost
    ([("base", 60), ("stack_trained", 60), (ROUTED, 60)], "base"),  # nothing to choose: the cheapest
    ([("base", 61), ("stack_trained", 60), (ROUTED, 50)], "base"),  # the cheapest is best
    ([("base", 40), ("stack_trained", 70), (ROUTED, 50)], "stack_trained"),  # the most expensive is not the best
]


@pytest.mark.parametrize(("counts", "method"), RECOMMENDED)
def test_the_cheapest_within_one_standard_error(counts, method):
    found = recommend([measured(name, right(count, 5 if name == ROUTED else 0)) for name, count in counts])
    assert found.method == method
    best = max(count for _, count in counts)
    said = f"best ({best}.0%)" if dict(counts)[method] == best else f"ahead by {best - dict(counts)[method]}.0%"
    assert said in found.reason


@given(
    st.integers(2, 30).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=1, max_size=6)
    )
)
def test_nothing_cheaper_is_as_good(table):
    evaluations = [measured(name, correct) for name, correct in zip(PRODUCTS, table, strict=False)]
    chosen = PRODUCTS.index(recommend(evaluations).method)
    best = max(evaluations, key=lambda evaluation: evaluation.accuracy)
    gaps = [paired_difference(best, evaluation) for evaluation in evaluations]
    assert gaps[chosen][0] <= gaps[chosen][1]
    assert all(gap > error for gap, error in gaps[:chosen])


def test_what_is_no_product_is_never_recommended():
    evaluations = [measured(name, right(90, 0)) for name in CONTROLS if name not in PRODUCTS]
    found = recommend([measured("base", right(10, 0)), *evaluations, measured(ROUTED, right(50, 0))])
    assert found.method == ROUTED and "50.0%" in found.reason
    assert "--controls core" in recommend([*evaluations, measured(ROUTED, right(50, 0))]).reason


def test_controls_by_name():
    assert check_controls(()) == ()
    assert check_controls(("all",)) == check_controls(("core", "arrow", "all")) == CONTROLS
    assert check_controls(("core",)) == CORE_CONTROLS
    assert check_controls(("xlora", "core")) == (*CORE_CONTROLS[:6], "xlora", "router_only")
    assert len(set(CONTROLS)) == len(CONTROLS) == 20 and {*CORE_CONTROLS, *TRAINED_CONTROLS} < {*CONTROLS}
    assert check_controls(("stack_trained", "base")) == ("base", "stack_trained")  # in the order of cost


@pytest.mark.parametrize("names", [("base", "bse"), ("all", "bse")])
def test_unknown_controls(names):
    with pytest.raises(RecipeError, match=r"unknown control 'bse'.*all, base, best_single"):
        check_controls(names)


@pytest.mark.parametrize("name", ["bse", "core", "all"])
def test_settings_are_of_single_controls(name):
    with pytest.raises(RecipeError, match=rf"evaluate.settings: unknown control '{name}'"):
        check_controls((), (name,))
