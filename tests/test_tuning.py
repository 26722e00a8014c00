"""No shot judges what it trained, and the likeliest setting wins."""

import math

import numpy as np
import pytest

from rocket_hub.records import Example, Setting
from rocket_hub.tuning import MIN_SHOTS, Choice, choose, grid

POINTS = (Setting(1e-3, 0.5), Setting(1e-2, 0.5), Setting(1e-2, 1.0))
ROWS = [Example(f"row {n}", "", "") for n in range(3)]


def shots(count):
    return [Example(f"shot {n}", "", str(n)) for n in range(count)]


class Fits:
    """A fit that notes its calls; shot number n scores n / 100 more than the value of its point."""

    def __init__(self, *values):
        self.values = dict(zip(POINTS, values, strict=True))
        self.calls = []

    def __call__(self, setting, training, judges, label):
        self.calls.append((setting, list(training), list(judges), label))
        return np.array([self.values[setting] + int(shot.answer) / 100 for shot in judges])


@pytest.mark.parametrize("count", [MIN_SHOTS, 11, 50])
def test_no_shot_judges_what_it_trained(count):
    fit = Fits(1.0, 1.0, 1.0)
    choose(POINTS, shots(count), ROWS, fit)
    for _, training, judges, _ in fit.calls:
        assert not set(judges) & set(training)
        assert set(judges) | set(training) == {*shots(count), *ROWS}
        assert set(ROWS) <= set(training)
    for point in POINTS:
        judged = [shot for setting, _, judges, _ in fit.calls if setting == point for shot in judges]
        assert sorted(judged, key=lambda shot: int(shot.answer)) == shots(count)
    assert len({label for *_, label in fit.calls}) == len(fit.calls)


def test_the_likeliest_point_wins():
    found = choose(POINTS, shots(12), ROWS, Fits(2.0, 1.5, 1.75))
    assert found.setting == POINTS[1]
    spread = np.arange(12) / 100
    assert found.nll == pytest.approx([value + spread.mean() for value in (2.0, 1.5, 1.75)])
    assert found.standard_error == pytest.approx([spread.std(ddof=1) / math.sqrt(12)] * 3)


@pytest.mark.parametrize(("values", "best"), [((1.0, 1.0, 1.0), 0), ((math.nan, 2.0, 3.0), 1), ((-math.inf, 3, 2), 2)])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_earlier_point_wins_a_tie_and_one_that_diverged_never(values, best):
    assert choose(POINTS, shots(12), ROWS, Fits(*values)).setting == POINTS[best]


@pytest.mark.parametrize(("points", "count"), [(POINTS, MIN_SHOTS - 1), (POINTS[1:2], 50), (POINTS, 0)])
def test_without_a_choice_nothing_is_fitted(points, count):
    fit = Fits(1.0, 1.0, 1.0)
    assert choose(points, shots(count), ROWS, fit) == Choice(points[0])
    assert fit.calls == []


def test_the_grid():
    pairs = [(1e-3, 0.5), (1e-3, 1.0), (1e-2, 0.5), (1e-2, 1.0)]
    assert grid((1e-3, 1e-2), (0.5, 1.0)) == tuple(Setting(*pair) for pair in pairs)
