import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.records import Example, Rejection
from rocket_hub.selection.filters import GATES, LANGUAGES, ExactDuplicates, Limits, fault_of, other_language
from rocket_hub.selection.screening import survey
from tests.helping import table

PROSE = (
    "The market opens at eight and closes at noon. People come from all over the valley to buy bread and cheese. "
    "Most of them know each other well. The baker sells out before ten, as he always did. "
)


COMPLETIONS = [(row["completion"], row["reason"]) for row in table("selection/completions.jsonl")]
TEXTS = {row["language"]: row["text"] for row in table("selection/languages.jsonl")}


def reason(completion, prompt="Tell me something.", **limits):
    fault = fault_of(Example(prompt, completion, source="u/data", index=3), Limits(**limits))
    return fault.reason if fault else ""


@pytest.mark.parametrize(("completion", "expected"), COMPLETIONS)
def test_sound_completions_pass_and_each_fault_has_its_reason(completion, expected):
    assert reason(completion) == expected


def test_every_filter_has_an_example():
    assert {expected for _, expected in COMPLETIONS if expected} == {*GATES} - {"too_long"}


def test_a_rejection_names_row_reason_and_finding():
    fault = fault_of(Example("p", "I'm sorry, but I can't assist with that.", source="u/data", index=7))
    assert fault == Rejection("u/data#7", "refusal", "I'm sorry, but I")
    assert fault_of(Example("", "answer", source="u/data", index=0)) == Rejection("u/data#0", "empty", "no prompt")
    assert fault_of(Example("What is 2 + 2?", "4", source="u/data", index=1)) is None


def test_a_completion_may_quote_its_prompt():
    question = "How many legs do three cats and two birds have together?"
    assert reason(f"{question} Let us see: sixteen.", question) == "repeats_prompt"
    assert reason(f"You ask: {question} Sixteen.", question) == ""
    assert reason("To dance, move your feet.", "To dance") == ""
    assert reason("yes", "Yes?") == "repeats_prompt"


def test_length_against_the_context():
    asked = []

    def count_tokens(text):
        asked.append(text)
        return len(text.split())

    limits = {"max_tokens": 20, "count_tokens": count_tokens}
    assert reason("short", "p", **limits) == "" and asked == []  # 20 bytes are never more than 20 tokens
    assert reason("several longer words of text", "prompt", **limits) == "" and len(asked) == 1
    assert reason(PROSE, "prompt", **limits) == "too_long"
    assert reason("x" * 40_000) == "too_long"
    assert reason("abc", "de", max_characters=5) == "" and reason("abc", "def", max_characters=5) == "too_long"


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"languages: xx cannot be told.*known are .*en.*an empty list"):
        Limits(languages=("en", "xx"))
    with pytest.raises(InputError, match="count_tokens"):
        Limits(max_tokens=5)


@pytest.mark.parametrize("language", TEXTS)
def test_languages_are_told_apart(language):
    assert {declared for declared in TEXTS if not other_language(TEXTS[language], (declared,))} == {language}
    assert other_language(TEXTS[language], tuple(TEXTS)) == other_language(TEXTS[language], ()) == ""


@pytest.mark.parametrize(
    "text", ["", "42", "Je ne sais pas", "α + β = γ", "x " * 50, "def f(x, y):\n    return x + y\n" * 9]
)
def test_too_little_to_tell_a_language(text):
    assert all(other_language(text, (language,)) == "" for language in LANGUAGES)


def test_chinese_characters_may_be_japanese():
    text = "市场八点开门，中午关门。山谷里的人都来买面包和奶酪，大家互相认识。"
    assert other_language(text, ("en",)) == "Han"
    assert other_language(text, ("ja",)) == other_language(text, ("en", "zh")) == ""


def test_a_translation_is_no_wrong_language():
    asked = "Translate the following text into French, and keep the tone of the letter: "
    assert reason(TEXTS["fr"], asked + PROSE) == ""


def test_exact_duplicates_across_sets():
    texts = [("What is 3 + 4?", "7"), ("What is 3 - 4?", "7"), (" what is\n3 + 4? ", "７"),
             ("What is 3 + 4?", "It is 7"), ("What is 3 + 4?", "7")]  # fmt: skip
    known = ExactDuplicates()
    rows = [Example(*pair, source=f"u/{name}", index=5) for pair, name in zip(texts, "abcde", strict=True)]
    found = [known.fault_of(row) for row in rows]
    first, last = (Rejection(f"u/{name}#5", "duplicate_of", "u/a#5") for name in "ce")
    assert found == [None, None, first, None, last]


PIECES = ("```", "(", "[", "{", ",", "\n", "the ", "word ", "...", "1. ", "- ", ". ", "é", "\ud800", "１", "<", "'")
pieces = st.sampled_from(PIECES)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, max_size=60).map("".join), st.lists(pieces, max_size=20).map("".join))
def test_any_text_can_be_judged(completion, prompt):
    row = Example(prompt, completion, source="u/data", index=0)
    fault = fault_of(row)
    assert fault is None or (fault.reason in GATES and fault.detail)
    assert survey([row, row], [], limits=Limits()).faults.keys() == ({0, 1} if fault else {1})


@settings(max_examples=60, deadline=None)
@given(st.text(string.ascii_letters + string.digits + " +-*/=.,", min_size=1, max_size=30).filter(str.strip))
def test_short_answers_are_never_taken_for_broken_ones(answer):
    assert reason(answer, "Question?") in ("", "repeats_prompt", "placeholder")


@pytest.mark.slow
def test_sound_sets_lose_next_to_nothing(shared_data):
    from tests.benchmarks.contamination import read

    for task in ("gsm8k", "mbpp", "arc_easy", "boolq"):
        rows = [Example(p.question, p.gold, source=task) for p in read(shared_data, task, "train")[:2000]]
        assert [fault for row in rows if (fault := fault_of(row))] == [], task


@pytest.mark.slow
def test_cuts_that_are_found(shared_data):
    """Most cuts cannot be seen; those that can are no accident."""
    from tests.benchmarks.contamination import instruction_rows

    rows = [row for row in instruction_rows(shared_data) if row.source in ("dolly_filtered", "gpteacher_codegen")]
    draw = random.Random(0)
    long = [row for row in rows if len(row.completion.split()) >= 60 and fault_of(row) is None]
    cut = [row.completion[: draw.randrange(len(row.completion) // 2, len(row.completion) - 5)] for row in long]
    found = sum(reason(text, "Tell me more.") == "truncated" for text in cut)
    assert 0.15 < found / len(cut) < 0.6
    assert sum(reason(row.completion) == "truncated" for row in rows) <= 5
