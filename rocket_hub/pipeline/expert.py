"""Make and publish one LoRA expert from one data set: how the bank that others choose from comes about."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery import load_instructions
from rocket_hub.discovery.instructions import discover_datasets
from rocket_hub.discovery.licences import combine
from rocket_hub.discovery.pins import pin_model
from rocket_hub.errors import DatasetError, NothingLeftError, StorageError
from rocket_hub.lora.attach import ADAPTER, fresh_lora
from rocket_hub.options import DiscoverOptions
from rocket_hub.pipeline.context import check_alone
from rocket_hub.pipeline.problems import as_example, questions, read_problems
from rocket_hub.publishing import create_model_card, push_to_hub
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Pinned, Row
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.runs import Reporter, RunFolder, digest, write_text
from rocket_hub.selection.decontamination import contaminated
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks import Task, get_task

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class ExpertPlan:
    """What an expert is made of; how it is trained is the recipe's.

    Attributes:
        dataset: A data set's id, or a file in any form that `load_kshot` reads.
        rank: Rank of every adapted module.
        alpha: LoRA's alpha; the update counts alpha / rank.
        targets: Endings of module names; `all-linear` = every linear layer but the head.
        max_rows: At most this many rows are read.
        quantization: `4bit` or `8bit` for QLoRA; none = as the base is stored.
    """

    dataset: str
    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("all-linear",)
    max_rows: int = 20_000
    quantization: str | None = None


def make_expert(api: HfApi, plan: ExpertPlan, recipe: Recipe, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Train one LoRA expert and write it with a card.

    A chat model is trained in its template. Rows without an answer in the task's form, and rows that hold a problem of
    its evaluation set, are left out. What an earlier run in the same folder finished from the same inputs is kept.

    Args:
        api: The Hub.
        plan: Data and shape of the adapter.
        recipe: Task, base, seed, training options and evaluation set.
        out: Folder of the adapter; the training itself is in `training` below it.
        reporter: Told how far it is.

    Returns:
        What was done: the training, the base and the data at their commits, and the number of rows.

    Raises:
        DatasetError: The data set cannot be used.
        InputError: The base's tokenizer cannot be used, or this is one of several processes of a launch.
        TaskError: There is no such task, or the base's chat template cannot be used.
        NothingLeftError: No row can be trained on.
        HubError: The Hub did not give what was asked for.
    """
    check_alone()
    task = get_task(recipe.task).at(recipe.evaluate.dataset, recipe.evaluate.config)
    raw, data = read_rows(api, plan, task)
    base = pin_model(api, recipe.base)
    task = _as_asked(task, base)
    rows, held_out = without_problems(_in_form(raw, task, plan.dataset), task, recipe.evaluate.split)
    reporter.say(f"{len(rows):,} rows of {data.repo_id}, {held_out:,} left out that hold problems of {task.dataset}")
    inputs = {"plan": to_dict(plan), "train": to_dict(recipe.train), "seed": recipe.seed, "task": task.name,
              "base": to_dict(base), "rows": digest([to_dict(row) for row in rows])}  # fmt: skip

    def make(folder: Path) -> dict[str, Any]:
        return {"training": _train(plan, recipe, rows, base, folder, reporter)}

    done = RunFolder(out, reporter).stage("training", inputs, make)
    ledger = combine([base, data], [data.licence])
    facts = {**done, "base": to_dict(base), "data": to_dict(data), "rows": len(rows), "held_out": held_out,
             "licence": ledger.result, "licence_notes": "; ".join(ledger.restrictions)}  # fmt: skip
    try:
        for name in ADAPTER:
            shutil.copyfile(out / "training" / "adapter" / name, out / name)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error}; free some space and run it again") from error
    write_text(out / "README.md", _card(facts, plan, task, recipe))
    return facts


