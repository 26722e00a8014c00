"""LoRA adapters on a base model: write a fresh one, put one on for a while, name one by its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.errors import InputError, StorageError

if TYPE_CHECKING:
    from peft import LoraConfig

WEIGHTS = "adapter_model.safetensors"
ADAPTER = ("adapter_config.json", WEIGHTS)
"""The files of an adapter."""


def fresh_lora(
    base: Any, folder: Path, *, rank: int, alpha: int, targets: Sequence[str], seed: int = 0, base_model: str = "",
    base_revision: str = "",
) -> Path:  # fmt: skip
    """Write a LoRA of one rank that changes nothing yet.

    Args:
        base: The model it is for; given back unchanged.
        folder: Where it is written.
        rank: Rank of every adapted module.
        alpha: The update counts alpha / rank.
        targets: Endings of module names; `all-linear` = every linear layer but the head.
        seed: Decides its A matrices.
        base_model: Id of the base as the adapter names it; empty = where the base was loaded from.
        base_revision: Its commit hash.

    Raises:
        InputError: The base has no such modules.
    """
    from peft import LoraConfig

    modules = targets[0] if tuple(targets) == ("all-linear",) else list(targets)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM",
        base_model_name_or_path=base_model or None, revision=base_revision or None,
    )  # fmt: skip
    try:
        return write_fresh(base, config, folder, seed)
    except ValueError as error:
        raise InputError(f"targets {','.join(targets)}: {error}; name endings of modules of the base") from error


def write_fresh(base: Any, config: LoraConfig, folder: Path, seed: int = 0) -> Path:
    """Write an adapter as PEFT starts it; base and global random numbers are left as they were."""
    import torch
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
    model.save_pretrained(str(folder))
    model.unload()
    return folder


@contextmanager
def adapted(base: Any, adapter: Path | None) -> Iterator[Any]:
    """Yield the base model with an adapter for inference, and give the base back unchanged; none = the bare base."""
    if adapter is None:
        yield base
        return
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(adapter))
    model.eval()
    try:
        yield model
    finally:
        model.unload()


def fingerprint(adapter: Path) -> str:
    """Name an adapter by its weights.

    Raises:
        StorageError: They cannot be read.
    """
    try:
        return sha256((adapter / WEIGHTS).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise StorageError(
            f"{adapter}: no {WEIGHTS} that can be read: {error.strerror}; start in a new folder"
        ) from error
