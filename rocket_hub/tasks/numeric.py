"""Tasks whose answer is a number after a worked solution: GSM8K."""

from __future__ import annotations

import re

from rocket_hub.tasks.task import Task

_MARKED = re.compile(r"####\s*(-?[$]?[0-9][0-9,]*(?:\.[0-9]+)?)")


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


def prompt(question: str) -> str:
    """Write lm-evaluation-harness' GSM8K prompt (its zero-shot form)."""
    return f"Question: {question}\nAnswer:"


def completion(rationale: str, answer: str) -> str:
    """Write a solution in GSM8K's form."""
    return f"{rationale}\n#### {answer}".strip()


GSM8K = Task(
    name="gsm8k",
    description="Grade-school mathematics word problems with a numeric answer.",
    dataset="openai/gsm8k",
    config="main",
    question="question",
    answer="answer",
    prompt=prompt,
    completion=completion,
    extract=marked_number,
    mark="####",
    closed=("openai/gsm8k", "gsm8k"),
)
