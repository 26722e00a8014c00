import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import SandboxError, TaskError
from rocket_hub.evaluation import bootstrap_difference, evaluate, paired_difference
from rocket_hub.inference import generate, option_nll
from rocket_hub.inference.generation import until
from rocket_hub.inference.models import load_base
from rocket_hub.options import EvaluateOptions
from rocket_hub.pipeline.context import check_measurable
from rocket_hub.records import Evaluation, Example
from rocket_hub.selection.statistics import accuracy_interval
from rocket_hub.tasks import ARC_EASY, BOOLQ, GSM8K, MBPP


@pytest.fixture
def loaded(tiny_model):
    """A model and its tokenizer."""
    return load_base(str(tiny_model), None)


KNOWN = [(0, 10, 0.0, 0.2775328), (1, 10, 0.0178762, 0.4041500), (5, 10, 0.2365931, 0.7634069),
         (10, 10, 0.7224672, 1.0), (1, 1, 0.2065493, 1.0)]  # fmt: skip


@pytest.mark.parametrize(("correct", "total", "low", "high"), KNOWN)
def test_wilson_interval_of_known_counts(correct, total, low, high):
    assert accuracy_interval(correct, total) == pytest.approx((low, high), abs=1e-6)
    assert (accuracy_interval(0, 50)[0], accuracy_interval(50, 50)[1]) == accuracy_interval(0, 0) == (0, 1)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_where_its_definition_says(counts):
    correct, total = counts
    share, (low, high) = correct / total, accuracy_interval(correct, total)
    assert 0.0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1.0
    # Wilson (1927): the shares p from which the found one is z standard errors of p away
    for end in (low, high):
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / total), rel=1e-4, abs=1e-6)
    mirrored = accuracy_interval(total - correct, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


PROMPTS = [f"question what is {a} plus {b} ? the answer ####" for a, b in ((1, 2), (3, 4), (5, 2), (0, 0), (9, 8))]
FIRST_WORD = replace(GSM8K, name="first-word", extract=lambda text: (text.split() or [""])[0], guess=None, stop=())


def test_exact_match_is_what_the_model_says(loaded):
    model, tokenizer = loaded
    said = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
        said.append(FIRST_WORD.extract(tokenizer.decode(out, skip_special_tokens=True)))
    assert all(said)
    gold = [*said[:2], "wrong", said[3], "wrong"]
    examples = [Example(prompt, f" {answer}", answer) for prompt, answer in zip(PROMPTS, gold, strict=True)]
    told = []
    options = EvaluateOptions(batch_size=2, max_new_tokens=4)
    found = evaluate(model, tokenizer, FIRST_WORD, examples, options, method="mine", progress=lambda *n: told.append(n))
    assert (found.method, found.correct, found.accuracy) == ("mine", (1, 1, 0, 1, 0), 0.6)
    assert (found.low, found.high) == accuracy_interval(3, 5)
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert found.seconds > 0
    assert found.details == {}


def forwards(model):
    """Count the calls of a model from now on."""
    forward, calls = model.forward, []
    model.forward = lambda *a, **k: (calls.append(k["input_ids"].shape), forward(*a, **k))[1]
    return calls


def problems(count):
    return [Example(f"question what is {i % 10} plus {i // 10} ? the answer ####", " 1", "1") for i in range(count)]


def test_a_killed_run_goes_on_and_ends_equal(loaded, tmp_path):
    model, tokenizer = loaded
    options, kept = EvaluateOptions(batch_size=4, max_new_tokens=6), tmp_path / "deep" / "answers.jsonl"
    asked = problems(22)
    whole = evaluate(model, tokenizer, FIRST_WORD, asked, options, kept=kept)
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == 22
    assert all(set(json.loads(line)) == {"problem", "result"} for line in lines)

    def kill(done, total):
        if done == 12:
            raise KeyboardInterrupt

    kept.unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tokenizer, FIRST_WORD, asked, options, kept=kept, progress=kill)
    assert kept.read_bytes() == b"".join(lines[:12])
    kept.write_bytes(b"".join(lines[:11]) + lines[11][:-20])  # killed in the middle of a line
    calls = forwards(model)
    again = evaluate(model, tokenizer, FIRST_WORD, asked, options, kept=kept)
    assert (again.correct, again.accuracy) == (whole.correct, whole.accuracy)
    assert 0 < len(calls) <= 4 * 6  # four of six batches: the torn one and three that never ran
    assert {line for line in kept.read_bytes().splitlines(keepends=True) if line.endswith(b"}\n")} >= set(lines)
    calls.clear()
    assert evaluate(model, tokenizer, FIRST_WORD, asked, options, kept=kept).correct == whole.correct
    assert calls == []
    longer = replace(options, max_new_tokens=7)  # other answers
    evaluate(model, tokenizer, FIRST_WORD, asked, longer, kept=kept)
    assert calls


