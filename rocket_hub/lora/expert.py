"""Read a LoRA adapter folder as an expert: what it adds to each module, or why it cannot be used.

The tensors decide: modules and ranks come from their names and shapes, and scaling, singular values and changes of the
base are folded into A and B. Whatever would not be exactly `ΔW = B A` is refused. Folders come from the Hub and are
treated as hostile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import MUTATING, check_config, expected_rank, read_config, scaling
from rocket_hub.lora.tensors import BaseWeights, Factors, linear_weight, read_factors


@dataclass(frozen=True)
class Expert:
    """One LoRA adapter, ready to be merged.

    Attributes:
        name: What to call it.
        modules: Module name, as in the base model -> (A [r, in], B [out, r]) in fp32, scaling folded into B.
        config: Its `adapter_config.json`.
    """

    name: str
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    config: Mapping[str, Any]


def read_expert(folder: Path | str, name: str | None = None, base_weights: BaseWeights | None = None) -> Expert:
    """Read a LoRA adapter folder.

    Plain LoRA (with or without rslora, patterns, EVA, MiCA, VeLoRA, MonteCLoRA), AdaLoRA and mlx-lm's form need no
    base. PiSSA, OLoRA and KaSA change the base when PEFT loads them: with its weights they are folded exactly, at
    twice the rank. On a base in half precision PEFT rounds what it changes; that rounding is not followed.

    Args:
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors` (mlx-lm: `adapters.safetensors`);
            pickled weights are never opened.
        name: What to call the expert; by default the folder's name.
        base_weights: Parameter name -> value in the base model, for example `model.get_parameter`. With it, module
            sizes are checked, and whole tensors in the folder are accepted if they are the base's own.

    Returns:
        The expert.

    Raises:
        AdapterError: It cannot be written exactly as a plain LoRA of linear modules; `reason` names the fault:
            `broken_config`, `broken_weights`, `no_weights`, `pickle_only`, `not_lora`, `wrong_task`, `wrong_base`,
            `dora`, `lora_bias`, `unsupported_init`, `unsupported_config`, `needs_base_weights`, `modules_to_save`,
            `trainable_tokens`, `embedding_lora`, `vocab_resized`, `bias_trained`, `unknown_keys`, `missing_partner`,
            `bad_shape`, `rank_mismatch`, `shape_mismatch`, `nan_weights`, `untrained`.
    """
    folder = Path(folder)
    config = read_config(folder)
    kind = check_config(config, folder)
    if kind in MUTATING and base_weights is None:
        raise AdapterError(
            "needs_base_weights",
            f"{folder}: {kind} changes the base weights when it is loaded, so it can be folded only with them; give "
            "base_weights, or save it again as a plain LoRA with `path_initial_model_for_weight_conversion`",
        )
    found = read_factors(folder, kind, config, base_weights)
    modules = {}
    for module, factors in sorted(found.items()):
        _check_rank(config, kind, module, len(factors.a), folder)
        weight = _weight(base_weights, kind, module, factors, config, folder)
        factor = scaling(config, kind, module, len(factors.a))
        modules[module] = fold(kind, factors, factor, weight, f"{folder}: '{module}'")
    if not any(factors.b.any() for factors in found.values()) or all(does_nothing(*pair) for pair in modules.values()):
        raise AdapterError("untrained", f"{folder}: B A is zero, the adapter does nothing; take another one")
    return Expert(name or folder.name, modules, config)


def _check_rank(config: Mapping[str, Any], kind: str, module: str, rank: int, folder: Path) -> None:
    """Refuse a rank that is not the configured one: PEFT could not load it, and the scaling would be a guess."""
    if kind == "adalora":
        expected, fits = config.get("init_r", 12), rank <= config.get("init_r", 12)
    else:
        expected = expected_rank(config, module)
        fits = rank == expected
    if not fits:
        raise AdapterError(
            "rank_mismatch", f"{folder}: '{module}' has rank {rank}, adapter_config.json says {expected}; A and B may "
            "be transposed, or the configuration is of another adapter"
        )  # fmt: skip


def _weight(
    base_weights: BaseWeights | None, kind: str, module: str, factors: Factors, config: Mapping[str, Any], folder: Path
) -> torch.Tensor | None:
    """Check a module's size against the base; return the base's weight for kinds that need it."""
    if base_weights is None:
        return None
    shape, transposed = (factors.b.shape[0], factors.a.shape[1]), bool(config.get("fan_in_fan_out"))
    weight = linear_weight(base_weights, module, shape, transposed=transposed, folder=folder)
    if kind not in MUTATING:
        return None
    if weight is None:
        raise AdapterError(
            "needs_base_weights",
            f"{folder}: {kind} can be folded only with the base weights, and those of '{module}' are quantised or not "
            "loaded; give those of the original base",
        )
    return weight.float()


NOTHING = 1e-6  # of the product of the norms of A and B; what rounding leaves in fp32 is smaller


def fold(
    kind: str, factors: Factors, scaling: float, weight: torch.Tensor | None, where: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold scaling, singular values and changes of the base into A and B.

    Args:
        kind: As `check_config` says.
        factors: What the adapter holds for one module, of rank r.
        scaling: What the product is multiplied by.
        weight: The base model's weight [out, in] in fp32, for kinds that change it; None for the others.
        where: Adapter and module, for messages.

    Returns:
        A [r', in] and B [out, r'] in fp32 with `ΔW = B A`; r' is 2r for kinds that change the base.

    Raises:
        AdapterError: The rank is more than the weight has (`bad_shape`), or PEFT would compute NaN (`broken_config`).
    """
    down = factors.a if factors.diagonal is None else factors.diagonal[:, None] * factors.a
    up = scaling * factors.b
    if weight is None:
        return down, up
    if not scaling > 0:
        raise AdapterError("broken_config", f"{where}: {kind} with a scaling of {scaling:g}, which must be above 0")
    rank = len(down)
    if rank > min(weight.shape) - (kind == "kasa"):
        raise AdapterError("bad_shape", f"{where}: {kind} of rank {rank} in a weight of shape {list(weight.shape)}")
    removed_down, removed_up = (part.cpu() for part in _removed(kind, weight, rank, scaling))
    return torch.cat([down, removed_down]), torch.cat([up, -removed_up], dim=1)


def _removed(kind: str, weight: torch.Tensor, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (D [r, in], U [out, r]): the base that PEFT works with is W - U D.

    In fp32 like PEFT, so that singular vectors of close singular values come out the same.
    """
    if kind == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank], scaling * q[:, :rank]
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    part = slice(len(s) - rank, None) if kind == "kasa" else slice(rank)
    return vh[part], u[:, part] * s[part]


def does_nothing(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether B A is 0 but for rounding, without computing it: `‖BA‖² = tr(BᵀB AAᵀ)`."""
    inner, outer = a.double() @ a.double().T, b.double().T @ b.double()
    product, largest = (inner * outer).sum(), inner.trace() * outer.trace()
    return bool(product <= NOTHING**2 * largest)
