from dataclasses import replace

import numpy as np
import pytest
from experts_world import adapter, evidence, reseeded, scaled, scored, turned
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import ExpertOptions
from rocket_hub.records import ExpertScore
from rocket_hub.selection.experts import select_experts


def score(repo_id, rp, ra, perplexity=2.0):
    return ExpertScore(repo_id, perplexity, 0.5, rp, ra)


def flat(*values):
    """An expert whose update is one row of numbers."""
    return {"q": (np.array([values], dtype=float), np.ones((1, 1)))}


FACTORS = {"u/a": flat(1, 0, 0), "u/b": flat(1, 0.01, 0), "u/c": flat(0, 1, 0), "u/d": flat(0, 0, 1)}
SCORES = [score("u/d", 4, 4), score("u/b", 2, 2), score("u/a", 1, 1), score("u/c", 3, 3)]


def test_diversity_corrects_the_ranks():
    selection = select_experts(SCORES, FACTORS, ExpertOptions(shortlist=3, num_experts=2))
    # {a, b}: ranks 2 + 4, RD 3; {a, c}: 2 + 6, RD 1. The totals are equal, and the better ranks decide.
    assert selection.selected == ("u/a", "u/b")
    closer = [score("u/a", 1, 1), score("u/b", 2, 2), score("u/c", 2, 2)]
    assert select_experts(closer, FACTORS, ExpertOptions(3, 2)).selected == ("u/a", "u/c")


def test_the_selection_says_what_was_left_and_why():
    selection = select_experts(SCORES, FACTORS, ExpertOptions(shortlist=3, num_experts=2))
    reasons = {r.item: r.reason for r in selection.rejected}
    assert reasons == {"u/c": "not_in_best_group", "u/d": "not_in_shortlist"}
    assert "rank sum 6" in selection.rejected[0].detail
    assert [s.repo_id for s in selection.scores] == ["u/a", "u/b", "u/c", "u/d"]
    assert selection.best_single == "u/a"
    assert selection.diversity == pytest.approx(1, abs=1e-3)


def test_order_of_input_does_not_matter_and_ties_fall_to_perplexity_then_name():
    tied = [score("u/c", 2, 2), score("u/b", 2, 2), score("u/a", 2, 2, perplexity=3.0)]
    options = ExpertOptions(shortlist=2, num_experts=2)
    assert select_experts(tied, FACTORS, options).selected == ("u/b", "u/c")
    assert select_experts(tied, FACTORS, options) == select_experts(tied[::-1], FACTORS, options)


def test_fewer_candidates_than_experts_are_all_taken():
    selection = select_experts(SCORES[:2], FACTORS, ExpertOptions())
    assert selection.selected == ("u/b", "u/d") and not selection.rejected
    assert select_experts(SCORES[:1], FACTORS, ExpertOptions()).diversity == 1


def test_only_the_shortlist_needs_factors():
    some = {repo_id: FACTORS[repo_id] for repo_id in ("u/a", "u/b")}
    assert select_experts(SCORES, some, ExpertOptions(shortlist=2, num_experts=1)).selected == ("u/a",)
    with pytest.raises(InputError, match="u/c"):
        select_experts(SCORES, some, ExpertOptions(shortlist=3, num_experts=1))


def test_nothing_to_choose_from():
    with pytest.raises(NothingLeftError):
        select_experts([], {}, ExpertOptions())


def test_the_papers_diversity_is_an_option():
    found = select_experts(SCORES, FACTORS, ExpertOptions(4, 2, "paper"))
    assert found.diversity == pytest.approx(2)  # every A apart, all B alike
    odd = {**FACTORS, "u/a": {"v": FACTORS["u/a"]["q"]}}
    with pytest.raises(InputError, match="delta_w"):
        select_experts(SCORES, odd, ExpertOptions(4, 2, "paper"))


def seen(repo_id, rp, ra, nll, correct):
    return replace(score(repo_id, rp, ra, float(np.exp(nll).mean())), nll=tuple(nll), correct=tuple(correct))


