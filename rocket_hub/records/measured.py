"""What a method scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """What one method scored on the evaluation set.

    Attributes:
        method: Name of the method or control.
        accuracy: Share of right answers, 0 to 1.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end of the 95 % Wilson interval.
        correct: One 0 or 1 a problem, in the order of the evaluation set.
        seconds: Wall-clock seconds of the evaluation.
        details: Chosen settings (learning rate, weight), training seconds and the like.
    """

    method: str
    accuracy: float
    low: float
    high: float
    correct: tuple[int, ...] = ()
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
