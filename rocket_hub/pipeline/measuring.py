"""Measure plain models and PEFT adapters on a task, without a build."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from rocket_hub.discovery.hub.client import call
from rocket_hub.errors import AdapterError, InputError
from rocket_hub.evaluation import bootstrap_difference, evaluate, paired_difference
from rocket_hub.inference.models import load_base
from rocket_hub.lora.attach import ADAPTER
from rocket_hub.lora.config import read_config
from rocket_hub.options import EvaluateOptions
from rocket_hub.pipeline.context import check_alone
from rocket_hub.pipeline.loading import fetch_adapter  # and, by that, the routed adapter type for PEFT
from rocket_hub.pipeline.problems import read_problems
from rocket_hub.records import Evaluation, Pinned
from rocket_hub.runs import Reporter, digest
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_BYTES = 8 * 2**30
# Settings with which PEFT would import, or fetch, something else than the adapter itself.
REACHING_OUT = ("adapters", "megatron_config", "tokenizer_kwargs")


def measure_models(
    api: HfApi,
    task: Task,
    model: str | None,
    adapters: Sequence[str],
    options: EvaluateOptions,
    *,
    dtype: str = "float32",
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
        dtype: `float32` or `bfloat16`.
        kept: Folder for the answers; what an earlier run kept there is not asked again. None = nowhere.
        reporter: Told how far it is.

    Returns:
        Everything at its commit, the measurements, and differences to the bare model with error and bootstrap interval.

    Raises:
        InputError: What was given cannot be used, the adapters' bases differ, or this is one of several processes.
        HubError: The Hub did not give what was asked for.
    """
    check_alone()
    found = [adapter_folder(api, adapter) for adapter in adapters]
    base = _base(api, model, [folder for _, folder in found])
    data = Pinned(task.dataset, task.revision or str(call(task.dataset, api.dataset_info, task.dataset).sha), "dataset")
    tuned, tokenizer = _load(base, dtype)
    asked = task.for_model(tokenizer)
    problems = read_problems(asked, options.split, data.revision, max_rows=options.max_rows)

    def measured(model: Any, pinned: Pinned, *what: str) -> Evaluation:
        answers = kept / f"{digest([to_dict(base), dtype, *what])}.jsonl" if kept else None
        return evaluate(
            model, tokenizer, asked, problems, options, method=pinned.repo_id, kept=answers,
            progress=lambda done, total: reporter.advance(f"measuring {pinned.repo_id}", done, total),
        )  # fmt: skip

    evaluations = [measured(tuned, base)]
    del tuned  # only one model at a time in memory
    for pinned, folder in found:
        evaluations.append(measured(_adapted(_load(base, dtype)[0], folder), pinned, pinned.repo_id, pinned.revision))
    return {
        "task": task.name,
        "evaluation_set": {**to_dict(data), "config": task.config, "split": options.split or task.split},
        "chat_template": asked.chat is not None,
        "options": {**to_dict(options), "few_shot": len(task.shots), "dtype": dtype},
        "model": to_dict(base),
        "adapters": [to_dict(pinned) for pinned, _ in found],
        **_compared(evaluations),
    }


def adapter_folder(api: HfApi, adapter: str) -> tuple[Pinned, Path]:
    """Find an adapter's folder; from the Hub, pinned to its newest commit, and only its two files.

    Raises:
        AdapterError: There are no safetensors, or its configuration cannot be used.
        HubError: It cannot be downloaded.
    """
    folder = Path(adapter)
    if folder.is_dir():
        pinned = Pinned(adapter, _state(folder))
        if missing := [name for name in ADAPTER if not (folder / name).is_file()]:
            raise AdapterError("no_safetensors", f"{adapter}: holds no {missing[0]}; save the adapter as safetensors")
    else:
        pinned = Pinned(adapter, str(call(adapter, api.model_info, adapter).sha))
        folder = fetch_adapter(api, adapter, pinned.revision, max_bytes=MAX_BYTES)
    config = read_config(folder)
    if reaching := [name for name in REACHING_OUT if config.get(name)]:
        raise AdapterError(
            "unsupported_config",
            f"{adapter}: {ADAPTER[0]} sets '{reaching[0]}', so PEFT would load more than this adapter; give another",
        )
    return pinned, folder


def _base(api: HfApi, model: str | None, adapters: Sequence[Path]) -> Pinned:
    """Pin the base model: the one that was given, else the one that the adapters name."""
    revision: str | None = None
    if model is None:
        configs = [read_config(folder) for folder in adapters]
        names = sorted({str(config.get("base_model_name_or_path") or "") for config in configs})
        if len(names) != 1 or not names[0]:
            raise InputError(f"the adapters name the base models {', '.join(names) or '(none)'}; give one with --model")
        model, commits = names[0], {config.get("revision") for config in configs}
        revision = commits.pop() if len(commits) == 1 else None
    if Path(model).is_dir():
        return Pinned(model, _state(Path(model)))
    return Pinned(model, str(call(model, api.model_info, model, revision=revision).sha))


def _state(folder: Path) -> str:
    """Name what is in a folder, by the names, sizes and times of its files."""
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in files])


def _load(base: Pinned, dtype: str) -> tuple[Any, Any]:
    """Load the base model onto the accelerator, if there is one."""
    import torch

    model, tokenizer = load_base(base.repo_id, None if Path(base.repo_id).is_dir() else base.revision, dtype)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _adapted(base: Any, folder: Path) -> Any:
    """Put an adapter of any PEFT type on the base model.

    Raises:
        AdapterError: It does not fit, or some of its weights are missing.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # PEFT only warns, and goes on with random numbers
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, str(folder)).eval()
    except (
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        OSError,
        AttributeError,
        UserWarning,
        SafetensorError,
    ) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise AdapterError("does_not_load", f"{folder}: does not load on this model: {' '.join(said)[:400]}") from error


def _compared(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Put the measurements beside the others' differences to the first, problem by problem."""
    base, differences = evaluations[0], []
    for one in evaluations[1:]:
        (gap, error), (low, high) = paired_difference(one, base), bootstrap_difference(one, base)
        differences.append({"method": one.method, "difference": gap, "standard_error": error, "low": low, "high": high})
    return {"evaluations": [to_dict(each) for each in evaluations], "differences": differences}
