"""Stages 1 to 3: what is on the Hub, and what of it the K-shot chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.discovery import discover_adapters, discover_datasets, load_instructions
from rocket_hub.discovery.files import download
from rocket_hub.discovery.hub import call, reason_of
from rocket_hub.discovery.licences import combine, declared
from rocket_hub.errors import (
    AdapterError,
    DatasetError,
    HubError,
    HubUnreachableError,
    KShotError,
    NothingLeftError,
)
from rocket_hub.moe.expert import Expert, read_expert
from rocket_hub.pipeline.context import Context
from rocket_hub.records import (
    AdapterCandidate,
    AdapterDiscovery,
    DatasetDiscovery,
    Example,
    ExpertSelection,
    Pinned,
    Rejection,
    Row,
)
from rocket_hub.selection.decontamination import contaminated
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks import Task

MAX_ADAPTER_BYTES = 2 * 2**30
Results = Mapping[str, Any]


def discover(context: Context, name: str, results: Results) -> Any:
    """Find adapters and data on the Hub, pin everything, and judge licences."""

    def make(folder: Path) -> dict[str, Any]:
        recipe, api = context.recipe, context.api
        adapters = discover_adapters(
            api,
            recipe.base,
            options=recipe.discover,
            progress=lambda done, total: context.reporter.advance("looking at adapters", done, total),
        )
        datasets = discover_datasets(api, options=recipe.discover, task=context.task, exclude=(context.task.dataset,))
        encoder = _pin(context, recipe.instructions.encoder, "model")
        evaluation = _pin(context, context.task.dataset, "dataset")
        used = [
            *(Pinned(found.repo_id, found.revision, "model", found.licence) for found in adapters.selected),
            *(Pinned(found.repo_id, found.revision, "dataset", found.licence) for found in datasets.selected),
        ]
        ledger = combine([adapters.base, *used], recipe.discover.allow_licences)
        refused = {rejection.item for rejection in ledger.rejected}
        adapters = AdapterDiscovery(
            adapters.base,
            tuple(found for found in adapters.selected if found.repo_id not in refused),
            (*adapters.rejected, *(_ for _ in ledger.rejected if _.item in {a.repo_id for a in adapters.selected})),
        )
        datasets = DatasetDiscovery(
            tuple(found for found in datasets.selected if found.repo_id not in refused),
            (*datasets.rejected, *(_ for _ in ledger.rejected if _.item in {d.repo_id for d in datasets.selected})),
        )
        return {
            "adapters": to_dict(adapters),
            "datasets": to_dict(datasets),
            "encoder": to_dict(encoder),
            "evaluation": to_dict(evaluation),
        }

    result = context.run.stage(name, context.inputs("discover", encoder=context.recipe.instructions.encoder,
                                                    evaluation=context.task.dataset), make)  # fmt: skip
    context.pinned = from_dict(Pinned, result["adapters"]["base"], name)
    return result


def _pin(context: Context, repo_id: str, kind: str) -> Pinned:
    """Pin a repository to its present commit."""
    info = call(repo_id, context.api.repo_info, repo_id, repo_type=kind)
    return Pinned(repo_id, str(info.sha), kind, declared(getattr(info, "card_data", None)))


def adapter_folder(context: Context, candidate: AdapterCandidate | Pinned) -> Path:
    """Fetch an adapter's two files, pinned and checked, and return the folder that PEFT loads them from."""
    paths = [
        download(context.api, candidate.repo_id, candidate.revision, file, max_bytes=MAX_ADAPTER_BYTES)
        for file in ("adapter_model.safetensors", "adapter_config.json")
    ]
    return paths[-1].parent


def select_group(context: Context, name: str, results: Results) -> Any:
    """Score every adapter on the K-shot and choose the group of experts (Algorithm 1)."""
    from rocket_hub.selection.experts import select_experts
    from rocket_hub.selection.scoring import expert_scores, score_adapters

    found = from_dict(AdapterDiscovery, results["1-discover"]["adapters"], name)

    def make(folder: Path) -> dict[str, Any]:
        experts, folders, rejected = _read_experts(context, found)
        if not experts:
            raise NothingLeftError(
                f"no adapter on the Hub can be used with {context.recipe.base}; see {context.run.path / '1-discover'} "
                "for the reasons, or choose another base with --base"
            )
        model, tokenizer = context.base
        scored = score_adapters(
            model,
            tokenizer,
            folders,
            context.examples,
            extract=context.task.extract,
            batch_size=context.recipe.evaluate.batch_size,
            max_new_tokens=context.recipe.evaluate.max_new_tokens,
            progress=lambda done, total: context.reporter.advance("scoring adapters", done, total),
        )
        factors = {
            repo_id: {module: (a.numpy(), b.numpy()) for module, (a, b) in expert.modules.items()}
            for repo_id, expert in experts.items()
        }
        selection = select_experts(expert_scores(scored), factors, context.recipe.experts)
        everything = (*selection.rejected, *scored.rejected, *rejected)
        return to_dict(ExpertSelection(selection.selected, everything, selection.scores, selection.diversity,
                                       selection.best_single))  # fmt: skip

    inputs = context.inputs(
        "experts",
        adapters=results["1-discover"]["adapters"]["selected"],
        scoring=[context.recipe.evaluate.max_new_tokens, context.recipe.train.dtype],
    )
    return context.run.stage(name, inputs, make)


