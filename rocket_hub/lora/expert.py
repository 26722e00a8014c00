"""Read a LoRA adapter folder as an expert: what it adds to each module, or why it cannot be used.

The tensors decide: modules and ranks come from their names and shapes, and scaling, singular values and changes of the
base are folded into A and B. Whatever would not be exactly `ΔW = B A` is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import MUTATING, check_config, read_config, scaling
from rocket_hub.lora.tensors import PARTS, Layout, Tensor, check_tensors

BaseWeights = Callable[[str], torch.Tensor]
"""Name of a parameter of the base model -> its value; `KeyError` or `AttributeError` if there is none.

`model.get_parameter` of a model that carries no adapter is one.
"""
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Expert:
    """One LoRA adapter, ready to be merged.

    Attributes:
        name: What to call it.
        modules: Module name, as in the base model -> (A [r, in], B [out, r]) in fp32, scaling folded into B.
        config: Its `adapter_config.json`.
        scalings: Module name -> the scaling that was folded into B; empty where more than that was folded.
    """

    name: str
    modules: Mapping[str, Pair]
    config: Mapping[str, Any]
    scalings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Factors:
    """What an adapter holds for one module."""

    a: torch.Tensor  # [r, in] in fp32
    b: torch.Tensor  # [out, r] in fp32
    diagonal: torch.Tensor | None  # [r], what stands between them; None = nothing


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
    try:
        kind = check_config(config)
        modules = _read_modules(folder, kind, config, base_weights)
    except AdapterError as error:
        raise AdapterError(error.reason, f"{folder}: {error}") from error
    scalings = {module: scaling(config, kind, module, len(a)) for module, (a, _) in modules.items() if kind == "lora"}
    return Expert(name or folder.name, modules, config, scalings)


def _read_modules(
    folder: Path, kind: str, config: Mapping[str, Any], base_weights: BaseWeights | None
) -> dict[str, Pair]:
    """Return A and B of every module, with everything folded into them."""
    if kind in MUTATING and base_weights is None:
        raise AdapterError(
            "needs_base_weights",
            f"{kind} changes the base weights when it is loaded, so it can be folded only with them; give "
            "base_weights, or save it again as a plain LoRA with `path_initial_model_for_weight_conversion`",
        )
    found = _read_factors(folder, kind, config, base_weights)
    modules = {}
    for module, factors in sorted(found.items()):
        weight = _whole_weight(base_weights, module, kind) if base_weights and kind in MUTATING else None
        modules[module] = fold(kind, factors, scaling(config, kind, module, len(factors.a)), weight)
    if not any(factors.b.any() for factors in found.values()) or all(does_nothing(*pair) for pair in modules.values()):
        raise AdapterError("untrained", "B A is zero, the adapter does nothing; take another one")
    return modules


def _read_factors(
    folder: Path, kind: str, config: Mapping[str, Any], base_weights: BaseWeights | None
) -> dict[str, Factors]:
    """Check the tensors of a folder, and load A and B of every module, unscaled."""
    path = folder / ("adapters.safetensors" if kind == "mlx" else "adapter_model.safetensors")
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise AdapterError(
            "pickle_only",
            f"there is no {path.name}, and pickled weights can run code, so they are never opened; "
            "ask for a safetensors copy",
        )
    if not path.is_file():
        raise AdapterError("no_weights", f"there is no {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            header = {name: Tensor(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            layout = check_tensors(header, config, kind, partial(_shape, base_weights) if base_weights else None)
            _check_values(file, layout, base_weights)
            return {module: _load(file, layout.modules[module], kind) for module in layout.ranks}
    except SafetensorError as error:
        raise AdapterError(
            "broken_weights", f"{path.name}: not a safetensors file ({error}); download it again"
        ) from error


def _find(base_weights: BaseWeights, name: str) -> torch.Tensor | None:
    """Return a parameter of the base, None if there is none of this name."""
    try:
        return base_weights(name).detach()
    except (KeyError, AttributeError):
        return None


def _shape(base_weights: BaseWeights, name: str) -> tuple[int, ...] | None:
    """Return the shape of a parameter of the base; see `Shapes`."""
    weight = _find(base_weights, name)
    return None if weight is None else tuple(weight.shape) if weight.is_floating_point() else ()


def _whole_weight(base_weights: BaseWeights, module: str, kind: str) -> torch.Tensor:
    """Return a weight of the base in fp32."""
    weight = _find(base_weights, f"{module}.weight")
    if weight is None or not weight.is_floating_point() or weight.is_meta:
        raise AdapterError(
            "needs_base_weights",
            f"{kind} can be folded only with the base weights, and those of '{module}' are quantised or not "
            "loaded; give those of the original base",
        )
    return weight.float()


def _check_values(file: Any, layout: Layout, base_weights: BaseWeights | None) -> None:
    """Refuse whole tensors that are not the base's own, and biases beside B A that add something."""
    for name, (parameter, reason) in layout.whole.items():
        own = _find(base_weights, parameter) if base_weights else None
        if own is None or own.is_meta or not torch.equal(file.get_tensor(name).float(), own.float().cpu()):
            where = f"holds the whole tensor '{name}'"
            raise AdapterError(reason, f"{where}: differs from the base model's, and no plain LoRA can hold that")
    for name in layout.biases:
        if file.get_tensor(name).any():
            raise AdapterError("lora_bias", f"'{name}' is a bias beside B A, which no plain LoRA has")


def _load(file: Any, names: Mapping[str, str], kind: str) -> Factors:
    """Load the factors of one module."""
    parts = []
    for part in PARTS.get(kind, ("A", "B")):
        tensor = file.get_tensor(names[part]).float()
        if not torch.isfinite(tensor).all():
            raise AdapterError("nan_weights", f"'{names[part]}' is not all finite numbers; the training diverged")
        parts.append(tensor.T.contiguous() if kind == "mlx" else tensor)
    return Factors(parts[0], parts[1], parts[2].flatten() if len(parts) == 3 else None)


NOTHING = 1e-6  # of the product of the norms of A and B; what rounding leaves in fp32 is smaller


def fold(kind: str, factors: Factors, scaling: float, weight: torch.Tensor | None) -> Pair:
    """Fold scaling, singular values and changes of the base into A and B.

    Args:
        kind: As `check_config` says.
        factors: What the adapter holds for one module, of rank r.
        scaling: What the product is multiplied by.
        weight: The base model's weight [out, in] in fp32, for kinds that change it; None for the others.

    Returns:
        A [r', in] and B [out, r'] in fp32 with `ΔW = B A`; r' is 2r for kinds that change the base.
    """
    down = factors.a if factors.diagonal is None else factors.diagonal[:, None] * factors.a
    up = scaling * factors.b
    if weight is None:
        return down, up
    removed_down, removed_up = (part.cpu() for part in _removed(kind, weight, len(down), scaling))
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
