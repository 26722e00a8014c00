"""Intervals and differences against known numbers; exact match against what the model really says."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocket_hub.base_models import load_base
from rocket_hub.evaluation import evaluate, paired_difference, wilson_interval
from rocket_hub.recipe import EvaluateOptions
from rocket_hub.records import Evaluation, Example
from rocket_hub.tasks import GSM8K

KNOWN = [
    (0, 10, 0.0, 0.2775328),
    (1, 10, 0.0178762, 0.4041500),
    (5, 10, 0.2365931, 0.7634069),
    (10, 10, 0.7224672, 1.0),
    (1, 1, 0.2065493, 1.0),
]


@pytest.mark.parametrize(("correct", "total", "low", "high"), KNOWN)
def test_wilson_interval_of_known_counts(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_where_its_definition_says(counts: tuple[int, int]) -> None:
    correct, total = counts
    share, (low, high) = correct / total, wilson_interval(correct, total)
    assert 0.0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1.0
    # Wilson (1927): the shares p from which the found one is z standard errors of p away
    for end in (low, high):
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / total), rel=1e-4, abs=1e-6)
    mirrored = wilson_interval(total - correct, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("total", [0, -1])
def test_no_interval_without_problems(total: int) -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        wilson_interval(0, total)


PROMPTS = [f"question what is {a} plus {b} ? the answer ####" for a, b in ((1, 2), (3, 4), (5, 2), (0, 0), (9, 8))]
FIRST_WORD = replace(GSM8K, name="first-word", extract=lambda text: (text.split() or [""])[0])


def test_exact_match_is_what_the_model_says(tiny_model: Path) -> None:
    model, tokenizer = load_base(str(tiny_model), None, "float32")
    said = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
        said.append(FIRST_WORD.extract(tokenizer.decode(out, skip_special_tokens=True)))
    assert all(said)
    gold = [*said[:2], "wrong", said[3], "wrong"]
    examples = [Example(prompt, f" {answer}", answer) for prompt, answer in zip(PROMPTS, gold, strict=True)]
    told: list[tuple[int, int]] = []
    options = EvaluateOptions(batch_size=2, max_new_tokens=4)
    found = evaluate(model, tokenizer, FIRST_WORD, examples, options, method="mine", progress=lambda *n: told.append(n))
    assert (found.method, found.correct, found.accuracy) == ("mine", (1, 1, 0, 1, 0), 0.6)
    assert (found.low, found.high) == wilson_interval(3, 5)
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert found.seconds > 0
    assert found.details == {}


def measured(method: str, *correct: int) -> Evaluation:
    return Evaluation(method, sum(correct) / max(len(correct), 1), 0.0, 1.0, correct)


def test_paired_difference_of_known_numbers() -> None:
    one, other = measured("one", 1, 1, 0, 1), measured("other", 0, 1, 0, 0)
    assert paired_difference(one, other) == pytest.approx((0.5, math.sqrt(1 / 3) / 2))
    assert paired_difference(other, one) == pytest.approx((-0.5, math.sqrt(1 / 3) / 2))
    assert paired_difference(one, one) == (0.0, 0.0)


def test_pairing_removes_what_both_find_hard() -> None:
    hard = [1, 0] * 50
    better = [1, *hard[1:-1], 1]
    gap, error = paired_difference(measured("better", *better), measured("hard", *hard))
    assert gap == pytest.approx(0.01)
    assert error < 0.2 * math.sqrt(2 * 0.25 / 100)  # two separate samples would have this one


def test_a_difference_over_one_problem_is_a_number() -> None:
    gap, error = paired_difference(measured("one", 1), measured("other", 0))
    assert gap == 1.0
    assert not math.isnan(error)


@pytest.mark.parametrize(("one", "other"), [((1, 0), (1,)), ((), ())])
def test_other_problems_cannot_be_paired(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'a' and 'b' were not measured on the same problems"):
        paired_difference(measured("a", *one), measured("b", *other))
