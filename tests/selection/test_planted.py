"""Planted banks: each kind of adapter is handled as its nature demands."""

import numpy as np
from experts_world import adapter, evidence, reseeded, scaled, scored, turned
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.options import ExpertOptions
from rocket_hub.selection.experts import select_experts

SEEDS = st.integers(0, 10**6)
SHOTS = 30


def skilled(rng, count):
    """Experts that are better than the base (2 nats, never right) on all shots, each best on some."""
    nll = 1.0 + 0.2 * rng.random((count, SHOTS)) - 0.5 * (np.arange(SHOTS) % count == np.arange(count)[:, None])
    return nll, (rng.random((count, SHOTS)) < 0.5).astype(int)


def select(names, factors, nll, correct, **options):
    base_nll = np.full(SHOTS, 2.0)
    scores, base = evidence(scored(names, nll, correct, base_nll, np.zeros(SHOTS)))
    return select_experts(scores, factors, ExpertOptions(**options), base=base)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_a_duplicate_in_other_factors_is_never_chosen_beside_its_original(seed):
    rng = np.random.default_rng(seed)
    nll, correct = skilled(rng, 4)
    factors = {f"u/{name}": adapter(rng) for name in "abcd"}
    factors["u/copy"] = turned(rng, factors["u/a"])
    names = list(factors)
    found = select(names, factors, [*nll, nll[0]], [*correct, correct[0]], num_experts=3)
    assert not {"u/a", "u/copy"} <= set(found.selected)
    assert len(found.selected) == 3
    assert [r.item for r in found.rejected if r.reason == "duplicate"] == ["u/copy"]  # names decide between equals
    assert next(score for score in found.scores if score.repo_id == "u/copy").marks == ("like u/a",)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_of_an_adapter_and_its_scaled_copy_the_better_strength_stays(seed, factor):
    rng = np.random.default_rng(seed)
    nll, correct = skilled(rng, 3)
    factors = {f"u/{name}": adapter(rng) for name in "abc"}
    factors["u/scaled"] = scaled(factors["u/a"], factor)
    worse = rng.random() < 0.5
    nll = [*nll, nll[0] + (0.1 if worse else -0.1)]
    found = select(list(factors), factors, nll, [*correct, correct[0]], num_experts=3)
    lost, kept = ("u/scaled", "u/a") if worse else ("u/a", "u/scaled")
    assert set(found.selected) == {kept, "u/b", "u/c"}
    assert [(r.item, r.reason) for r in found.rejected] == [(lost, "duplicate")]
    assert kept in found.rejected[0].detail


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_of_equals_a_copy_with_another_seed_is_the_one_left_out(seed):
    """It is no duplicate, and all rank alike: diversity alone decides."""
    rng = np.random.default_rng(seed)
    factors = {f"u/{name}": adapter(rng) for name in "ab"}
    factors["u/reseeded"] = reseeded(rng, factors["u/a"])
    row, right = 1 + 0.2 * rng.random(SHOTS), (rng.random(SHOTS) < 0.5).astype(int)
    found = select(list(factors), factors, [row] * 3, [right] * 3, num_experts=2, follow_verdict=False)
    assert len(found.selected) == 2
    assert "u/b" in found.selected
    assert {r.reason for r in found.rejected} == {"not_in_best_group"}


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_a_blind_guesser_is_seen_as_one(seed):
    """It knows the form, so it is likelier than the base; but it is right no more often than that."""
    rng = np.random.default_rng(seed)
    nll, correct = skilled(rng, 4)
    guessed = np.zeros(SHOTS, dtype=int)
    guessed[rng.integers(SHOTS)] = 1
    factors = {f"u/{name}": adapter(rng) for name in ("a", "b", "c", "d", "guesser")}
    found = select(list(factors), factors, [*nll, np.full(SHOTS, 1.5)], [*correct, guessed], num_experts=4)
    marks = {score.repo_id: score.marks for score in found.scores}
    assert marks == {"u/guesser": ("not_righter",), "u/a": (), "u/b": (), "u/c": (), "u/d": ()}
    assert found.scores[-1].repo_id == "u/guesser"
    assert found.best_single != "u/guesser"
    assert found.verdict == "group"
    assert all(score.chosen_share is not None for score in found.scores)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_guessers_alone_help_nothing(seed):
    rng = np.random.default_rng(seed)
    factors = {f"u/{name}": adapter(rng) for name in "abc"}
    nll = 2.1 + 0.2 * rng.random((3, SHOTS))
    found = select(list(factors), factors, nll, np.zeros((3, SHOTS), int), num_experts=2)
    assert (found.verdict, found.selected, len(found.group)) == ("none_helps", (), 2)
    assert all(score.marks == ("not_likelier", "not_righter") for score in found.scores)
    assert {r.item for r in found.rejected if r.reason == "verdict"} == set(found.group)
    kept = select(list(factors), factors, nll, np.zeros((3, SHOTS), int), num_experts=2, follow_verdict=False)
    assert kept.selected == kept.group == found.group
    assert kept.verdict == "none_helps"


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_one_that_is_best_everywhere_is_enough(seed):
    rng = np.random.default_rng(seed)
    nll, _ = skilled(rng, 3)
    nll[0] = nll.min(axis=0) - 0.1
    right = np.zeros((3, SHOTS), int)
    right[0, : SHOTS // 2] = 1
    factors = {f"u/{name}": adapter(rng) for name in "abc"}
    found = select(list(factors), factors, nll, right, num_experts=2)
    assert (found.verdict, found.selected) == ("one_expert", ("u/a",))
    assert "u/a" in found.group and len(found.group) == 2
    assert found.gain == 0
    assert "one expert is enough" in found.reason
