"""Arrow (Ostapenko et al. 2024), by PEFT: every token goes to the experts whose direction it is nearest to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rocket_hub.moe.expert import Expert
from rocket_hub.moe.writing import write_lora

TOP_K = 3  # PEFT's default
EXPERT = "expert-"


def padded_experts(base: Any, experts: Sequence[Expert], folder: Path, **pin: Any) -> Path:
    """Write the experts as plain LoRAs of one rank over the same modules, which Arrow in PEFT asks for.

    Zeros fill up what an expert lacks: its ΔW stays the same. Arrow names modules by their last name, so where an
    expert adapts one module of a name, all of that name get weights.

    Args:
        base: The base model; names the modules.
        experts: The experts.
        folder: Folder to write; gets one folder an expert.
        **pin: The base model's id and commit, for `write_lora`.

    Returns:
        The folder.
    """
    sizes = {name: (a.shape[1], b.shape[0]) for expert in experts for name, (a, b) in expert.modules.items()}
    endings = {name.rpartition(".")[2]: size for name, size in sizes.items()}
    for name, module in base.named_modules():
        if name.rpartition(".")[2] in endings and isinstance(getattr(module, "weight", None), torch.Tensor):
            sizes.setdefault(name, (module.in_features, module.out_features))
    rank = max(a.shape[0] for expert in experts for a, _ in expert.modules.values())
    for number, expert in enumerate(experts):
        modules = {}
        for name, (width, height) in sizes.items():
            a, b = expert.modules.get(name, (torch.zeros(0, width), torch.zeros(height, 0)))
            missing = rank - a.shape[0]
            modules[name] = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
        write_lora(modules, folder / f"{EXPERT}{number}", everywhere=set(endings), **pin)
    return folder


@contextmanager
def arrow_model(base: Any, folder: Path, trained: bool = False, *, seed: int = 0) -> Iterator[Any]:
    """Yield the base model with PEFT's Arrow router over the experts of a folder; see `padded_experts`.

    Args:
        base: The base model; it is given back as it was.
        folder: What `padded_experts` wrote.
        trained: Not used: Arrow has nothing to train.
        seed: Seeds PEFT's power iteration.
    """
    from peft import ArrowConfig, create_arrow_model

    paths = sorted(folder.glob(f"{EXPERT}*"), key=lambda path: int(path.name.removeprefix(EXPERT)))
    config = ArrowConfig(top_k=min(TOP_K, len(paths)), rng_seed=seed)
    model = create_arrow_model(base, [str(path) for path in paths], config).eval()
    try:
        yield model
    finally:
        model.unload()
