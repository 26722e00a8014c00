"""Answers as models really write them, one by one."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.records import Example
from rocket_hub.sandbox import Outcome, run_programs
from rocket_hub.tasks import ARC_CHALLENGE, ARC_EASY, BOOLQ, GSM8K, MBPP, PIQA, Task
from tests.tasks.sloppy import CODE, NUMBERS, YES_NO
from tests.tasks.sloppy_choices import CHOICES, EASY, PLANETS, ROCKS, TWO, WAYS

TABLES = {
    GSM8K: (NUMBERS, ()),
    ARC_CHALLENGE: (CHOICES, PLANETS),
    ARC_EASY: (EASY, ROCKS),
    PIQA: (TWO, WAYS),
    BOOLQ: (YES_NO, ("no", "yes")),
}
CASES = [
    pytest.param(task, choices, *case, id=f"{task.name}-{name}")
    for task, (table, choices) in TABLES.items()
    for name, case in table.items()
]


@pytest.mark.parametrize(("task", "choices", "text", "answer"), CASES)
def test_what_a_text_says(task: Task, choices: tuple[str, ...], text: str, answer: str) -> None:
    assert task.read_answer(text, Example("", "", "", choices=choices)) == answer


def test_every_task_has_twenty_kinds_and_answers_that_stay_unread() -> None:
    for task, (table, _) in TABLES.items():
        read = {text for text, answer in table.values() if answer}
        assert len(read) >= 20 and len(table) - len(read) >= 3, task.name
        assert len(set(table.values())) == len(table), task.name
    assert len(CODE) >= 20


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    programs = [(MBPP.read_answer(text, Example("", "", "")), "assert add(1, 2) == 3") for text, _ in CODE.values()]
    return dict(zip(CODE, run_programs(programs, workers=2), strict=True))


@pytest.mark.parametrize("name", CODE)
def test_what_program_a_text_holds(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].passed == CODE[name][1], outcomes[name]


LIKE_LETTERS = {
    "an option that is a letter": (("C", "NO2", "O2", "CO"), "The answer is C", "C"),
    "an option that is no option's letter": (("Ne", "Mg", "Ca", "K"), "K.", "D"),
    "case that matters": (("R", "rr", "Rr", "RR"), "The answer is RR", "D"),
    "an option in another": (("cell", "cell wall", "nucleus"), "It is the cell wall", "B"),
    "the longest beginning": (("cell", "cell wall", "nucleus"), "cell wall.", "B"),
    "numbers": (("1", "2", "4", "3"), "The answer is 3", "D"),
    "number of an option by its letter": (("10", "20", "30", "40"), "The answer is 2", "B"),
    "a number in a number": (("1", "10", "100"), "10", "B"),
    "five options": (("a1", "b1", "c1", "d1", "e1"), "E", "E"),
    "two mentioned": (("cell", "wall"), "Both cell and wall are there", ""),
}


@pytest.mark.parametrize(("choices", "text", "letter"), LIKE_LETTERS.values(), ids=LIKE_LETTERS)
def test_options_that_look_like_letters_or_each_other(choices: tuple[str, ...], text: str, letter: str) -> None:
    assert ARC_EASY.read_answer(text, Example("", "", "", choices=choices)) == letter


def test_numbered_options_of_a_shot() -> None:
    shot = PIQA.example(Example("Keep the water.\n1. pour it into a jar\n2. pour it into a sieve", "1", ""))
    assert (shot.answer, shot.choices) == ("A", WAYS)
    assert PIQA.example(Example("Keep the water.", "1", "", choices=WAYS)).answer == ""  # PIQA's label of the second


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ABab ().:\\{}#*`\n0123456789$/,-yesno", max_size=60))
def test_any_text_is_read_in_the_compared_form(text: str) -> None:
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
def test_monstrous_texts_are_read_in_a_moment(text: str) -> None:
    started = time.process_time()
    for task in (GSM8K, ARC_CHALLENGE, BOOLQ, MBPP):
        task.read_answer(text, Example("", "", "", choices=PLANETS))
    assert time.process_time() - started < 3
