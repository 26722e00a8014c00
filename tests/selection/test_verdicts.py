import numpy as np
import pytest

from rocket_hub.records import ExpertScore
from rocket_hub.selection.statistics import judge


def score(name, nll, correct=None):
    nll = np.asarray(nll, dtype=float)
    correct = np.zeros(len(nll), int) if correct is None else np.asarray(correct)
    return ExpertScore(name, 2.0, float(correct.mean()), 1, 1, tuple(nll.tolist()), tuple(correct.tolist()))


RNG = np.random.default_rng(0)
BASE = score("u/base", 3 + 0.5 * RNG.random(20))
BEST = score("u/best", 1 + 0.5 * RNG.random(20))


def said(*others, base=BASE, best=BEST):
    members = [best, *others]
    return judge(members, members, best, base)


def test_experts_that_are_best_on_different_shots_are_a_group():
    other = score("u/other", np.where(np.arange(20) % 2, 0.5, 2.0))
    found = said(other)
    gains = np.maximum(np.subtract(BEST.nll, other.nll), 0)
    assert found.name == "group"
    assert found.gain == pytest.approx(gains.mean())
    assert found.gain_error == pytest.approx(gains.std(ddof=1) / np.sqrt(20))
    assert f"{found.gain:.4f} ± {found.gain_error:.4f} nats a token over u/best" in found.reason
    assert "no expert of the group answers more" in found.reason


def test_one_that_the_others_never_beat_is_enough():
    found = said(score("u/other", np.add(BEST.nll, 0.1)))
    assert (found.name, found.gain) == ("one_expert", 0)
    once = np.add(BEST.nll, 0.1)
    once[4] -= 0.5
    assert said(score("u/other", once)).name == "one_expert"  # one shot of twenty is noise


def test_answers_that_only_others_get_right_keep_them():
    right = np.zeros(20, int)
    right[:3] = 1
    found = said(score("u/other", np.add(BEST.nll, 0.1), right))
    assert found.name == "group"
    assert "no expert of the group answers more" not in found.reason


def test_a_gain_below_what_is_known_of_the_one_is_said():
    found = said(score("u/other", np.add(BEST.nll, RNG.normal(0, 0.01, 20))))
    assert found.name == "group"
    assert "one expert may do as well" in found.reason


def test_none_helps_needs_neither_likelihood_nor_answers_above_the_base():
    worse = score("u/worse", np.add(BASE.nll, 0.1))
    found = said(score("u/far", np.add(BASE.nll, 1.0)), best=worse)
    assert found.name == "none_helps"
    assert "the likeliest, u/worse, gains -0.1000 ± 0.0000 nats a token and answers 0 right, the base 0" in found.reason
    right = np.zeros(20, int)
    right[:2] = 1
    assert said(score("u/right", np.add(BASE.nll, 1.0), right), best=worse).name != "none_helps"
    assert said(score("u/far", np.add(BASE.nll, 1.0)), best=worse, base=None).name == "one_expert"


def test_few_shots_are_said_to_be_few_unless_it_is_blatant():
    best, other = score("u/best", [1, 1, 1.0]), score("u/other", [1.1, 0.9, 1.1])
    base = score("u/base", [0.9, 1.05, 0.9])
    found = judge([best, other], [best, other], best, base)
    assert found.name == "group"
    assert "3 shots are too few to tell" in found.reason
    assert judge([best, other], [best, other], best, score("u/base", [0.1] * 3)).name == "none_helps"
    assert said(score("u/other", [2, 2, 2]), best=best, base=base).name == "one_expert"


def test_without_numbers_of_shots_nothing_is_said():
    bare = ExpertScore("u/bare", 2.0, 0.5, 1, 1)
    assert judge([bare, BEST], [bare, BEST], bare, BASE).name == "group"
    assert judge([BEST], [BEST], BEST, None).reason.startswith("a group of one")
