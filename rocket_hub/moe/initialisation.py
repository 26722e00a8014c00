"""Start values for routers, so that a merge routes sensibly before any training.

Each function takes the folder of a ROCKET_MOE adapter and writes its routers anew; everything else stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import save_file

from rocket_hub.errors import AdapterError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.router import init_router

_PREFIX, _DOWN, _UP, _ROUTER = (
    "base_model.model.",
    ".rocket_moe_A.weight",
    ".rocket_moe_B.weight",
    ".rocket_moe_router.weight",
)
Stack = tuple[torch.Tensor, torch.Tensor, Sequence[int]]


def random_routers(folder: Path | str, seed: int = 0) -> None:
    """Write the start values that `init_router` gives: 0 for dense gates of unit scale, small random numbers otherwise.

    Args:
        folder: Folder of the adapter.
        seed: Seeds the numbers.

    Raises:
        AdapterError: The folder holds no ROCKET_MOE adapter (`not_rocket_moe`).
    """
    config, stacks = read_stacks(folder)
    fresh: dict[Any, torch.Tensor] = {}
    weights = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module, (a, _, _) in stacks.items():
            key = a.shape[1] if config.router == "shared" else module
            if key not in fresh:
                fresh[key] = torch.empty(config.num_experts, a.shape[1])
                init_router(fresh[key], config.gate, config.top_k, config.gate_scale)
            weights[module] = fresh[key]
    write_routers(folder, weights, router_logits="linear")


def arrow_routers(folder: Path | str, *, scale: float = 1.0) -> None:
    """Route by the experts' own weights: each token to the experts that react to its direction most (Arrow).

    A router's row is the direction of input that the expert amplifies most, of length `scale` whatever the expert's
    size. Its sign means nothing, so the adapter's `router_logits` becomes `absolute`. With `softmax`, `top_k` and
    `scale` 1 this is PEFT's Arrow at temperature 1 (Ostapenko et al. 2024, Section 4.1).

    Args:
        folder: Folder of the adapter.
        scale: Length of every row; the inverse of Arrow's temperature.

    Raises:
        AdapterError: The folder holds no ROCKET_MOE adapter (`not_rocket_moe`), or its router is shared
            (`shared_router`): an expert has another direction in each module.
    """
    config, stacks = read_stacks(folder)
    if config.router == "shared":
        raise AdapterError(
            "shared_router",
            f"{folder}: Arrow gives every module its own router, this adapter shares one; merge with router: layer",
        )
    weights = {module: scale * arrow_prototypes(a, b, ranks) for module, (a, b, ranks) in stacks.items()}
    write_routers(folder, weights, router_logits="absolute")


def arrow_prototypes(a: torch.Tensor, b: torch.Tensor, ranks: Sequence[int]) -> torch.Tensor:
    """Compute the top right singular vector of `B_e A_e` for each expert, without forming the product.

    With `A^T = Q R` and `B = P S`, `B A = P (S R^T) Q^T`: the singular values of the small matrix, and its right
    singular vectors turned by Q, are those of the product. Exact where power iteration only comes close.

    Args:
        a: Stacked experts A, [ΣR, in].
        b: Stacked experts B, [out, ΣR].
        ranks: Rank of each expert; 0 = absent.

    Returns:
        [E, in] in fp32, rows of length 1, the largest entry of each positive; rows of experts that do nothing are 0.
    """
    rows = []
    for part_a, part_b in zip(a.double().split(list(ranks)), b.double().split(list(ranks), dim=1), strict=True):
        if not part_a.any() or not part_b.any():
            rows.append(a.new_zeros(a.shape[1], dtype=torch.float64))
            continue
        q, r = torch.linalg.qr(part_a.t())
        top = q @ torch.linalg.svd(torch.linalg.qr(part_b)[1] @ r.t()).Vh[0]
        rows.append(top * top[top.abs().argmax()].sign())
    return torch.stack(rows).float()


def write_routers(folder: Path | str, weights: Mapping[str, torch.Tensor], **settings: Any) -> None:
    """Replace routers in an adapter folder.

    Args:
        folder: Folder of the adapter.
        weights: Module name, as in the base model -> router [E, in].
        settings: Fields of `adapter_config.json` to set.
    """
    path = Path(folder) / "adapter_model.safetensors"
    tensors = _tensors(path)
    for module, weight in weights.items():
        tensors[f"{_PREFIX}{module}{_ROUTER}"] = weight.detach().float().cpu().clone().contiguous()
    written = path.with_suffix(".new")
    save_file(tensors, written, metadata={"format": "pt"})
    if settings:
        config_path = Path(folder) / "adapter_config.json"
        config = {**json.loads(config_path.read_text(encoding="utf-8")), **settings}
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    written.replace(path)


def read_stacks(folder: Path | str) -> tuple[RocketMoeConfig, dict[str, Stack]]:
    """Read an adapter folder.

    Args:
        folder: Folder of the adapter.

    Returns:
        (configuration, module name as in the base model -> (A [ΣR, in], B [out, ΣR], rank of each expert)).

    Raises:
        AdapterError: The folder holds no ROCKET_MOE adapter (`not_rocket_moe`).
    """
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, RocketMoeConfig):
        raise AdapterError("not_rocket_moe", f"{folder}: a {config.peft_type} adapter; merge experts into one first")
    tensors = _tensors(Path(folder) / "adapter_model.safetensors")
    stacks: dict[str, Stack] = {}
    for key in sorted(tensors):
        if key.endswith(_DOWN):
            module = key.removesuffix(_DOWN).removeprefix(_PREFIX)
            pattern = get_pattern_key(list(config.rank_pattern), module)
            ranks = config.rank_pattern.get(pattern, config.expert_ranks)
            stacks[module] = (tensors[key], tensors[key.removesuffix(_DOWN) + _UP], ranks)
    return config, stacks


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a whole file of tensors."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