def test_the_shots_say_how_sure_the_choice_is():
    rng = np.random.default_rng(0)
    rows = {name: 1 + place + rng.random(12) for place, name in enumerate(FACTORS)}
    scores = [seen(name, place, place, row.tolist(), [1] * (4 - place) + [0] * (8 + place))
              for place, (name, row) in enumerate(rows.items(), 1)]  # fmt: skip
    found = select_experts(scores, FACTORS, ExpertOptions(shortlist=4, num_experts=2, follow_verdict=False))
    assert found.group == found.selected == ("u/a", "u/c")
    assert found.runner_up == ("u/a", "u/b")  # likelier, but nearly the same update
    gap = (rows["u/b"] - rows["u/c"]) / 2
    assert found.lead == pytest.approx(gap.mean())
    assert found.lead_error == pytest.approx(gap.std(ddof=1) / np.sqrt(12))
    assert found.ties == ()
    shares = {each.repo_id: each.chosen_share for each in found.scores}
    assert shares["u/a"] == 1 and sum(shares.values()) == pytest.approx(2)
    assert found.held_out_accuracy == pytest.approx(3 / 12)
    assert {each.repo_id: each.similarity for each in found.scores}["u/b"] == pytest.approx(0.5, abs=0.01)
    assert found.scores[1].marks == ("like u/a",)
    assert found.verdict == "one_expert"
    followed = select_experts(scores, FACTORS, ExpertOptions(shortlist=4, num_experts=2))
    assert (followed.selected, followed.group) == (("u/a",), ("u/a", "u/c"))
    assert {r.item: r.reason for r in followed.rejected}["u/c"] == "verdict"


def test_what_a_rule_without_meaning_decided_is_said():
    equal = [score(name, 2, 2) for name in ("u/a", "u/c", "u/d")]
    found = select_experts(equal, FACTORS, ExpertOptions(shortlist=3, num_experts=2))
    assert found.selected == ("u/a", "u/c")
    assert found.ties == ("u/d",)
    assert found.lead is None and found.scores[0].chosen_share is None  # nothing is known of the shots


def test_behaviour_is_an_option():
    nll = [1.0] * 4
    scores = [seen("u/a", 1, 1, nll, [1, 1, 0, 0]), seen("u/b", 2, 2, nll, [1, 1, 0, 0]),
              seen("u/c", 2, 2, nll, [0, 0, 1, 1])]  # fmt: skip
    found = select_experts(scores, FACTORS, ExpertOptions(3, 2, "behaviour"))
    assert found.selected == ("u/a", "u/c")
    with pytest.raises(InputError, match=r"behaviour.*delta_w"):
        select_experts(SCORES, FACTORS, ExpertOptions(3, 2, "behaviour"))


def test_the_papers_diversity_keeps_duplicates_and_compares_what_it_can():
    same = {"u/a": FACTORS["u/a"], "u/b": FACTORS["u/a"], "u/c": {"v": FACTORS["u/c"]["q"]}, "u/d": FACTORS["u/d"]}
    scores = [score("u/a", 1, 1), score("u/b", 1, 1), score("u/d", 9, 9), score("u/c", 9, 9.5)]
    assert select_experts(scores, same, ExpertOptions(3, 2, "paper")).selected == ("u/a", "u/b")
    assert select_experts(scores, same, ExpertOptions(3, 2)).selected == ("u/a", "u/d")


# Planted banks: each kind of adapter is handled as its nature demands.
SEEDS = st.integers(0, 10**6)
few = settings(max_examples=25, deadline=None)
SHOTS = 30


def skilled(rng, count):
    """Experts that are better than the base (2 nats, never right) on all shots, each best on some."""
    nll = 1.0 + 0.2 * rng.random((count, SHOTS)) - 0.5 * (np.arange(SHOTS) % count == np.arange(count)[:, None])
    return nll, (rng.random((count, SHOTS)) < 0.5).astype(int)


def planted(names, factors, nll, correct, **options):
    base_nll = np.full(SHOTS, 2.0)
    scores, base = evidence(scored(names, nll, correct, base_nll, np.zeros(SHOTS)))
    return select_experts(scores, factors, ExpertOptions(**options), base=base)


@few
@given(SEEDS)
def test_a_duplicate_in_other_factors_is_never_chosen_beside_its_original(seed):
    rng = np.random.default_rng(seed)
    nll, correct = skilled(rng, 4)
    factors = {f"u/{name}": adapter(rng) for name in "abcd"}
    factors["u/copy"] = turned(rng, factors["u/a"])
    names = list(factors)
    found = planted(names, factors, [*nll, nll[0]], [*correct, correct[0]], num_experts=3)
    assert not {"u/a", "u/copy"} <= set(found.selected)
    assert len(found.selected) == 3
    assert [r.item for r in found.rejected if r.reason == "duplicate"] == ["u/copy"]  # names decide between equals
    assert next(score for score in found.scores if score.repo_id == "u/copy").marks == ("like u/a",)