def test_what_a_stop_text_cuts_is_what_would_have_been_cut(loaded):
    prompts = [example.prompt for example in problems(9)]
    free = generate(*loaded, prompts, max_new_tokens=40, batch_size=4)
    for marks in (("plus",), ("= 3", "what"), (free[0][len(free[0]) // 2 :][:9], ""), ("never said",)):
        found = generate(*loaded, prompts, max_new_tokens=40, batch_size=4, stop=marks)
        assert found == [until(text, marks) for text in free]
        assert not any(mark in text for mark in marks if mark for text in found)


def test_a_batch_ends_when_all_its_rows_have_stopped(loaded):
    model, tokenizer = loaded
    prompts = [example.prompt for example in problems(4)]
    first = {text.split()[2] for text in generate(model, tokenizer, prompts, max_new_tokens=3)}
    calls = forwards(model)
    generate(model, tokenizer, prompts, max_new_tokens=60, stop=tuple(first))
    assert len(calls) == 4  # the third token ends all; it is looked for every fourth


def choice(number, answer):
    raw = Example(f"what is {number} plus 1 ?", "", answer, choices=("1", "2 + 3", "5 = 5"))
    return ARC_EASY.example(raw)


def test_likelihood_is_that_of_the_options(loaded):
    asked = [choice(number, "ABC"[number % 3]) for number in range(9)]
    scores = option_nll(*loaded, [ARC_EASY.options(each) for each in asked])
    right = [ARC_EASY.choice_index(each) for each in asked]
    expected = {
        name: tuple(int(score.chosen(per) == at) for score, at in zip(scores, right, strict=True))
        for name, per in (("acc", "nothing"), ("acc_norm", "characters"))
    }
    both = evaluate(*loaded, ARC_EASY, asked, EvaluateOptions(scoring="both", batch_size=4, max_new_tokens=4))
    for name, correct in expected.items():
        assert both.details[name]["correct"] == correct
        assert (both.details[name]["low"], both.details[name]["high"]) == accuracy_interval(sum(correct), 9)
    alone = EvaluateOptions(scoring="likelihood", batch_size=4)
    assert evaluate(*loaded, ARC_EASY, asked, alone).correct == expected["acc_norm"]
    written = evaluate(*loaded, ARC_EASY, asked, EvaluateOptions(batch_size=4, max_new_tokens=4))
    assert written.correct == both.correct
    assert written.details == {}


def test_yes_and_no_are_not_divided_by_their_length(loaded):
    asked = [BOOLQ.example(Example(f"{i} is {i} .\nQuestion: is {i} 3 ?", "", "yes")) for i in range(10)]
    found = evaluate(*loaded, BOOLQ, asked, EvaluateOptions(scoring="likelihood"))
    assert found.correct == found.details["acc"]["correct"]


def test_what_cannot_be_measured_is_said_before_anything_is_computed(loaded):
    with pytest.raises(TaskError, match="no option likelihood; generate instead"):
        evaluate(*loaded, GSM8K, problems(2), EvaluateOptions(scoring="both"))
    with pytest.raises(TaskError, match="no problems to measure on"):
        evaluate(*loaded, GSM8K, [], EvaluateOptions())
    with pytest.raises(SandboxError, match="--allow-code-execution"):
        check_measurable(MBPP, EvaluateOptions())
    check_measurable(GSM8K, EvaluateOptions())


def test_programs_are_run_where_it_is_allowed(loaded):
    raw = Example("plus", "x = 1", "x = 1", tests=("assert x == 1",))
    options = EvaluateOptions(allow_code_execution=True, max_new_tokens=2)
    try:
        found = evaluate(*loaded, MBPP, [MBPP.example(raw)], options)
    except SandboxError as error:
        pytest.skip(f"this machine isolates nothing: {error}")
    assert found.correct == (0,)
    assert sum(found.details["reasons"].values()) == 1


def measured(method, *correct):
    return Evaluation(method, sum(correct) / max(len(correct), 1), 0.0, 1.0, correct)


KNOWN_GAPS = [
    ((1, 1, 0, 1), (0, 1, 0, 0), 0.5, math.sqrt(1 / 3) / 2),
    ((0, 1, 0, 0), (1, 1, 0, 1), -0.5, math.sqrt(1 / 3) / 2),
    ((1, 1, 0, 1), (1, 1, 0, 1), 0.0, 0.0),
    ((1,), (0,), 1.0, math.inf),
]


@pytest.mark.parametrize(("one", "other", "gap", "error"), KNOWN_GAPS)
def test_paired_difference_of_known_numbers(one, other, gap, error):
    assert paired_difference(measured("one", *one), measured("other", *other)) == pytest.approx((gap, error))


def test_pairing_removes_what_both_find_hard():
    hard = [1, 0] * 50
    better = [1, *hard[1:-1], 1]
    gap, error = paired_difference(measured("better", *better), measured("hard", *hard))
    assert gap == pytest.approx(0.01)
    assert error < 0.2 * math.sqrt(2 * 0.25 / 100)  # two separate samples would have this one


@pytest.mark.parametrize(("one", "other"), [((1, 0), (1,)), ((), ())])
def test_other_problems_cannot_be_paired(one, other):
    for difference in (paired_difference, bootstrap_difference):
        with pytest.raises(ValueError, match="'a' and 'b' were not measured on the same problems"):
            difference(measured("a", *one), measured("b", *other))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=60))
@settings(max_examples=25, deadline=None)
def test_the_bootstrap_interval_holds_the_difference_and_turns_with_it(pairs):
    one, other = (measured(name, *values) for name, values in zip("ab", zip(*pairs, strict=True), strict=True))
    low, high = bootstrap_difference(one, other)
    gap, _ = paired_difference(one, other)
    assert -1 <= low <= gap + 1e-12 <= high + 2e-12 <= 1 + 1e-9
    assert (low, high) == bootstrap_difference(one, other)  # seeded
    turned = bootstrap_difference(other, one)
    assert (-turned[1], -turned[0]) == pytest.approx((low, high), abs=2.1 / len(pairs))  # within a step of its own


def test_the_bootstrap_is_the_one_that_draws_problems():
    one = measured("one", *[1, 1, 0, 1, 0, 1, 1, 0, 1, 0] * 12)
    other = measured("other", *[0, 1, 0, 1, 1, 0, 1, 0, 0, 0] * 12)
    gaps = np.array(one.correct) - np.array(other.correct)
    drawn = np.random.default_rng(1).integers(len(gaps), size=(10_000, len(gaps)))
    slow = np.percentile(gaps[drawn].mean(axis=1), [2.5, 97.5])
    assert bootstrap_difference(one, other) == pytest.approx(slow, abs=0.012)
    gap, error = paired_difference(one, other)
    assert bootstrap_difference(one, other) == pytest.approx((gap - 1.96 * error, gap + 1.96 * error), abs=0.015)
