from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.answers import STOP, denied, last_group, reasoned, statements
from rocket_hub.tasks.task import Task

CHOICES = ("no", "yes")  # in the harness' order: the label 1 is yes
_SAID = {
    "yes": "yes", "true": "yes", "correct": "yes", "right": "yes", "y": "yes", "yep": "yes", "yeah": "yes", "t": "yes",
    "affirmative": "yes", "1": "yes", "no": "no", "false": "no", "incorrect": "no", "wrong": "no", "n": "no",
    "nope": "no", "f": "no", "negative": "no", "0": "no",
}  # fmt: skip
_NONE = r"(?!\s+(?:idea|information|info|clue|comment|data|details?|doubt|evidence|mention|one)\b)"
_LONG = re.compile(rf"\b(?:yes|no{_NONE}|true|false)\b")
stated = partial(last_group, re.compile(r"[Tt]he answer is:?\s*(yes|no)\b"))
_STATED = re.compile(
    r"\banswer[\"'*]*(?:\s+(?:to|for)\b[^.\n:]{0,80}?)?\s*"
    r"(?:(?:is(?!n't)|was|=|:|would be|should be|must be)+(?:\s*:)?|>)|####",
    re.IGNORECASE,
)
_FIRST = re.compile(r"\A[\s\"'(\[*>-]*(?:(?:that|this|it)(?:\s+is|'s)\s+)?(not\s+)?([A-Za-z]+|[01])\b" + _NONE)
_BOTH = re.compile(r"\s*(?:/|\band\b|\bor\b)\s*(?:yes|no|true|false)\b", re.IGNORECASE)
_CLAIM = re.compile(r"\b(?:is|that's|it's)((?:n't|\s+not)?)\s+(true|false|correct|incorrect)\b", re.IGNORECASE)


def read_yes_no(text: str, choices: tuple[str, ...] = ()) -> str:
    r"""Read what a generated text answers to a yes-or-no question; empty when nothing, or both.

    What comes after a next question does not count. Of the rest, in this order: the last `\boxed{…}`; else the last
    explicit statement ("the answer is …", "Answer: …"); else the first word; else the last claim that something is true
    or false; else the only one of yes, no, true and false that occurs. `true` is yes; `not true` is no. The options
    are always no and yes, whatever `choices` says.
    """
    part, claimed = statements(text, _STATED)
    for said in (*claimed, part):
        if answer := _first(said):
            return answer
    if claims := _CLAIM.findall(part):
        return _meant(*claims[-1])
    part = part.lower()
    found = {_SAID[match[0]] for match in _LONG.finditer(part) if not denied(part, *match.span())}
    return found.pop() if len(found) == 1 else ""


def _first(text: str) -> str:
    """Read the first word of a text; "yes and no" is neither."""
    found = _FIRST.match(text)
    if not found or _BOTH.match(text[found.end() :]):
        return ""
    return _meant(found[1], found[2])


def _meant(negation: str | None, word: str) -> str:
    """Turn a word, with or without "not" before it, into yes or no."""
    answer = _SAID.get(word.lower(), "")
    return {"yes": "no", "no": "yes"}[answer] if answer and negation else answer


def prompt(question: str) -> str:
    """Write lm-evaluation-harness' BoolQ prompt: the passage, then the question, then `Answer:`.

    The harness compares the likelihoods of " no" and " yes" (`Task.options` does that). OpenCompass, and so ROCKET,
    writes them below the question as "A. Yes" and "B. No" and reads the letter; here the words themselves are written.
    """
    return f"{question}\nAnswer:"


def prepare(raw: Example) -> Example:
    """Read yes or no out of an answer that is nothing else, or of a statement of it."""
    raw = replace(raw, choices=CHOICES, prompt=re.sub(r"\s*\nAnswer:\s*\Z", "", raw.prompt))
    if raw.answer or len(raw.completion.split()) < 3:
        return replace(raw, answer=read_yes_no(raw.answer or raw.completion))
    return raw


def read_boolq(row: Mapping[str, Any]) -> Example:
    """Read a row of `google/boolq`; its answer is true or false."""
    if not isinstance(row["answer"], (bool, int)):
        raise TaskError(f"expected the answer true or false, found {row['answer']!r:.40}")
    answer = CHOICES[bool(row["answer"])]
    return Example(f"{row['passage']}\nQuestion: {row['question']}?", reasoned("", answer), answer, choices=CHOICES)


BOOLQ = Task(
    name="boolq",
    description="Questions that a passage answers with yes or no.",
    dataset="google/boolq",
    config=None,
    revision="35b264d03638db9f4ce671b711558bf7ff0f80d5",
    split="validation",
    question="question",
    answer="answer",
    columns=("passage",),
    read_row=read_boolq,
    prompt=prompt,
    completion=reasoned,
    extract=stated,
    guess=read_yes_no,
    prepare=prepare,
    mark="The answer is",
    stop=STOP,
    closed=("google/boolq", "boolq", "aps/super_glue", "super_glue"),
)
