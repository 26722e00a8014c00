from __future__ import annotations

from typing import Any

import datasets
import evaluate

from rocket_hub.errors import SandboxError
from rocket_hub.sandbox import run_programs

_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


def _describe(description: str, inputs: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(description=description, citation="", inputs_description=inputs, features=_TEXTS)


class ExactMatch(evaluate.Metric):
    """Share of answers that are equal to the right ones, both in the compared form; an empty answer is never right."""

    def _info(self) -> evaluate.MetricInfo:
        description = "Share of answers equal to the right ones (Eq. 5 of arXiv 2408.15915)."
        return _describe(description, "predictions, references: answers in the compared form.")

    def _compute(self, predictions: list[str], references: list[str], **_: Any) -> dict[str, Any]:
        correct = [int(bool(p) and p == r) for p, r in zip(predictions, references, strict=True)]
        return {"exact_match": sum(correct) / len(correct), "correct": correct}


class PassAt1(evaluate.Metric):
    """Share of programs that pass their tests, each run in a sandboxed process (`rocket_hub.sandbox`)."""

    def _info(self) -> evaluate.MetricInfo:
        description = "Share of programs that pass their tests (pass@1 of arXiv 2107.03374 with one sample)."
        return _describe(
            description, "predictions: programs; references: statements that raise where a program is wrong."
        )

    def _compute(
        self, predictions: list[str], references: list[str], allow_code_execution: bool = False, **_: Any
    ) -> dict[str, Any]:
        if not allow_code_execution:
            raise SandboxError(
                "this task is measured by running programs that a model wrote; "
                "allow it with --allow-code-execution (allow_code_execution=True)"
            )
        pairs = list(zip(predictions, references, strict=True))
        outcomes = run_programs(pairs)
        # without a program, or without tests, nothing has been passed
        correct = [int(outcome.passed and all(pair)) for outcome, pair in zip(outcomes, pairs, strict=True)]
        reasons = [outcome.reason for outcome in outcomes]
        return {"pass_at_1": sum(correct) / len(correct), "correct": correct, "reasons": reasons}