def read_rows(api: HfApi, plan: ExpertPlan, task: Task) -> tuple[list[Example], Pinned]:
    """Read the data, from a file or from the Hub, as it is there."""
    if Path(plan.dataset).is_file():
        raw = list(load_kshot(plan.dataset)[: plan.max_rows])
        data = Pinned(Path(plan.dataset).name, "", "dataset")
    else:
        found = discover_datasets(api, options=DiscoverOptions(datasets=(plan.dataset,)), task=task)
        if not found.selected:
            lost = found.rejected[0]
            raise DatasetError(lost.reason, f"{lost.item}: {lost.reason}: {lost.detail}; give another --dataset")
        candidate = found.selected[0]
        read = load_instructions(api, candidate, max_rows=plan.max_rows)
        raw = [as_example(row.prompt, row.completion) for row in read]
        data = Pinned(candidate.repo_id, candidate.revision, "dataset", candidate.licence)
    return raw, data


def _as_asked(task: Task, base: Pinned) -> Task:
    """Return the task as the base is asked; see `Task.for_model`."""
    from rocket_hub.inference.models import load_tokenizer

    return task.for_model(load_tokenizer(base.repo_id, base.revision))


def _in_form(raw: list[Example], task: Task, dataset: str) -> list[Example]:
    """Bring rows into the task's form; those without an answer are left out."""
    rows = [example for example in map(task.example, raw) if example.answer]
    if not rows:
        raise NothingLeftError(f"{dataset}: none of {len(raw)} rows has an answer in the form of '{task.name}'")
    return rows


def without_problems(rows: list[Example], task: Task, split: str | None) -> tuple[list[Example], int]:
    """Leave out the rows that hold a problem of the task's evaluation set; returns the others, and how many it were."""
    asked = [Row(question, row.completion, "", i) for i, (question, row) in
             enumerate(zip(questions(task, rows), rows, strict=True))]  # fmt: skip
    held = contaminated(asked, questions(task, read_problems(task, split, None)))
    kept = [row for position, row in enumerate(rows) if position not in held]
    if not kept:
        raise NothingLeftError(f"all {len(rows)} rows hold problems of {task.dataset} ({split}); take its train split")
    return kept, len(held)


def _train(
    plan: ExpertPlan, recipe: Recipe, rows: list[Example], base: Pinned, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train a fresh LoRA in the stage's folder; an unfinished training there goes on."""
    from rocket_hub.inference.models import load_base
    from rocket_hub.training import train_expert

    reporter.say(f"loading {base.repo_id}")
    model, tokenizer = load_base(
        base.repo_id, base.revision or None, recipe.train.dtype, quantization=plan.quantization
    )
    start = fresh_lora(
        model, folder / "start", rank=plan.rank, alpha=plan.alpha, targets=plan.targets, seed=recipe.seed,
        base_model=base.repo_id, base_revision=base.revision,
    )  # fmt: skip
    training = train_expert(
        model,
        tokenizer,
        start,
        rows,
        recipe.train,
        folder / "adapter",
        seed=recipe.seed,
        progress=lambda step, steps, loss: reporter.advance("training", step, steps),
    )
    return {key: value for key, value in asdict(training).items() if key != "adapter"}


def _card(facts: dict[str, Any], plan: ExpertPlan, task: Task, recipe: Recipe) -> str:
    """Write the expert's card: discovery reads it again."""
    base, data = from_dict(Pinned, facts["base"], "base"), from_dict(Pinned, facts["data"], "data")
    metadata = {
        "base_model": base.repo_id,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": facts["licence"],
        "datasets": [data.repo_id] if data.revision else [],
        "tags": ["lora", "rocket-hub"],
    }
    told = {**facts, "plan": to_dict(plan), "task": task, "options": to_dict(recipe.train)}
    return create_model_card(told, metadata, "expert_card.md")


def push_expert(api: HfApi, out: Path, repo_id: str, private: bool) -> str:
    """Publish an expert's adapter and card in one commit and return the commit's hash."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        for name in (*ADAPTER, "README.md"):
            shutil.copyfile(out / name, Path(folder) / name)
        return push_to_hub(api, Path(folder), repo_id, private=private, message="Publish an expert with rocket_hub")
