from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.discovery.known_data import own_data
from rocket_hub.errors import NothingLeftError
from rocket_hub.options import ExpertOptions
from rocket_hub.pipeline.adapters import Shelf, expert_folder
from rocket_hub.pipeline.context import Context, rejecting
from rocket_hub.plots import draw_experts
from rocket_hub.records import AdapterCandidate, AdapterDiscovery, Example, ExpertScore, ExpertSelection, Rejection
from rocket_hub.results import Discovery
from rocket_hub.runs import digest, once
from rocket_hub.selection.experts import select_experts as choose_group
from rocket_hub.selection.rationales import Rationales, Teacher, from_model, with_rationales
from rocket_hub.selection.scoring import expert_scores, score_adapters
from rocket_hub.selection.selectors import Probes, kshot_tokens, kshot_votes, mixture_loss
from rocket_hub.selection.shots import choices_of
from rocket_hub.selection.statistics import Cost, ShotScores, base_score, left_behind, with_evidence
from rocket_hub.serialization import from_dict
from rocket_hub.tasks import Task

FORMAT = 2


def shot_scores(context: Context, experts: Shelf, adapters: Any) -> ShotScores:
    """Score adapters on the K-shot, or take what an earlier run in the folder found from the same inputs.

    Selectors that choose among all adapters need all of them scored on all shots. `adapters` names them with their
    commits, as plain data.
    """
    options = context.recipe.experts
    if options.selector not in ("rocket", "best_single"):
        options = replace(options, shortlist=len(experts), budget="all")
    settings = [
        options.budget,
        options.signal,
        options.perplexity,
        options.rationales,
        options.shortlist,
        context.recipe.evaluate.max_new_tokens,
        context.placement.precision,
    ]
    inputs = context.inputs(format=FORMAT, adapters=adapters, settings=settings)
    path = context.run.path / "scores" / f"{digest(inputs)}.json"
    return _from_plain(once(path, lambda: _plain(_score(context, experts, options))))


def reasoned_shots(context: Context) -> Rationales:
    """Give reasoning to the shots that have none, where the recipe asks for it; what was written is kept."""
    shots = context.examples
    sources = tuple("given" if shot.rationale else "none" for shot in shots)
    if context.recipe.experts.rationales == "given" or "none" not in sources:
        return Rationales(shots, sources)
    path = context.run.path / "scores" / f"rationales-{digest(context.inputs(dtype=context.placement.precision))}.json"

    def write() -> Rationales:
        context.reporter.say(f"the base model writes the reasoning of {sources.count('none')} examples")
        made = with_rationales(context.plain or shots, _writer(context), completion=context.task.completion,
                               extract=context.task.extract)  # fmt: skip
        return replace(made, examples=tuple(map(partial(_asked, context.task), made.examples, shots)))

    known = once(path, write)
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


