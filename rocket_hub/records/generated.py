"""Rows that were made, not found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rocket_hub.records.ingredients import Rejection, Row


@dataclass(frozen=True)
class Generated:
    """Instruction data that a model made.

    Attributes:
        method: `self_specialization` or `meteor`.
        maker: Who wrote it, for the card: the base model, or the teacher, at its commit where it has one.
        rows: What was kept; their `source` is `generated:<method>`.
        rejected: What was not, each with its reason.
        counts: How many there were at each step (asked for, brainstormed, distinct, answered, kept, ...).
        bill: What a teacher cost: calls, tokens in and out; empty where nobody was asked.
    """

    method: str
    maker: str
    rows: tuple[Row, ...]
    rejected: tuple[Rejection, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    bill: dict[str, Any] = field(default_factory=dict)
