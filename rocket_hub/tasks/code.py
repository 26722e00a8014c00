from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.answers import MAX_CHARACTERS
from rocket_hub.tasks.task import Task

_TESTS = " Your code should pass these tests:\n\n"
_BEGIN, _DONE = "[BEGIN]", "[DONE]"
_FENCE = re.compile(r"```[ \t]*(?:[A-Za-z0-9+]*)[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_NEXT_TASK = re.compile(
    r"\nYou are an expert Python programmer|\n(?:Question|Task|Problem)\s*\d*\s*:|<\|im_end\|>|</s>"
)
_CODE_LINE = re.compile(
    r"(?:def|class|async def|import|from|for|while|if|try|with|print|assert)\b.*|@\w.*"
    r"|[A-Za-z_][\w.,\[\] ]*\s*[-+*/|&]?=[^=].*"
)
_DEFINES = re.compile(r"^[ \t]*(?:def|class|async def)\s|^\w+\s*=\s*lambda\b", re.MULTILINE)


def extract_code(text: str, choices: tuple[str, ...] = ()) -> str:
    """Read the program out of what a model wrote; empty when there is none.

    Only what is before the first `[DONE]`, and after a `[BEGIN]` before that, counts, and nothing after a next task.
    Of fenced blocks the first that defines something counts (lm-evaluation-harness takes the first), else the first;
    without a fence, what stands before the first line of code and after the last is left out.
    """
    part = text[:MAX_CHARACTERS].replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    part = part.partition(_DONE)[0]
    part = _NEXT_TASK.split(part.partition(_BEGIN)[2] if _BEGIN in part else part, maxsplit=1)[0]
    if blocks := _FENCE.findall(part if "\n```" in part or part.lstrip().startswith("```") else ""):
        part = next((block for block in blocks if _DEFINES.search(block)), blocks[0])
    code = textwrap.dedent(_without_prompts(part).strip("\n")).replace("\u00a0", " ").rstrip()
    return code if _parses(code) else _longest_program(code)


def _without_prompts(text: str) -> str:
    if not text.lstrip().startswith(">>> "):
        return text
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith((">>> ", "... ")))


def _longest_program(text: str) -> str:
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _CODE_LINE.fullmatch(line)), None)
    if start is None:
        return ""
    kept = lines[start:]
    while kept:
        code = "\n".join(kept).rstrip()
        fault = _fault(code)
        if fault is None:
            return code
        # a block cannot end before the line of the fault, so nothing longer than that is tried again
        kept = kept[: min(len(kept) - 1, max(fault, 1))]
    return ""


def _parses(code: str) -> bool:
    return bool(code.strip()) and _fault(code) is None and not _is_prose(code)


def _is_prose(code: str) -> bool:
    """Return whether a text that Python can read is one word or sign, not a program."""
    return len(code.split()) == 1 and re.fullmatch(r"[\w.\"'-]+", code) is not None


def _fault(code: str) -> int | None:
    """Return the line of the first fault of a program; None = it can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in what a model wrote
            ast.parse(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):  # too deep, or no text at all
        return 1
    return None


def prompt(question: str) -> str:
    """Write lm-evaluation-harness' MBPP prompt, without its three solved examples.

    `Task.with_shots` adds them: they are the rows with `task_id` 2, 3 and 4 of the split `prompt`.

    OpenCompass, and so ROCKET, has the same words, with quotation marks around the program. The harness leaves
    `test_setup_code` out, so that two of the 974 problems cannot be solved; here it runs before the tests.
    """
    return f"You are an expert Python programmer, and here is your task: {question}\n{_BEGIN}\n"


def completion(rationale: str, answer: str) -> str:
    """Write a program in MBPP's form; there is no room for a rationale."""
    return f"{answer}\n{_DONE}"


def prepare(raw: Example) -> Example:
    """Read the program, and find its tests: in the example, else in its question."""
    question = raw.prompt.strip()
    tests = raw.tests or tuple(line.strip() for line in question.splitlines() if line.strip().startswith("assert "))
    if raw.tests and _TESTS not in question:
        question += _TESTS + "\n".join([test for test in raw.tests if test.startswith("assert")][:3])
    code = extract_code(raw.completion)
    return replace(
        raw, prompt=question, completion=completion("", code) if code else "", answer="", rationale="", tests=tests
    )


def read_mbpp(row: Mapping[str, Any]) -> Example:
    """Read a row of `google-research-datasets/mbpp`, configuration `full`."""
    tests, setup = row["test_list"], row.get("test_setup_code") or ""
    if not isinstance(tests, (list, tuple)) or not tests:
        raise TaskError(f"expected a list of tests, found {tests!r:.80}")
    asserts = tuple(map(str, tests))
    question = row["text"] + _TESTS + "\n".join(asserts[:3])  # the harness shows three
    before = (str(setup).replace("\r\n", "\n"),) if setup else ()
    return Example(question, str(row["code"]), str(row["code"]), tests=(*before, *asserts))


MBPP = Task(
    name="mbpp",
    description="Short Python functions for beginners' problems, judged by running their tests.",
    dataset="google-research-datasets/mbpp",
    config="full",
    revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    question="text",
    answer="code",
    columns=("test_list",),
    read_row=read_mbpp,
    prompt=prompt,
    completion=completion,
    extract=extract_code,
    guess=extract_code,
    prepare=prepare,
    mark="",
    metric="pass_at_1",
    stop=(_DONE,),
    delimiter="",
    closed=("google-research-datasets/mbpp", "mbpp"),
)
