"""Answers as models really write them: `sloppy/TASK.jsonl` has one text a line, what kind it is and what it says."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.records import Example
from rocket_hub.sandbox import run_programs
from rocket_hub.tasks import ARC_CHALLENGE, BOOLQ, GSM8K, MBPP, PIQA, get_task
from tests.helping import table

PLANETS = (
    "Planetary density will decrease.",
    "Planetary years will become longer.",
    "Planetary days will become shorter.",
    "Planetary gravity will become stronger.",
)
WAYS = ("pour it into a jar", "pour it into a sieve")
OPTIONS = {  # of rows that bring none of their own
    "gsm8k": (),
    "arc_challenge": PLANETS,
    "arc_easy": ("sand", "granite", "a diamond", "chalk"),
    "piqa": WAYS,
    "boolq": ("no", "yes"),
}


CASES = [
    pytest.param(name, row, id=f"{name}-{row['kind']}")
    for name in OPTIONS
    for row in table(f"tasks/sloppy/{name}.jsonl")
]


@pytest.mark.parametrize(("name", "row"), CASES)
def test_what_a_text_says(name, row):
    problem = Example("", "", "", choices=tuple(row.get("choices", OPTIONS[name])))
    assert get_task(name).read_answer(row["text"], problem) == row["answer"]


def test_every_task_has_twenty_kinds_and_answers_that_stay_unread():
    for name in OPTIONS:
        rows = table(f"tasks/sloppy/{name}.jsonl")
        read = {row["text"] for row in rows if row["answer"]}
        assert len(read) >= 20 and sum(row["answer"] == "" for row in rows) >= 3, name
        assert len({json.dumps(row | {"kind": ""}) for row in rows}) == len({row["kind"] for row in rows}) == len(rows)
    assert len(CODE) >= 20


CODE = {row["kind"]: row for row in table("tasks/sloppy/mbpp.jsonl")}  # what passes defines `add`


@pytest.fixture(scope="module")
def outcomes():
    programs = [(MBPP.read_answer(row["text"], Example("", "", "")), "assert add(1, 2) == 3") for row in CODE.values()]
    return dict(zip(CODE, run_programs(programs, workers=2), strict=True))


@pytest.mark.parametrize("kind", CODE)
def test_what_program_a_text_holds(kind, outcomes):
    assert outcomes[kind].passed == CODE[kind]["passes"], outcomes[kind]


def test_numbered_options_of_a_shot():
    shot = PIQA.example(Example("Keep the water.\n1. pour it into a jar\n2. pour it into a sieve", "1", ""))
    assert (shot.answer, shot.choices) == ("A", WAYS)
    assert PIQA.example(Example("Keep the water.", "1", "", choices=WAYS)).answer == ""  # PIQA's label of the second


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ABab ().:\\{}#*`\n0123456789$/,-yesno", max_size=60))
def test_any_text_is_read_in_the_compared_form(text):
    example = Example("", "", "", choices=PLANETS)
    assert ARC_CHALLENGE.read_answer(text, example) in {"", "A", "B", "C", "D"}
    assert BOOLQ.read_answer(text, example) in {"", "yes", "no"}
    number = GSM8K.read_answer(text, example)
    assert number in ("", GSM8K.read_answer(f"#### {number}", example))
    program = MBPP.read_answer(text, example)
    assert MBPP.read_answer(program, example) == program


MONSTERS = {
    "brackets": "(" * 10**5,
    "signs": "-" * 10**5 + "1",
    "lists": "[" * 99 + "]" * 99,
    "lines": "x\n" * 10**4,
    "digits": "1" * 10**5,
    "boxes": "\\boxed{" * 10**4,
    "points": "a." * 10**5,
    "statements": "answer is " * 10**4,
    "words": "one hundred " * 10**4,
    "functions": "def f():\n" * 2000,
    "spaces": "answer to " + " " * 10**5,
    "fences": "```\n" * 10**4,
    "fractions": "1/" * 10**4,
}


@pytest.mark.parametrize("text", MONSTERS.values(), ids=MONSTERS)
def test_monstrous_texts_are_read_in_a_moment(text):
    started = time.process_time()
    for task in (GSM8K, ARC_CHALLENGE, BOOLQ, MBPP):
        task.read_answer(text, Example("", "", "", choices=PLANETS))
    assert time.process_time() - started < 3
