"""What one stage of METEOR leaves, and that as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rocket_hub.generation.teacher import AGAIN, Reply
from rocket_hub.generation.writing import Question
from rocket_hub.records import Rejection
from rocket_hub.runs import RunFolder

OPEN = (*AGAIN, "over_budget")
"""Reasons that another run may mend: the teacher was away, or had no budget left."""
DETAIL = 200  # characters of a text that are quoted as a detail


@dataclass
class Learned:
    """What a stage leaves.

    Attributes:
        adapter: The adapter after it; the one before it, where there was nothing to learn.
        rows: Completions that it learned, in the task's form.
        rejected: Questions that it learned nothing from, each with (reason, detail).
        counts: How many there were at each step.
    """

    adapter: Path
    rows: dict[Question, str] = field(default_factory=dict)
    rejected: dict[Question, tuple[str, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def drop(self, question: Question, reason: str, detail: str = "") -> None:
        """Note that nothing is learned from a question."""
        self.rejected[question] = (reason, detail[:DETAIL])

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number


def fault_of(reply: Reply) -> tuple[str, str]:
    """Say why there is no answer: what another run may mend by its own name, what lasts as `no_answer`."""
    if reply.fault in OPEN:
        return reply.fault, reply.detail
    return "no_answer", reply.fault


def to_plain(learned: Learned, run: RunFolder) -> dict[str, Any]:
    """Turn a stage's result into what its `result.json` holds."""
    return {
        "adapter": run.relative(learned.adapter),
        "rows": [[question.number, text] for question, text in learned.rows.items()],
        "rejected": [[question.number, *why] for question, why in learned.rejected.items()],
        "counts": learned.counts,
    }


def is_open(plain: Mapping[str, Any] | None) -> bool:
    """Say whether another run may get more out of a finished stage."""
    return plain is not None and any(reason in OPEN for _, reason, _ in plain["result"]["rejected"])


def rejections(stage: str, plain: Mapping[str, Any]) -> list[Rejection]:
    """List what a stage learned nothing from."""
    return [Rejection(f"{stage}#{index}", reason, detail) for index, reason, detail in plain["rejected"]]
