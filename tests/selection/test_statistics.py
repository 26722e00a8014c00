import numpy as np
import pytest
from experts_world import evidence, scored

from rocket_hub.records import ExpertScore, Rejection
from rocket_hub.selection import statistics
from rocket_hub.selection.groups import mean_ranks, ranked_groups


def test_a_difference_has_an_error_from_two_shots_on():
    assert statistics.paired(np.array([])) == (None, None)
    assert statistics.paired(np.array([2.0])) == (2.0, None)
    assert statistics.paired(np.array([1.0, 3.0])) == (2.0, 1.0)


def test_one_shot_of_many_is_within_the_noise_and_two_are_not():
    for shots in (10, 37, 50):
        one = np.zeros(shots)
        one[3] = 1
        assert not statistics.beats(one)
        one[4] = 1
        assert statistics.beats(one)
    assert (
        not statistics.beats(np.zeros(50)) and not statistics.beats(-np.ones(50)) and statistics.beats(np.full(50, 0.1))
    )
    # below ten shots any gain counts
    assert statistics.beats(np.array([0, 0, 0.1])) and not statistics.beats(np.array([0, -1, 0.0]))


def test_scores_get_their_shots_and_intervals():
    found = scored(["u/a", "u/b"], [[1, 2, 3], [2, 2, 2]], [[1, 0, 1], [0, 0, 0]], [4, 4, 4], [1, 0, 0])
    (a, b), base = evidence(found)
    assert (a.shots, a.correct, a.nll) == (3, (1, 0, 1), (1, 2, 3))
    assert (a.accuracy_low, a.accuracy_high) == statistics.accuracy_interval(2, 3)
    assert b.accuracy == b.accuracy_low == 0
    assert base is not None and (base.repo_id, base.correct, base.nll) == ("u/base", (1, 0, 0), (4, 4, 4))
    assert base.perplexity == pytest.approx(np.exp(4))
    assert statistics.base_score(scored(["u/a"], [[1.0]], [[1]]), "u/base") is None


def test_those_left_behind_rank_after_the_others_by_how_far_they_came():
    nan = np.nan
    found = statistics.ShotScores(
        ("u/whole", "u/early", "u/late", "u/worse"),
        np.array([[1.0, 1, 1], [2, nan, nan], [3, 3, nan], [4, 4, nan]]),
        np.array([1, 2, 1]),
        np.array([[1, 1, 0], [-1] * 3, [-1] * 3, [-1] * 3]),
        (Rejection("u/early", "halved_out"),),
    )
    behind = statistics.left_behind(found, after=1)
    assert [(s.repo_id, s.shots, s.rank_perplexity, s.rank_accuracy) for s in behind] == [
        ("u/late", 2, 2, 3), ("u/worse", 2, 3, 3), ("u/early", 1, 4, 3)
    ]  # fmt: skip
    assert behind[0].perplexity == pytest.approx((np.exp(3) + np.exp(1.5)) / 2)
    assert all((s.accuracy_low, s.accuracy_high, s.marks) == (0, 1, ("halved_out",)) for s in behind)
    assert statistics.left_behind(scored(["u/a"], [[1.0]], [[1]]), 1) == ()


def test_what_is_clearly_best_is_always_chosen_and_what_is_a_toss_up_is_not():
    rng = np.random.default_rng(0)
    perplexity = np.array([np.full(40, 1.0), 2 + rng.random(40), 2 + rng.random(40), np.full(40, 9.0)])
    correct = np.array([np.ones(40), *(rng.random((2, 40)) < 0.5), np.zeros(40)])
    shares = statistics.chosen_shares(perplexity, correct, np.eye(4), shortlist=3, size=2)
    assert shares[0] == 1 and 0.1 < shares[1] < 0.9 and shares[3] == 0 and shares.sum() == pytest.approx(2)
    assert shares.tolist() == statistics.chosen_shares(perplexity, correct, np.eye(4), 3, 2).tolist()
    assert statistics.chosen_shares(perplexity, correct, np.eye(2), 3, 2).tolist() == [
        1,
        1,
        0,
        0,
    ]  # the others only have ranks


def test_a_resample_is_algorithm_1_on_the_drawn_shots():
    rng = np.random.default_rng(3)
    perplexity, correct = 1 + rng.random((7, 12)), (rng.random((7, 12)) < 0.5).astype(float)
    vectors = rng.normal(size=(7, 4))
    similarity = np.corrcoef(vectors)
    counts, draw = np.zeros(7), np.random.default_rng(5)
    for _ in range(400):
        drawn = draw.integers(12, size=12)
        means = perplexity[:, drawn].mean(axis=1)
        sums = mean_ranks(means) + mean_ranks(-correct[:, drawn].mean(axis=1))
        best = np.sort(np.lexsort((means, sums))[:5])
        counts[best[ranked_groups(sums[best], similarity[np.ix_(best, best)], 3)[0][0]]] += 1
    assert statistics.chosen_shares(perplexity, correct, similarity, 5, 3, seed=5).tolist() == (counts / 400).tolist()


def test_the_winner_is_tried_on_shots_that_did_not_choose_it():
    perplexity = np.ones((2, 6))
    lucky = np.array([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]], dtype=float)  # each is right on one half only
    assert statistics.held_out_accuracy(perplexity, lucky) == 0
    assert lucky.mean(axis=1).tolist() == [0.5, 0.5]
    assert statistics.held_out_accuracy(perplexity, np.ones((2, 6))) == 1
    assert statistics.held_out_accuracy(np.ones((2, 1)), np.ones((2, 1))) is None


def score(name, nll, correct=None):
    nll = np.asarray(nll, dtype=float)
    correct = np.zeros(len(nll), int) if correct is None else np.asarray(correct)
    return ExpertScore(name, 2.0, float(correct.mean()), 1, 1, tuple(nll.tolist()), tuple(correct.tolist()))


RNG = np.random.default_rng(0)
BASE = score("u/base", 3 + 0.5 * RNG.random(20))
BEST = score("u/best", 1 + 0.5 * RNG.random(20))


def said(*others, base=BASE, best=BEST):
    members = [best, *others]
    return statistics.judge(members, members, best, base)


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
    found = statistics.judge([best, other], [best, other], best, base)
    assert found.name == "group"
    assert "3 shots are too few to tell" in found.reason
    assert statistics.judge([best, other], [best, other], best, score("u/base", [0.1] * 3)).name == "none_helps"
    assert said(score("u/other", [2, 2, 2]), best=best, base=base).name == "one_expert"


def test_without_numbers_of_shots_nothing_is_said():
    bare = ExpertScore("u/bare", 2.0, 0.5, 1, 1)
    assert statistics.judge([bare, BEST], [bare, BEST], bare, BASE).name == "group"
    assert statistics.judge([BEST], [BEST], BEST, None).reason.startswith("a group of one")
