"""What the adapters did on the K-shot, kept in the run folder: another way to choose from it does not score again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from rocket_hub.lora.expert import Expert
from rocket_hub.options import ExpertOptions
from rocket_hub.pipeline.context import Context
from rocket_hub.records import Example, Rejection
from rocket_hub.runs import digest, read_json, write_json
from rocket_hub.selection.rationales import Rationales, Teacher, from_model, with_rationales
from rocket_hub.selection.statistics import Cost, ShotScores
from rocket_hub.serialization import from_dict
from rocket_hub.tasks import Task

FORMAT = 1


def shot_scores(context: Context, experts: Mapping[str, Expert], adapters: Any) -> ShotScores:
    """Score adapters on the K-shot, or take what an earlier run in the folder found from the same inputs.

    Args:
        context: The build.
        experts: repository id -> the adapter.
        adapters: Names the adapters with their commits, as plain data.

    Returns:
        The scores. Selectors that choose among all adapters need all of them scored on all shots.
    """
    options = context.recipe.experts
    if options.selector not in ("rocket", "best_single"):
        options = replace(options, shortlist=len(experts), budget="all")
    path = context.run.path / "scores" / f"{digest(_inputs(context, options, adapters))}.json"
    if (known := read_json(path)) is not None:
        return _from_plain(known)
    scores = _score(context, experts, options)
    write_json(path, _plain(scores))
    return scores


def reasoned_shots(context: Context) -> Rationales:
    """Give reasoning to the shots that have none, where the recipe asks for it; what was written is kept."""
    shots = context.examples
    sources = tuple("given" if shot.rationale else "none" for shot in shots)
    if context.recipe.experts.rationales == "given" or "none" not in sources:
        return Rationales(shots, sources)
    path = context.run.path / "scores" / f"rationales-{digest(context.inputs(dtype=context.recipe.train.dtype))}.json"
    if (known := read_json(path)) is None:
        context.reporter.say(f"the base model writes the reasoning of {sources.count('none')} examples")
        made = with_rationales(context.plain or shots, _writer(context), completion=context.task.completion,
                               extract=context.task.extract)  # fmt: skip
        made = replace(made, examples=tuple(map(partial(_asked, context.task), made.examples, shots)))
        known = json.loads(json.dumps(asdict(made)))
        write_json(path, known)
    return Rationales(
        tuple(from_dict(Example, each, str(path)) for each in known["examples"]),
        tuple(known["sources"]),
        tuple(Rejection(**each) for each in known["rejected"]),
    )


def _writer(context: Context) -> Teacher:
    """Let the base model write; a chat model is asked in its template, and so the prompts given to this have none."""
    write, chat = from_model(*context.base), context.task.chat
    return (lambda prompts: write([chat(prompt) for prompt in prompts])) if chat else write


def _asked(task: Task, written: Example, shot: Example) -> Example:
    """Put a shot whose reasoning was written without a chat template back into it."""
    completion = f"{task.delimiter}{written.completion.lstrip()}" if task.chat else written.completion
    return replace(written, prompt=shot.prompt, completion=completion)


def _inputs(context: Context, options: ExpertOptions, adapters: Any) -> dict[str, Any]:
    """Collect what scores depend on."""
    settings = [
        options.budget,
        options.signal,
        options.perplexity,
        options.rationales,
        options.shortlist,
        context.recipe.evaluate.max_new_tokens,
        context.recipe.train.dtype,
    ]
    return context.inputs(format=FORMAT, adapters=adapters, settings=settings)


def _score(context: Context, experts: Mapping[str, Expert], options: ExpertOptions) -> ShotScores:
    """Run the adapters on the base model."""
    from rocket_hub.selection.scoring import score_adapters
    from rocket_hub.selection.shots import choices_of

    shots, (model, tokenizer) = reasoned_shots(context).examples, context.base
    return score_adapters(
        model,
        tokenizer,
        {repo_id: expert.modules for repo_id, expert in experts.items()},
        shots,
        extract=context.task.extract,
        batch_size=context.recipe.evaluate.batch_size,
        max_new_tokens=context.recipe.evaluate.max_new_tokens,
        seed=context.recipe.seed,
        options=options,
        choices=choices_of(context.task, shots),
        progress=lambda done, total: context.reporter.advance("scoring adapters", done, total),
    )


def _plain(scores: ShotScores) -> dict[str, Any]:
    """Turn scores into what JSON holds; it has no NaN."""
    plain = asdict(scores)
    plain["nll"] = [[None if np.isnan(each) else each for each in row] for row in scores.nll.tolist()]
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in plain.items()}


def _from_plain(plain: Mapping[str, Any]) -> ShotScores:
    """Turn the plain form back."""
    shots = len(plain["tokens"])
    return ShotScores(
        repo_ids=tuple(plain["repo_ids"]),
        nll=np.array(plain["nll"], dtype=np.float64).reshape(-1, shots),  # None becomes NaN
        tokens=np.array(plain["tokens"], dtype=np.int64),
        correct=np.array(plain["correct"], dtype=np.int8).reshape(-1, shots),
        rejected=tuple(Rejection(**each) for each in plain["rejected"]),
        base_nll=None if plain["base_nll"] is None else np.array(plain["base_nll"]),
        base_correct=None if plain["base_correct"] is None else np.array(plain["base_correct"], dtype=np.int8),
        answers=tuple(tuple(row) for row in plain["answers"]),
        cost=Cost(**plain["cost"]) if plain["cost"] else None,
    )
