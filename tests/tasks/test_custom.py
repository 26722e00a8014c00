"""A task of one's own in a file: read strictly, and then like any other."""

import time

import pytest

from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.tasks import get_task, score
from tests.helping import table

HEAD = "name: mine\nevaluation: {dataset: acme/set}\n"


def task(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text if "evaluation:" not in text else text)
    return get_task(str(path))


NUMBER = """
name: sums
description: Sums of apples.
evaluation: {dataset: acme/sums, config: easy, split: validation, revision: abc}
columns: {question: title, answer: solution, rationale: why, context: body}
prompt: "{context}\\nQ: {question}\\nA:"
extractor: number
closed: [acme/train]
"""


def test_all_that_a_file_can_say(tmp_path):
    sums = task(tmp_path, NUMBER)
    assert (sums.name, sums.dataset, sums.config, sums.split, sums.revision) == (
        "sums", "acme/sums", "easy", "validation", "abc",
    )  # fmt: skip
    assert sums.closed == ("acme/train", "acme/sums")
    (problem,) = sums.examples(
        [{"title": "How many?", "solution": "1,234 apples", "why": "A {question}.", "body": "Eve {answer}"}], "x"
    )
    assert problem.prompt == "Eve {answer}\nQ: How many?\nA:"  # what looks like a placeholder in a text stays
    assert problem.completion == " A {question}.\n#### 1234"
    assert (problem.answer, problem.rationale) == ("1234", "A {question}.")
    assert score(sums, ["They are 1,234.", "#### 2"], [problem, problem])["correct"] == [1, 0]
    assert sums.prompt("\0") == "\0\nA:"


@pytest.mark.parametrize("case", table("tasks/custom_rows.jsonl"), ids=str)
def test_rows_of_every_kind(tmp_path, case):
    mine = task(tmp_path, case["task"])
    (problem,) = mine.examples([{"question": "q", **case["row"]}], "acme/set")
    assert (problem.completion, problem.answer) == (case["completion"], case["answer"])
    assert problem.prompt == case["prompt"] or not case["prompt"]
    assert score(mine, [problem.completion, "?"], [problem] * 2, allow_code_execution=True)["correct"] == [1, 0]


def test_a_custom_task_is_asked_like_any_other(tmp_path):
    mine = task(tmp_path, "extractor: letter\ncolumns: {choices: o}")
    shots = mine.examples([{"question": "q", "answer": 1, "o": ["x y", "z"]}], "acme/set")
    assert mine.options(shots[0]) == ("Question: q\nAnswer:", (" x y", " z"))
    shown = mine.with_shots(shots)
    (problem,) = shown.examples([{"question": "r", "answer": 0, "o": ["a", "b"]}], "x")
    assert shown.options(problem) == ("Question: q\nAnswer: z\n\nQuestion: r\nAnswer:", (" a", " b"))
    with pytest.raises(TaskError, match=r"x: row 0: the answer 7 is not the place of one of 2 options, from 0"):
        mine.examples([{"question": "r", "answer": 7, "o": ["a", "b"]}], "x")
    with pytest.raises(TaskError, match=r"x: row 0: expected a list of options, or a mapping .* found 'a'"):
        mine.examples([{"question": "r", "answer": 0, "o": "a"}], "x")
    with pytest.raises(TaskError, match=r"x: row 0: the task 'mine' needs the columns 'question', 'answer' and 'o'"):
        mine.examples([{"question": "r", "answer": 0}], "x")


@pytest.mark.parametrize("case", table("tasks/custom_faults.jsonl"), ids=lambda case: case["name"])
def test_a_file_that_does_not_fit(tmp_path, case):
    with pytest.raises(RecipeError, match=case["message"]):
        task(tmp_path, case["text"])


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere.yaml: cannot be read: .*give a task's name or its file"):
        get_task(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "large.yml").write_text("#" * 70_000)
    with pytest.raises(RecipeError, match=r"large.yml: 70,000 bytes; a task is one page of YAML"):
        get_task(str(tmp_path / "large.yml"))


@pytest.mark.parametrize("pattern", [r"(?:a+)+$", r"(?:.*a){12}$"])
def test_a_pattern_that_backtracks_without_end_costs_one_answer(tmp_path, pattern):
    (tmp_path / "mine.yaml").write_text(
        f"{HEAD}extractor: 'regex: answer is (\\w+)|{pattern}'\ncompletion: answer is {{answer}}\n"
    )
    mine = get_task(str(tmp_path / "mine.yaml"))
    started = time.monotonic()
    assert mine.extract("a" * 3000 + "!") == ""
    assert time.monotonic() - started < 5
    assert mine.extract("the answer is 42") == "42"
