"""Make and publish one LoRA expert from one data set: how the bank that others choose from comes about."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery import load_instructions
from rocket_hub.discovery.hub import call
from rocket_hub.discovery.instructions import discover_datasets
from rocket_hub.errors import DatasetError, InputError, NothingLeftError
from rocket_hub.kshot import load_kshot
from rocket_hub.options import DiscoverOptions, TrainOptions
from rocket_hub.pipeline.problems import as_example
from rocket_hub.publishing import push_to_hub
from rocket_hub.records import Example, Pinned
from rocket_hub.runs import Reporter, write_text
from rocket_hub.tasks import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class ExpertPlan:
    """What an expert is made of.

    Attributes:
        dataset: A data set's id, or a file in any form that `load_kshot` reads.
        base: Base model, a repository id or a folder.
        rank: Rank of every adapted module.
        alpha: LoRA's alpha; the update counts alpha / rank.
        targets: Endings of module names; `all-linear` = every linear layer but the head.
        max_rows: At most this many rows are used.
        quantization: `4bit` or `8bit` for QLoRA; none = as the base is stored.
        seed: Seeds initialisation and data order.
    """

    dataset: str
    base: str
    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("all-linear",)
    max_rows: int = 20_000
    quantization: str | None = None
    seed: int = 0


def make_expert(
    api: HfApi, plan: ExpertPlan, task: Task, options: TrainOptions, out: Path, reporter: Reporter
) -> dict[str, Any]:
    """Train one LoRA expert and write it with a card; an unfinished training in `out` is resumed.

    Args:
        api: The Hub.
        plan: Data, base and shape of the adapter.
        task: Brings the rows into its form.
        options: Steps, batch size and the rest.
        out: Folder of the adapter.
        reporter: Told how far it is.

    Returns:
        What was done: the training, the base and the data at their commits, and the number of rows.

    Raises:
        DatasetError: The data set cannot be used.
        NothingLeftError: No row has an answer in the task's form.
        HubError: The Hub did not give what was asked for.
    """
    from transformers import set_seed

    from rocket_hub.base_models import load_base
    from rocket_hub.training import train_expert

    rows, data = read_rows(api, plan, task)
    base = _pin_base(api, plan.base)
    reporter.say(f"{len(rows):,} rows of {data.repo_id}; loading {base.repo_id}")
    model, tokenizer = load_base(base.repo_id, base.revision or None, options.dtype, quantization=plan.quantization)
    set_seed(plan.seed)
    start = _start(model, plan, out / "start", base)
    training = train_expert(
        model,
        tokenizer,
        start,
        rows,
        options,
        out,
        seed=plan.seed,
        progress=lambda step, steps, loss: reporter.advance("training", step, steps),
    )
    shutil.rmtree(start)
    facts = {"training": asdict(training), "base": asdict(base), "data": asdict(data), "rows": len(rows)}
    write_text(out / "README.md", _card(facts, plan, task, options))
    return facts


def read_rows(api: HfApi, plan: ExpertPlan, task: Task) -> tuple[list[Example], Pinned]:
    """Read the data, from a file or from the Hub, in the task's form; rows without an answer are left out."""
    if Path(plan.dataset).is_file():
        raw: Sequence[Example] = load_kshot(plan.dataset)[: plan.max_rows]
        data = Pinned(Path(plan.dataset).name, "", "dataset")
    else:
        found = discover_datasets(api, options=DiscoverOptions(datasets=(plan.dataset,)), task=task)
        if not found.selected:
            lost = found.rejected[0]
            raise DatasetError(lost.reason, f"{lost.item}: {lost.reason}: {lost.detail}; give another --dataset")
        candidate = found.selected[0]
        raw = [
            as_example(row.prompt, row.completion) for row in load_instructions(api, candidate, max_rows=plan.max_rows)
        ]
        data = Pinned(candidate.repo_id, candidate.revision, "dataset", candidate.licence)
    rows = [example for example in map(task.example, raw) if example.answer]
    if not rows:
        raise NothingLeftError(f"{plan.dataset}: none of {len(raw)} rows has an answer in the form of '{task.name}'")
    return rows, data


def _pin_base(api: HfApi, base: str) -> Pinned:
    """Pin the base to its commit; a folder has none."""
    if Path(base).is_dir():
        return Pinned(base, "")
    return Pinned(base, str(call(base, api.model_info, base).sha))


def _start(model: Any, plan: ExpertPlan, folder: Path, base: Pinned) -> Path:
    """Write a fresh LoRA."""
    from peft import LoraConfig, get_peft_model

    targets = plan.targets[0] if plan.targets == ("all-linear",) else list(plan.targets)
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.repo_id,
        revision=base.revision or None,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"--targets {','.join(plan.targets)}: {error}; name endings of modules of the base") from error
    adapted.save_pretrained(str(folder))
    adapted.unload()
    return folder


def _card(facts: dict[str, Any], plan: ExpertPlan, task: Task, options: TrainOptions) -> str:
    """Write the expert's card: discovery reads it again."""
    import jinja2

    text = (files("rocket_hub") / "templates" / "expert_card.md").read_text(encoding="utf-8")
    template = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return template.render(**facts, plan=asdict(plan), task=task, options=asdict(options))


def push_expert(api: HfApi, out: Path, repo_id: str, private: bool) -> str:
    """Publish an expert's adapter and card in one commit and return the commit's hash."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
            shutil.copyfile(out / name, Path(folder) / name)
        return push_to_hub(api, Path(folder), repo_id, private=private, message="Publish an expert with rocket_hub")
