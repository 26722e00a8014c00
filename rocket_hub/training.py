import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainingArguments

from rocket_hub.errors import InputError, RecipeError, StorageError
from rocket_hub.lora.attach import load_adapter
from rocket_hub.moe import RocketMoeConfig, router_parameters
from rocket_hub.moe.gates import layers
from rocket_hub.moe.losses import AuxiliaryLossCallback
from rocket_hub.moe.model import quantization_of
from rocket_hub.options import Schedule, TrainOptions
from rocket_hub.records import Example
from rocket_hub.results import Training

Progress = Callable[[int, int, float], None]  # steps done, steps in all, last loss
CHECKPOINTS = 4  # a stopped training loses at most a quarter of its steps
SCHEDULES = get_args(Schedule)
POOL = 512  # batches of a pool that is sorted by length
LARGE = 10**9  # parameters of a base, above which time and memory count for more
ROUTER_STAGE = 0.25  # share of the steps in which `two_stage` trains the routers alone


def train_expert(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: Path,
    examples: Sequence[Example],
    options: TrainOptions,
    output: Path,
    *,
    learning_rate: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    opened: Callable[[Any, Path, bool], AbstractContextManager[Any]] | None = None,
) -> Training:
    """Fine-tune an adapter: a plain LoRA, a stack of LoRAs or a routed adapter.

    Args:
        base: The base model; it is given back unchanged.
        tokenizer: Its tokenizer.
        adapter: Folder of the adapter to start from.
        examples: Rows in the task's form, `prompt` and `completion`.
        options: Steps, batch size and the rest.
        output: Folder for the trained adapter; an unfinished training found here is resumed.
        learning_rate: Peak learning rate; none = the first of `options`.
        seed: Seeds the data order and dropout.
        progress: Called after each step.
        opened: Opens what is no adapter, as `trainable` does.

    Raises:
        RecipeError: The schedule is unknown.
        StorageError: The output folder cannot be written.
    """
    if options.schedule not in SCHEDULES:
        raise RecipeError(f"train.schedule: expected one of {', '.join(SCHEDULES)}, found {options.schedule!r}")
    rate = learning_rate or options.learning_rate[0]
    started = time.monotonic()
    with (opened or trainable)(base, adapter, True) as model:
        _prepare(model, options)
        try:
            trainer = _fitted(
                lambda parts: _trainer(model, tokenizer, examples, parts, output, rate, seed, progress), options, output
            )
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            model.save_pretrained(str(output))
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # of the RuntimeErrors only torch's zip writer means a full disk
            raise StorageError(f"{output}: cannot save: {error}; free some space and run it again") from error
    for path in _checkpoints(output):
        shutil.rmtree(path, ignore_errors=True)
    loss = float(losses[-1]) if losses else float("nan")
    return Training(str(output), rate, options.max_steps, loss, time.monotonic() - started)


