"""Choices among measured methods: the one that a build publishes, and the form of the routed adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from cells import TASKS

from rocket_hub.controls.methods import PRODUCTS, ROUTED, ROUTED_FORMS, recommend
from rocket_hub.records import Evaluation

Draws = Mapping[int, np.ndarray]  # draw -> [problems]
Scores = dict[str, dict[str, Draws]]  # label -> task -> draws
Values = Mapping[str, np.ndarray]  # method -> [problems]
PUBLISHES, ON_THE_OTHER_HALF = "what `build` publishes", "the same, chosen on other problems"
EITHER_FORM = "routed, its form chosen on other problems"


def published(scores: Scores) -> Scores:
    """Measure what builds publish: the recommendation of each pair, by the same problems and by the other half."""
    products = {task: {method: scores[method][task] for method in PRODUCTS} for task in TASKS}
    return {
        PUBLISHES: {task: chosen(products[task], lambda values: values[recommended(values)]) for task in TASKS},
        ON_THE_OTHER_HALF: {task: chosen(products[task], partial(crosswise, choose=recommended)) for task in TASKS},
    }


def either_form(scores: Scores, suffix: str = "") -> Scores:
    """Take the form of the routed adapter, all trained or the routers alone, that is better on the other half."""
    taken = {}
    for task in scores[ROUTED + suffix]:
        forms = {form: scores[form + suffix][task] for form in ROUTED_FORMS}
        taken[task] = chosen(forms, partial(crosswise, choose=best))
    return {EITHER_FORM + suffix: taken}


def chosen(measured: Mapping[str, Draws], take: Callable[[Values], np.ndarray]) -> Draws:
    """Apply a choice among methods to each draw that all of them have."""
    shared = set.intersection(*(set(draws) for draws in measured.values()))
    return {draw: take({name: draws[draw] for name, draws in measured.items()}) for draw in sorted(shared)}


def crosswise(values: Values, choose: Callable[[Values], str]) -> np.ndarray:
    """Take each half of the problems from the method that the other half chooses."""
    found = np.empty_like(next(iter(values.values())))
    for mine, others in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        found[mine] = values[choose({name: right[others] for name, right in values.items()})][mine]
    return found


def best(values: Values) -> str:
    """Return the method with the highest mean, the first of equals."""
    return max(values, key=lambda name: float(values[name].mean()))


def recommended(values: Values) -> str:
    """Return the method that `rocket_hub.controls.recommend` recommends."""
    return recommend([
        Evaluation(method, float(right.mean()), 0.0, 1.0, tuple(right.astype(int).tolist()))
        for method, right in values.items()
    ]).method  # fmt: skip
