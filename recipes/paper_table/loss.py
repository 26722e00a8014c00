"""Held-out loss of the right solutions, for models whose answers are at chance."""

from __future__ import annotations

from typing import Any

from rocket_hub.records import Pinned


def losses(model: Any, context: Any, evaluation: Pinned, count: int) -> dict[str, Any]:
    """Measure a model by the solutions of the first problems of the test split; nothing is generated.

    Args:
        model: On the base of the pair.
        context: The pair's.
        evaluation: The evaluation set, pinned.
        count: At most so many problems.

    Returns:
        `losses`: nats per token of each problem's solution, end of sequence included; `loss`: their mean.
    """
    from rocket_hub.inference import completion_nll
    from rocket_hub.pipeline.context import evaluation_set

    options = context.recipe.evaluate
    problems = evaluation_set(context, evaluation)[:count]
    pairs = [(problem.prompt, problem.completion) for problem in problems]
    sums, tokens = completion_nll(model, context.base[1], pairs, batch_size=options.batch_size)
    each = sums / tokens
    return {"loss": round(float(each.mean()), 6), "losses": [round(float(loss), 4) for loss in each]}