def _fitted(make: Callable[[TrainOptions], Any], options: TrainOptions, output: Path) -> Any:
    """Train, and where memory runs out go on from the last checkpoint with fewer rows at once; returns the trainer."""
    rows = options.micro_batch_size or options.batch_size
    while True:
        trainer = make(replace(options, micro_batch_size=rows))
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(output))
            return trainer
        except RuntimeError as error:
            if rows == 1 or not should_reduce_batch_size(error):
                raise
        del trainer
        clear_device_cache(garbage_collection=True)
        rows = next(part for part in range(rows // 2, 0, -1) if options.batch_size % part == 0)


@contextmanager
def trainable(base: Any, adapter: Path, trained: bool = True) -> Iterator[Any]:
    """Yield the base with an adapter to train, and give it back as it was."""
    mode, use_cache, own = base.training, base.config.use_cache, vars(base).get("forward")
    checkpointed, hooks = base.is_activation_checkpointing, base.get_input_embeddings()._forward_hooks
    known = set(hooks)
    model = load_adapter(base, adapter, trained=trained)
    try:
        yield model
    finally:
        model.unload()
        base.train(mode)
        base.config.use_cache = use_cache
        if base.is_activation_checkpointing and not checkpointed:
            base.activation_checkpointing_disable()
        for hook in set(hooks) - known:  # those which make the input of a checkpointed layer need gradients
            del hooks[hook]
        if own is None:
            vars(base).pop("forward", None)  # TRL's; the next training would wrap it in another one


def _prepare(model: Any, options: TrainOptions) -> None:
    """Freeze what the schedule does not train, and note how the base is quantised."""
    config = getattr(model, "peft_config", {}).get("default")
    if not isinstance(config, RocketMoeConfig):
        return
    config.base_quantization = quantization_of(model.get_base_model())
    if options.schedule == "router_only":
        for layer in layers(model).values():
            layer.freeze_experts(model.active_adapter)


def _trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    options: TrainOptions,
    output: Path,
    rate: float,
    seed: int,
    progress: Progress | None,
) -> Any:
    """Set up TRL's trainer over prompt/completion rows."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows, grouped = options.micro_batch_size or options.batch_size, _where_large(options.group_by_length, model)
    arguments = SFTConfig(
        max_steps=options.max_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=options.batch_size // rows,
        train_sampling_strategy="sequential" if grouped else "random",
        learning_rate=rate,
        warmup_steps=round(options.warmup_ratio * options.max_steps),
        weight_decay=options.weight_decay,
        max_length=options.max_length,
        completion_only_loss=True,
        save_steps=max(1, options.max_steps // CHECKPOINTS),
        save_total_limit=1,
        logging_steps=max(1, options.max_steps // 20),
        **shared_arguments(output, model, seed, options.gradient_checkpointing),
    )
    keep_to_one_device(arguments)
    optimizer = _optimizer(model, options, rate)
    data = Dataset.from_list([{"prompt": item.prompt, "completion": item.completion} for item in examples])
    trainer: Any = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=tokenizer,
        optimizers=(optimizer, _two_stages(optimizer, options) if options.schedule == "two_stage" else None),
        callbacks=[AuxiliaryLossCallback(), *([_reporter(progress)] if progress else [])],
    )
    trainer.remove_callback(PrinterCallback)
    if grouped:
        lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        order = row_order(lengths, options.batch_size, options.max_steps, seed)
        trainer.train_dataset = trainer.train_dataset.select(order)
    for _, parameter in router_parameters(model):
        parameter.data = parameter.data.float()  # TRL casts all that is trained on a quantised base to bf16
    return trainer


def row_order(lengths: Sequence[int], size: int, steps: int, seed: int) -> list[int]:
    """Order rows for training: each pass over them is shuffled, and its batches are of rows of about one length.

    What is left of a pass when its last batch is not full comes first in the next. Returns the numbers of
    `steps * size` rows; `lengths` are in tokens, `size` is rows a batch.
    """
    random = np.random.default_rng(seed)
    order, left = list[int](), list[int]()
    while len(order) < steps * size:
        left += random.permutation(len(lengths)).tolist()
        whole = len(left) // size * size
        rows, left = left[:whole], left[whole:]
        for start in range(0, whole, size * POOL):
            pool = sorted(rows[start : start + size * POOL], key=lambda row: lengths[row])
            batches = [pool[at : at + size] for at in range(0, len(pool), size)]
            order += [row for batch in random.permutation(len(batches)) for row in batches[batch]]
    return order[: steps * size]


def shared_arguments(output: Path, model: Any, seed: int, checkpointing: bool | None = None) -> dict[str, Any]:
    """Return what every training tells TRL, whatever it trains: on the device and in the precision of the model."""
    on_cpu, checkpointing = model.device.type == "cpu", _where_large(checkpointing, model)
    return {
        "output_dir": str(output),
        "lr_scheduler_type": "cosine",
        "activation_checkpointing": checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        "bf16": model.dtype == torch.bfloat16,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": model.device.type == "cuda",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }


def _where_large(asked: bool | None, model: Any) -> bool:
    return bool(model.num_parameters() > LARGE if asked is None else asked)


def keep_to_one_device(arguments: TrainingArguments) -> None:
    """Train on the device of this process alone; on all visible GPUs it would be DataParallel, which TRL refuses."""
    arguments._n_gpu = min(arguments.n_gpu, 1)


def _optimizer(model: Any, options: TrainOptions, rate: float) -> torch.optim.Optimizer:
    """Return AdamW with a lower rate for routers; routers trained alone have the full rate."""
    ratio = 1.0 if options.schedule == "router_only" else options.router_learning_rate_ratio
    routers = [parameter for _, parameter in router_parameters(model) if parameter.requires_grad]
    known = {id(parameter) for parameter in routers}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": others, "lr": rate, "routers": False},
        {"params": routers, "lr": rate * ratio, "routers": True},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    if find_spec("bitsandbytes") is None:
        raise InputError("train.optimizer: adamw_8bit needs bitsandbytes, which is not installed; "
                         "`pip install rocket-hub[quantized]`, or take adamw")  # fmt: skip
    from bitsandbytes.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=options.weight_decay)
    return optimizer


def _two_stages(optimizer: torch.optim.Optimizer, options: TrainOptions) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm up and follow a cosine as in the other schedules, but start the experts after the routers' stage.

    Until then the experts have rate 0 and are not frozen, so that DDP and checkpoints are the same in both stages.
    """

    def factor(start: int, step: int) -> float:
        steps = options.max_steps - start
        warmup = max(1, round(options.warmup_ratio * steps))
        if step - start < warmup:
            return max(0, step - start) / warmup
        return (1 + math.cos(math.pi * min(1.0, (step - start - warmup) / max(1, steps - warmup)))) / 2

    routed = any(group["routers"] for group in optimizer.param_groups)  # other adapters are trained whole
    waits = round(ROUTER_STAGE * options.max_steps) if routed else 0
    starts = [0 if group["routers"] else waits for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [partial(factor, start) for start in starts])


def _reporter(progress: Progress) -> Any:
    """Wrap a progress function as a trainer callback."""

    class Reporter(TrainerCallback):
        loss = float("nan")

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps, self.loss)

    return Reporter()


def _checkpoints(output: Path) -> list[Path]:
    return sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _last_checkpoint(output: Path) -> str | None:
    """Find the newest checkpoint that was written to its end (the trainer state is written last)."""
    whole = [path for path in _checkpoints(output) if (path / "trainer_state.json").is_file()]
    return str(whole[-1]) if whole else None