@few
@given(SEEDS, st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_of_an_adapter_and_its_scaled_copy_the_better_strength_stays(seed, factor):
    rng = np.random.default_rng(seed)
    nll, correct = skilled(rng, 3)
    factors = {f"u/{name}": adapter(rng) for name in "abc"}
    factors["u/scaled"] = scaled(factors["u/a"], factor)
    worse = rng.random() < 0.5
    nll = [*nll, nll[0] + (0.1 if worse else -0.1)]
    found = planted(list(factors), factors, nll, [*correct, correct[0]], num_experts=3)
    lost, kept = ("u/scaled", "u/a") if worse else ("u/a", "u/scaled")
    assert set(found.selected) == {kept, "u/b", "u/c"}
    assert [(r.item, r.reason) for r in found.rejected] == [(lost, "duplicate")]
    assert kept in found.rejected[0].detail


@few
@given(SEEDS)
def test_of_equals_a_copy_with_another_seed_is_the_one_left_out(seed):
    """It is no duplicate, and all rank alike: diversity alone decides."""
    rng = np.random.default_rng(seed)
    factors = {f"u/{name}": adapter(rng) for name in "ab"}
    factors["u/reseeded"] = reseeded(rng, factors["u/a"])
    row, right = 1 + 0.2 * rng.random(SHOTS), (rng.random(SHOTS) < 0.5).astype(int)
    found = planted(list(factors), factors, [row] * 3, [right] * 3, num_experts=2, follow_verdict=False)
    assert len(found.selected) == 2
    assert "u/b" in found.selected
    assert {r.reason for r in found.rejected} == {"not_in_best_group"}


@few
@given(SEEDS)
def test_a_blind_guesser_is_seen_as_one(seed):
    """It knows the form, so it is likelier than the base; but it is right no more often than that."""
    rng = np.random.default_rng(seed)
    nll, correct = skilled(rng, 4)
    guessed = np.zeros(SHOTS, dtype=int)
    guessed[rng.integers(SHOTS)] = 1
    factors = {f"u/{name}": adapter(rng) for name in ("a", "b", "c", "d", "guesser")}
    found = planted(list(factors), factors, [*nll, np.full(SHOTS, 1.5)], [*correct, guessed], num_experts=4)
    marks = {score.repo_id: score.marks for score in found.scores}
    assert marks == {"u/guesser": ("not_righter",), "u/a": (), "u/b": (), "u/c": (), "u/d": ()}
    assert found.scores[-1].repo_id == "u/guesser"
    assert found.best_single != "u/guesser"
    assert found.verdict == "group"
    assert all(score.chosen_share is not None for score in found.scores)


@few
@given(SEEDS)
def test_guessers_alone_help_nothing(seed):
    rng = np.random.default_rng(seed)
    factors = {f"u/{name}": adapter(rng) for name in "abc"}
    nll = 2.1 + 0.2 * rng.random((3, SHOTS))
    found = planted(list(factors), factors, nll, np.zeros((3, SHOTS), int), num_experts=2)
    assert (found.verdict, found.selected, len(found.group)) == ("none_helps", (), 2)
    assert all(score.marks == ("not_likelier", "not_righter") for score in found.scores)
    assert {r.item for r in found.rejected if r.reason == "verdict"} == set(found.group)
    kept = planted(list(factors), factors, nll, np.zeros((3, SHOTS), int), num_experts=2, follow_verdict=False)
    assert kept.selected == kept.group == found.group
    assert kept.verdict == "none_helps"


@few
@given(SEEDS)
def test_one_that_is_best_everywhere_is_enough(seed):
    rng = np.random.default_rng(seed)
    nll, _ = skilled(rng, 3)
    nll[0] = nll.min(axis=0) - 0.1
    right = np.zeros((3, SHOTS), int)
    right[0, : SHOTS // 2] = 1
    factors = {f"u/{name}": adapter(rng) for name in "abc"}
    found = planted(list(factors), factors, nll, right, num_experts=2)
    assert (found.verdict, found.selected) == ("one_expert", ("u/a",))
    assert "u/a" in found.group and len(found.group) == 2
    assert found.gain == 0
    assert "one expert is enough" in found.reason
