"""A task of one's own in a file: read strictly, and then like any other."""

import time
from pathlib import Path
from typing import Any

import pytest

from rocket_hub.errors import RecipeError, TaskError
from rocket_hub.tasks import Task, get_task, score

HEAD = "name: mine\nevaluation: {dataset: acme/set}\n"


def task(tmp_path: Path, text: str) -> Task:
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


def test_all_that_a_file_can_say(tmp_path: Path) -> None:
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


Q = "Question: q\nAnswer:"
LETTER = "extractor: letter\ncolumns: {choices: o}"
CODE = "extractor: code\ncolumns: {tests: t}\nprompt: '{question}\n\n  [BEGIN]\n\n'"
TAGGED = "extractor: 'regex: <([a-z]+)>'\ncompletion: '{rationale} <{answer}>'"
TWO = "Question: q\nA. x y\nB. z\nAnswer:"
LABELLED = {"text": ["x y", "z"], "label": ["1", "2"]}
ROWS: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("extractor: number", {"answer": 5}, Q, " #### 5", "5"),
    ("extractor: number", {"answer": "so\n#### 5"}, Q, " so\n#### 5", "5"),
    ("extractor: exact", {"answer": "New  York"}, Q, " New  York", "New York"),
    ("extractor: yes_no", {"answer": True}, Q, " The answer is yes.", "yes"),
    ("extractor: yes_no", {"answer": "False"}, Q, " The answer is no.", "no"),
    (LETTER, {"answer": 1, "o": ["x y", "z"]}, TWO, " The answer is B.", "B"),
    (LETTER, {"answer": "z", "o": ["x y", "z"]}, TWO, " The answer is B.", "B"),
    (LETTER, {"answer": "2", "o": LABELLED}, TWO, " The answer is B.", "B"),
    ("extractor: letter", {"question": "q\nA. x y\nB. z", "answer": "b"}, TWO, " The answer is B.", "B"),
    (TAGGED, {"answer": "<ab>"}, Q, " <ab>", "ab"),
    (CODE, {"answer": "x = 1", "t": ["assert x"]}, "", "x = 1\n[DONE]", "x = 1"),
]


@pytest.mark.parametrize(("text", "row", "prompt", "completion", "answer"), ROWS, ids=range(len(ROWS)))
def test_rows_of_every_kind(
    tmp_path: Path, text: str, row: dict[str, Any], prompt: str, completion: str, answer: str
) -> None:
    mine = task(tmp_path, text)
    (problem,) = mine.examples([{"question": "q", **row}], "acme/set")
    assert (problem.completion, problem.answer) == (completion, answer)
    assert problem.prompt == prompt or not prompt
    assert score(mine, [problem.completion, "?"], [problem] * 2, allow_code_execution=True)["correct"] == [1, 0]


def test_a_custom_task_is_asked_like_any_other(tmp_path: Path) -> None:
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


WRONG = {
    "unknown key": ("extractor: number\nprompts: x", r"mine.yaml: unknown key 'prompts', did you mean 'prompt'\?"),
    "unknown column": ("extractor: number\ncolumns: {anwser: x}", r"unknown key 'anwser', did you mean 'answer'"),
    "missing": ("description: x", r"mine.yaml: missing key 'extractor'"),
    "wrong type": ("extractor: 3", r"extractor: expected str, found 3"),
    "extractor": ("extractor: numbr", r"extractor: unknown extractor 'numbr'; did you mean 'number'\?"),
    "strange extractor": ("extractor: zzz", r"'zzz'; known: number, letter, yes_no, exact, code and 'regex"),
    "no question": ("extractor: number\nprompt: 'Answer:'", r"'\{question\}' must be there once, found 0"),
    "two questions": ("extractor: number\nprompt: '{question}{question}'", r"must be there once, found 2"),
    "placeholder": ("extractor: number\nprompt: '{question} {contxt}'\ncolumns: {context: c}",
                    r"prompt: unknown placeholder '\{contxt\}', did you mean '\{context\}'\?"),
    "context without a column": ("extractor: number\nprompt: '{context} {question}'", r"placeholder '\{context\}'"),
    "unreadable": ("extractor: number\ncompletion: '{rationale} {answer}'",
                   r"completion: the extractor does not find the answer in '… 42'"),
    "metric": ("extractor: number\nmetric: f1", r"metric: the extractor 'number' goes with 'exact_match', found 'f1'"),
    "tests for numbers": ("extractor: number\ncolumns: {tests: t}", r"columns: 'tests' is for the extractor 'code'"),
    "code without tests": ("extractor: code", r"columns: 'tests' is for the extractor 'code', which needs it"),
    "no pattern": ("extractor: 'regex: ('", r"extractor: not a pattern: .*: '\('"),
    "empty pattern": ("extractor: 'regex:'", r"a pattern has 1 to 200 characters, found 0"),
    "long pattern": (f"extractor: 'regex: {'a' * 201}'", r"a pattern has 1 to 200 characters, found 201"),
    "two groups": ("extractor: 'regex: (a)(b)'", r"at most one group, the answer; found 2"),
    "no YAML": ("extractor: [", r"mine.yaml: not YAML"),
    "a list": ("- evaluation: 1", r"expected a mapping of name, evaluation"),
    "code in YAML": ("extractor: !!python/object/apply:os.system ['true']", r"not YAML: .*python/object/apply"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere.yaml: cannot be read: .*give a task's name or its file"):
        get_task(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "large.yml").write_text("#" * 70_000)
    with pytest.raises(RecipeError, match=r"large.yml: 70,000 bytes; a task is one page of YAML"):
        get_task(str(tmp_path / "large.yml"))


@pytest.mark.parametrize("pattern", [r"(?:a+)+$", r"(?:.*a){12}$"])
def test_a_pattern_that_backtracks_without_end_costs_one_answer(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"{HEAD}extractor: 'regex: answer is (\\w+)|{pattern}'\ncompletion: answer is {{answer}}\n"
    )
    mine = get_task(str(tmp_path / "mine.yaml"))
    started = time.monotonic()
    assert mine.extract("a" * 3000 + "!") == ""
    assert time.monotonic() - started < 5
    assert mine.extract("the answer is 42") == "42"
