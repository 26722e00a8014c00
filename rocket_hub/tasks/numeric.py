"""Tasks whose answer is a number after a worked solution: GSM8K."""

from __future__ import annotations

import re

from rocket_hub.tasks.numbers import NUMBER, canonical, english, in_digits
from rocket_hub.tasks.task import Task
from rocket_hub.tasks.text import after, boxed, own_part, plain, straight

_MARKED = re.compile(r"####\s*(-?[$]?[0-9][0-9,]*(?:\.[0-9]+)?)")
_STATED = re.compile(r"\banswer[\"'*]*(?:\s+(?:to|for)\b[^.\n:]{0,80}?)?\s*(?:(?:is|was|=|equals|:)+(?:\s*:)?|>)", re.I)
_SPACED = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d,.]\d|\d)")  # 1 234 567
_OPEN = re.compile(  # "18 or 19", "1, 2 or 3"; and 5:30 is no number
    r"(?:\s*,\s*[$-]{0,2}\d+(?:\.\d+)?)*,?\s+or\s+[$-]{0,2}(\d+(?:\.\d+)?)|:\d"
)
_MAX_STATEMENT = 200  # characters after "the answer is"


def marked_number(text: str) -> str:
    r"""Read the number after `####`, without commas, signs of currency or a trailing `.0`; empty when there is none.

    This is the strict-match rule of lm-evaluation-harness (`#### (\\-?[0-9\\.\\,]+)`); the first marked number counts,
    because a model that does not stop goes on with questions of its own.
    """
    found = _MARKED.findall(text)
    if not found:
        return ""
    number = found[0].replace(",", "").replace("$", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def any_number(text: str, choices: tuple[str, ...] = ()) -> str:
    r"""Read the number that a generated text gives as its answer, however it is written; empty when there is none.

    What comes after a next question does not count. Of the rest: the number after the first `####`; else in the last
    `\boxed{}`; else after the last "answer is"; else the last number, which is the flexible-extract rule of
    lm-evaluation-harness and of OpenCompass (which ROCKET was measured with). Numbers in words count only where the
    answer is stated, or are all that is said: "so one sees" is not a number. "18 or 19" is no answer.

    Args:
        text: What the model wrote.
        choices: Not used; other families have options.

    Returns:
        The number in the form of `marked_number`; a fraction without an end as `1/3`.
    """
    part = english(straight(own_part(text)))
    _, mark, marked = part.partition("####")
    own = [marked.strip().partition("\n")[0][:_MAX_STATEMENT]] if mark else []
    for stated in (*own, *boxed(part)[:1], *after(_STATED, part)[:1]):
        if answer := _stated_number(stated.strip()[:_MAX_STATEMENT]):
            return answer if answer != "several" else ""
    text = plain(part)
    if numbers := list(NUMBER.finditer(text)):
        return canonical(numbers[-1])
    return _stated_number(text) if len(text.split()) < 10 else ""


def _stated_number(statement: str) -> str:
    """Read the first number of a statement, or what its equation comes to; "several" where it leaves open which."""
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), in_digits(plain(statement)))
    _, equals, result = text.partition("\n")[0].rpartition("=")
    if equals and NUMBER.search(result):
        text = result
    found = NUMBER.search(text)
    if not found:
        return ""
    other = _OPEN.match(text, found.start() + len(found[0].rstrip(",")))
    return "several" if other and other[1] != found["number"] else canonical(found)


def prompt(question: str) -> str:
    """Write lm-evaluation-harness' GSM8K prompt (its zero-shot form); OpenCompass, and so ROCKET, has the same."""
    return f"Question: {question}\nAnswer:"


def completion(rationale: str, answer: str) -> str:
    """Write a solution in GSM8K's form."""
    return f"{rationale}\n#### {answer}".strip()


GSM8K = Task(
    name="gsm8k",
    description="Grade-school mathematics word problems with a numeric answer.",
    dataset="openai/gsm8k",
    config="main",
    revision="740312add88f781978c0658806c59bc2815b9866",
    question="question",
    answer="answer",
    prompt=prompt,
    completion=completion,
    extract=marked_number,
    guess=any_number,
    mark="####",
    stop=("Question:", "</s>", "<|im_end|>"),
    closed=("openai/gsm8k", "gsm8k"),
)
