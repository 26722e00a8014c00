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
from rocket_hub.moe.adapter_config import MUTATING, check_config, expected_rank, read_config, scaling
from rocket_hub.moe.adapter_tensors import Factors, read_factors
from rocket_hub.moe.base_weights import BaseWeights, linear_weight
from rocket_hub.moe.folding import does_nothing, fold


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
