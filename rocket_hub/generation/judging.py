"""What a judge says, read strictly: anything but the JSON that was asked for is no judgement."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAX_ADVICE = 2_000
SCHEMA = '{"correct": true or false, "advice": "one or two sentences, empty if correct"}'

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)


@dataclass(frozen=True)
class Judgement:
    """A teacher's verdict on one answer.

    Attributes:
        correct: Whether the answer is right.
        advice: What to do better, without the answer; empty where it is right.
    """

    correct: bool
    advice: str = ""


def read_judgement(text: str) -> Judgement | None:
    """Read a judgement.

    The whole text must be one JSON object of exactly the two keys asked for, in a code fence or bare. "Correct the
    second step" and "Correctness: 3/10" are no judgements, and neither is JSON with more around it: an answer that was
    judged may have been written to be quoted.

    Args:
        text: What the teacher wrote.

    Returns:
        The judgement; none = unreadable, which counts as no judgement.
    """
    data = read_object(text)
    if data is None or data.keys() != {"correct", "advice"}:
        return None
    correct, advice = data["correct"], data["advice"]
    if not isinstance(correct, bool) or not isinstance(advice, str) or len(advice) > MAX_ADVICE:
        return None
    if not correct and not advice.strip():
        return None  # wrong, and nothing to go on with
    return Judgement(correct, "" if correct else advice.strip())


def read_object(text: str) -> dict[str, Any] | None:
    """Read one JSON object, bare or in a code fence, with nothing around it; none = it is not that."""
    fenced = _FENCE.match(text.strip())
    try:
        data: Any = json.loads(fenced[1] if fenced else text.strip(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: which of them counts differs from reader to reader."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