def _read_experts(
    context: Context, found: AdapterDiscovery
) -> tuple[dict[str, Expert], dict[str, Path], list[Rejection]]:
    """Download and read the candidates; one that turns out to be unusable is rejected, not fatal."""
    experts: dict[str, Expert] = {}
    folders: dict[str, Path] = {}
    rejected: list[Rejection] = []
    for number, candidate in enumerate(found.selected, 1):
        context.reporter.advance("reading adapters", number, len(found.selected))
        try:
            folder = adapter_folder(context, candidate)
            experts[candidate.repo_id] = read_expert(folder, candidate.repo_id)
            folders[candidate.repo_id] = folder
        except AdapterError as error:
            rejected.append(Rejection(candidate.repo_id, error.reason, str(error)))
        except HubUnreachableError:
            raise  # an outage is no verdict
        except HubError as error:
            rejected.append(Rejection(candidate.repo_id, reason_of(error), str(error)))
    return experts, folders, rejected


def evaluation_set(context: Context, pinned: Pinned, *, whole: bool = False) -> list[Example]:
    """Read the evaluation set in the task's form, at its commit; `whole` ignores `evaluate.max_rows`."""
    from datasets import load_dataset

    options, task = context.recipe.evaluate, context.task
    rows = call(task.dataset, load_dataset, task.dataset, task.config, split=options.split, revision=pinned.revision)
    kept = rows.select(range(min(options.max_rows, len(rows)))) if options.max_rows and not whole else rows
    return task.examples(kept, task.dataset)


def questions(task: Task, examples: list[Example]) -> list[str]:
    """Return the bare questions of problems in the task's form, for comparison with rows of data."""
    frame = task.prompt("\0").partition("\0")
    return [example.prompt.removeprefix(frame[0]).removesuffix(frame[2]) for example in examples]


def select_data(context: Context, name: str, results: Results) -> Any:
    """Read the data sets and choose the rows nearest to the K-shot (Algorithm 2)."""
    from rocket_hub.encoder import load_encoder
    from rocket_hub.selection.instructions import select_instructions

    before = results["1-discover"]
    found = from_dict(DatasetDiscovery, before["datasets"], name)

    def make(folder: Path) -> dict[str, Any]:
        rows, unreadable = _read_rows(context, found)
        problems = evaluation_set(context, from_dict(Pinned, before["evaluation"], name), whole=True)
        _refuse_leaked_shots(context, problems)
        encoder = load_encoder(before["encoder"]["repo_id"], before["encoder"]["revision"])
        context.reporter.say(f"comparing {len(rows):,} rows with {len(context.shots)} examples")
        usable = [row for row in rows if context.task.example(as_example(row.prompt, row.completion)).answer]
        selection = select_instructions(
            encoder, context.shots, usable, context.recipe.instructions,
            evaluation_questions=questions(context.task, problems),
        )  # fmt: skip
        result = {**to_dict(selection), "read": len(rows), "without_answer": len(rows) - len(usable)}
        return {**result, "rejected": [*result["rejected"], *map(to_dict, unreadable)]}

    inputs = context.inputs(
        "instructions",
        datasets=before["datasets"]["selected"],
        encoder=before["encoder"],
        evaluation=[before["evaluation"], context.recipe.evaluate.split, context.task.config],
        max_rows=context.recipe.discover.max_rows_per_dataset,
    )
    return context.run.stage(name, inputs, make)


def _read_rows(context: Context, found: DatasetDiscovery) -> tuple[list[Row], list[Rejection]]:
    """Read the data sets; one whose rows turn out to be unreadable is rejected, not fatal."""
    rows: list[Row] = []
    rejected: list[Rejection] = []
    for number, candidate in enumerate(found.selected, 1):
        context.reporter.advance("reading data sets", number, len(found.selected))
        try:
            rows += load_instructions(context.api, candidate, max_rows=context.recipe.discover.max_rows_per_dataset)
        except DatasetError as error:
            rejected.append(Rejection(candidate.repo_id, error.reason, str(error)))
    return rows, rejected


def _refuse_leaked_shots(context: Context, problems: list[Example]) -> None:
    """Refuse a K-shot that holds problems of the evaluation set: every number would be too good."""
    shots = [Row(shot.prompt, shot.completion, "kshot", number) for number, shot in enumerate(context.shots, 1)]
    if leaked := contaminated(shots, questions(context.task, problems)):
        numbers = ", ".join(str(position + 1) for position in sorted(leaked))
        raise KShotError(
            f"the K-shot's examples {numbers} are problems of the evaluation set {context.task.dataset} "
            f"({context.recipe.evaluate.split}); take examples from its train split, or another evaluation set"
        )


def as_example(prompt: str, completion: str) -> Example:
    """Wrap a row of data so that a task can bring it into its form."""
    return Example(prompt=prompt, completion=completion, answer="")
