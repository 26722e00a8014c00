from dataclasses import replace

import numpy as np
import pytest

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import ExpertOptions
from rocket_hub.records import ExpertScore
from rocket_hub.selection.experts import select_experts


def score(repo_id, rp, ra, perplexity=2.0):
    return ExpertScore(repo_id, perplexity, 0.5, rp, ra)


def flat(*values):
    """An expert whose update is one row of numbers."""
    return {"q": (np.array([values], dtype=float), np.ones((1, 1)))}


FACTORS = {
    "u/a": flat(1, 0, 0),
    "u/b": flat(1, 0.01, 0),
    "u/c": flat(0, 1, 0),
    "u/d": flat(0, 0, 1),
}
SCORES = [score("u/d", 4, 4), score("u/b", 2, 2), score("u/a", 1, 1), score("u/c", 3, 3)]


def test_diversity_corrects_the_ranks():
    selection = select_experts(SCORES, FACTORS, ExpertOptions(shortlist=3, num_experts=2))
    # {a, b}: ranks 2 + 4, RD 3; {a, c}: 2 + 6, RD 1. The totals are equal, and the better ranks decide.
    assert selection.selected == ("u/a", "u/b")
    closer = [score("u/a", 1, 1), score("u/b", 2, 2), score("u/c", 2, 2)]
    assert select_experts(closer, FACTORS, ExpertOptions(3, 2)).selected == ("u/a", "u/c")


def test_the_selection_says_what_was_left_and_why():
    selection = select_experts(SCORES, FACTORS, ExpertOptions(shortlist=3, num_experts=2))
    assert [(r.item, r.reason) for r in selection.rejected] == [
        ("u/c", "not_in_best_group"),
        ("u/d", "not_in_shortlist"),
    ]
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
    assert select_experts(SCORES, FACTORS, ExpertOptions(4, 2, "paper")).diversity == pytest.approx(
        2
    )  # every A apart, all B alike
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
