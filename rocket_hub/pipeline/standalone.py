import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from safetensors import SafetensorError

from rocket_hub.discovery import load_instructions
from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.instructions import discover_datasets
from rocket_hub.discovery.licences import combine, pin_model
from rocket_hub.errors import AdapterError, DatasetError, InputError, NothingLeftError
from rocket_hub.evaluation import bootstrap_difference, evaluate, paired_difference
from rocket_hub.inference.models import AUTO, load_base, load_tokenizer
from rocket_hub.inference.placement import place
from rocket_hub.lora.attach import copy_adapter, fresh_lora, load_adapter
from rocket_hub.lora.config import read_config
from rocket_hub.options import ComputeOptions, DiscoverOptions, EvaluateOptions
from rocket_hub.pipeline.adapters import at_commit, find_adapter  # and, by that, the routed adapter type for PEFT
from rocket_hub.pipeline.context import check_alone, questions, read_problems
from rocket_hub.publishing import adapter_metadata, create_model_card, push_to_hub
from rocket_hub.recipe import Recipe
from rocket_hub.records import Evaluation, Example, Pinned
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.runs import Reporter, RunFolder, digest, write_text
from rocket_hub.selection.decontamination import contaminated
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks import Task, get_task
from rocket_hub.training import train_expert


def measure_models(
    api: HfApi,
    task: Task,
    model: str | None,
    adapters: Sequence[str],
    options: EvaluateOptions,
    *,
    compute: ComputeOptions = AUTO,
    kept: Path | None = None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Measure a model, and adapters on it, on the same problems.

    A chat model is asked in its template. Every adapter gets the base freshly loaded: some change its weights.

    Args:
        api: The Hub.
        task: The task, with the examples that stand before every problem.
        model: Repository id or folder; none = what the adapters were made for.
        adapters: Repository ids or folders.
        options: Evaluation set and how is measured.
        compute: Device and precision.
        kept: Folder for the answers; what an earlier run kept there is not asked again. None = nowhere.
        reporter: Told how far it is.

    Returns:
        Everything at its commit, the measurements, and differences to the bare model with error and bootstrap interval.

    Raises:
        InputError: What was given cannot be used, the adapters' bases differ, or this is one of several processes.
        HubError: The Hub did not give what was asked for.
    """
    check_alone()
    found = [find_adapter(api, adapter) for adapter in adapters]
    base = _base(api, model, [folder for _, folder in found])
    data = Pinned(task.dataset, task.revision or str(call(task.dataset, api.dataset_info, task.dataset).sha), "dataset")
    tuned, tokenizer = _load(base, compute)
    asked = task.for_model(tokenizer)
    problems = read_problems(asked, options.split, data.revision, max_rows=options.max_rows)

    def measured(model: Any, pinned: Pinned, *what: str) -> Evaluation:
        answers = kept / f"{digest([to_dict(base), place(compute).precision, *what])}.jsonl" if kept else None
        return evaluate(
            model, tokenizer, asked, problems, options, method=pinned.repo_id, kept=answers,
            progress=lambda done, total: reporter.advance(f"measuring {pinned.repo_id}", done, total),
        )  # fmt: skip

    evaluations = [measured(tuned, base)]
    del tuned  # only one model at a time in memory
    for pinned, folder in found:
        evaluations.append(measured(_adapted(_load(base, compute)[0], folder), pinned, pinned.repo_id, pinned.revision))
    return {
        "task": task.name,
        "evaluation_set": {**to_dict(data), "config": task.config, "split": options.split or task.split},
        "chat_template": asked.chat is not None,
        "options": {**to_dict(options), "few_shot": len(task.shots), "precision": place(compute).precision},
        "model": to_dict(base),
        "adapters": [to_dict(pinned) for pinned, _ in found],
        **_compared(evaluations),
    }


def _base(api: HfApi, model: str | None, adapters: Sequence[Path]) -> Pinned:
    """Pin the base model: the one that was given, else the one that the adapters name."""
    revision: str | None = None
    if model is None:
        configs = [read_config(folder) for folder in adapters]
        names = sorted({str(config.get("base_model_name_or_path") or "") for config in configs})
        if len(names) != 1 or not names[0]:
            raise InputError(f"the adapters name the base models {', '.join(names) or '(none)'}; give one as MODEL")
        model, commits = names[0], {config.get("revision") for config in configs}
        revision = commits.pop() if len(commits) == 1 else None
    return at_commit(api, model, revision)


def _load(base: Pinned, compute: ComputeOptions) -> tuple[Any, Any]:
    return load_base(base.repo_id, None if Path(base.repo_id).is_dir() else base.revision, compute)


def _adapted(base: Any, folder: Path) -> Any:
    """Put an adapter of any PEFT type on the base model."""
    try:
        return load_adapter(base, folder).eval()
    except AdapterError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, AttributeError, SafetensorError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise AdapterError("does_not_load", f"{folder}: does not load on this model: {' '.join(said)[:400]}") from error


def _compared(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Put the measurements beside the others' differences to the first, problem by problem."""
    base, differences = evaluations[0], []
    for one in evaluations[1:]:
        (gap, error), (low, high) = paired_difference(one, base), bootstrap_difference(one, base)
        differences.append({"method": one.method, "difference": gap, "standard_error": error, "low": low, "high": high})
    return {"evaluations": [to_dict(each) for each in evaluations], "differences": differences}


@dataclass(frozen=True)
class ExpertPlan:
    """What an expert is made of; how it is trained is the recipe's.

    Attributes:
        dataset: A data set's id, or a file in any form that `load_kshot` reads.
        rank: Rank of every adapted module.
        alpha: LoRA's alpha; the update counts alpha / rank.
        targets: Endings of module names; `all-linear` = every linear layer but the head.
        max_rows: At most this many rows are read.
    """

    dataset: str
    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("all-linear",)
    max_rows: int = 20_000


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
    task = task.for_model(load_tokenizer(base.repo_id, base.revision))
    rows, held_out = without_problems(_in_form(raw, task, plan.dataset), task, recipe.evaluate.split)
    reporter.say(f"{len(rows):,} rows of {data.repo_id}, {held_out:,} left out that hold problems of {task.dataset}")
    inputs = {"plan": to_dict(plan), "train": to_dict(recipe.train), "seed": recipe.seed, "task": task.name,
              "base": to_dict(base), "rows": digest(rows)}  # fmt: skip

    def make(folder: Path) -> dict[str, Any]:
        return {"training": _train(plan, recipe, rows, base, folder, reporter)}

    done: dict[str, Any] = RunFolder(out, reporter).stage("training", inputs, make)
    ledger = combine([base, data], [data.licence])
    facts = {**done, "base": to_dict(base), "data": to_dict(data), "rows": len(rows), "held_out": held_out,
             "licence": ledger.result, "licence_notes": "; ".join(ledger.restrictions)}  # fmt: skip
    copy_adapter(out / "training" / "adapter", out)
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
            raise DatasetError(lost.reason, f"{lost.item}: {lost.reason}: {lost.detail}; give another data set")
        candidate = found.selected[0]
        raw = load_instructions(api, candidate, max_rows=plan.max_rows)
        data = Pinned(candidate.repo_id, candidate.revision, "dataset", candidate.licence)
    return raw, data


def _in_form(raw: list[Example], task: Task, dataset: str) -> list[Example]:
    """Bring rows into the task's form; those without an answer are left out."""
    rows = [example for example in map(task.example, raw) if example.answer]
    if not rows:
        raise NothingLeftError(f"{dataset}: none of {len(raw)} rows has an answer in the form of '{task.name}'")
    return rows


def without_problems(rows: list[Example], task: Task, split: str | None) -> tuple[list[Example], int]:
    """Leave out the rows that hold a problem of the task's evaluation set; returns the others, and how many it were."""
    asked = [Example(question, row.completion, source="", index=i) for i, (question, row) in
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
    reporter.say(f"loading {base.repo_id}")
    model, tokenizer = load_base(base.repo_id, base.revision or None, recipe.compute)
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
    metadata = adapter_metadata(base.repo_id, facts["licence"], [data.repo_id] if data.revision else [])
    told = {**facts, "plan": to_dict(plan), "task": task, "options": to_dict(recipe.train),
            "precision": place(recipe.compute).precision}  # fmt: skip
    return create_model_card(told, metadata, "expert_card.md")


def push_expert(api: HfApi, out: Path, repo_id: str, private: bool) -> str:
    """Publish an expert's adapter and card in one commit and return the commit's hash."""
    with TemporaryDirectory() as folder:
        copy_adapter(out, Path(folder))
        shutil.copyfile(out / "README.md", Path(folder) / "README.md")
        return push_to_hub(api, Path(folder), repo_id, private=private, message="Publish an expert with rocket_hub")