def _score(context: Context, experts: Shelf, options: ExpertOptions) -> ShotScores:
    """Run the adapters on the base model."""
    shots, (model, tokenizer) = reasoned_shots(context).examples, context.base
    return score_adapters(
        model,
        tokenizer,
        experts,
        shots,
        extract=context.task.extract,
        stop=context.task.stop,
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


PICTURE = "experts.svg"


def select_experts(context: Context, found: Discovery) -> ExpertSelection:
    """Stage 2: score the adapters on the K-shot, choose the group of experts (Algorithm 1) and check the choice."""

    def make(folder: Path) -> ExpertSelection:
        taken, closed = _without_task_data(context, found.adapters)
        experts, unusable = _read_experts(context, taken)
        if not experts:
            raise NothingLeftError(
                f"no adapter on the Hub can be used with {context.recipe.base}; see {context.run.path / '1-discover'} "
                "for the reasons, or choose another base with --base"
            )
        selection = _choose(context, experts, taken)
        selection = replace(selection, rejected=(*selection.rejected, *unusable, *closed))
        draw_experts(selection, folder / PICTURE)
        return selection

    inputs = context.inputs(
        "experts",
        adapters=found.adapters.selected,
        scoring=[context.recipe.evaluate.max_new_tokens, context.placement.precision],
        leave_task_out=[context.recipe.discover.leave_task_out, context.task.dataset, *context.task.closed],
    )
    return context.run.stage("2-select-experts", inputs, make, ExpertSelection)


def check_chosen(context: Context, selection: ExpertSelection) -> None:
    """Say what the verdict means for the build, and refuse fewer experts than the routers are to choose among."""
    if 0 < len(selection.selected) < (wanted := context.recipe.merge.top_k or 1):
        raise NothingLeftError(
            f"merge.top_k is {wanted}, and {len(selection.selected)} expert is left: {selection.reason}; leave "
            "merge.top_k out of the recipe, or take the whole group with -o experts.follow_verdict=false"
        )
    if not selection.selected:
        context.reporter.say(
            f"{selection.reason}; the build goes on with a fresh LoRA (-o experts.follow_verdict=false takes "
            f"{', '.join(selection.group)} all the same)"
        )


def _choose(context: Context, experts: Shelf, candidates: Iterable[AdapterCandidate]) -> ExpertSelection:
    """Score the adapters and choose among them."""
    recipe, by_name = context.recipe, {candidate.repo_id: candidate for candidate in candidates}
    reasoned = reasoned_shots(context)
    pins = [[name, by_name[name].revision] for name in experts]
    scored = shot_scores(context, experts, pins)
    whole = with_evidence(expert_scores(scored), scored)
    factors = {  # of those which were scored on all shots; with a budget, the finalists
        score.repo_id: {module: (a.numpy(), b.numpy()) for module, (a, b) in experts[score.repo_id].items()}
        for score in whole
    }
    batch = recipe.evaluate.batch_size
    selection = choose_group(
        _labelled(whole, by_name, context.task),
        factors,
        recipe.experts,
        base=base_score(scored, recipe.base),
        seed=recipe.seed,
        probes=Probes(
            mixture_loss(*context.base, factors, reasoned.examples, batch_size=batch),
            kshot_votes(*context.base, reasoned.examples),
            kshot_tokens(*context.base, factors, reasoned.examples, batch_size=batch),
        ),
    )
    behind = _labelled(left_behind(scored, len(whole)), by_name, context.task)
    cost = {key: float(value) for key, value in asdict(scored.cost).items()} if scored.cost else {}
    return replace(selection, scores=(*selection.scores, *behind), rejected=(*selection.rejected, *scored.rejected),
                   rationales=reasoned.in_words(), cost=cost)  # fmt: skip


def _labelled(
    scores: Iterable[ExpertScore], candidates: Mapping[str, AdapterCandidate], task: Task
) -> tuple[ExpertScore, ...]:
    """Add what discovery knows to the scores."""
    labelled = []
    for score in scores:
        candidate = candidates[score.repo_id]
        marks = (*(["task_data"] if _made_from(candidate, task) else []), *candidate.flags, *score.marks)
        labelled.append(replace(score, licence=candidate.licence, marks=tuple(dict.fromkeys(marks))))
    return tuple(labelled)


def _made_from(candidate: AdapterCandidate, task: Task) -> str:
    """Name the data set of the task's own that an adapter says it was trained on; empty when there is none."""
    return next(iter(own_data(candidate.datasets, [*task.closed, task.dataset], copies=True)), "")


def _without_task_data(
    context: Context, found: AdapterDiscovery
) -> tuple[tuple[AdapterCandidate, ...], list[Rejection]]:
    """Leave out the adapters made from the task's own training data, where that was asked for."""
    if not context.recipe.discover.leave_task_out:
        return found.selected, []
    made = {candidate.repo_id: _made_from(candidate, context.task) for candidate in found.selected}
    rejected = [
        Rejection(repo_id, "task_data", f"trained on {origin}, the task's own training data")
        for repo_id, origin in made.items() if origin
    ]  # fmt: skip
    return tuple(candidate for candidate in found.selected if not made[candidate.repo_id]), rejected


def _read_experts(context: Context, candidates: Sequence[AdapterCandidate]) -> tuple[Shelf, list[Rejection]]:
    """Download and check the candidates, each once; one that turns out to be unusable is rejected, not fatal."""
    sound = Shelf(context.base[0].get_parameter)
    rejected: list[Rejection] = []
    for number, candidate in enumerate(candidates, 1):
        context.reporter.advance("reading adapters", number, len(candidates))
        with rejecting(candidate.repo_id, rejected):
            sound.put(candidate.repo_id, expert_folder(context, candidate))
    return sound, rejected
