"""Compare what an adapter holds with the weights of its base model, where these are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from rocket_hub.errors import AdapterError

BaseWeights = Callable[[str], torch.Tensor]
"""Name of a parameter of the base model -> its value; `KeyError` or `AttributeError` if there is none.

`model.get_parameter` of a model that carries no adapter is one.
"""


def _find(base_weights: BaseWeights, name: str) -> torch.Tensor | None:
    """Return a parameter of the base, None if there is none of this name."""
    try:
        return base_weights(name).detach()
    except (KeyError, AttributeError):
        return None


def linear_weight(
    base_weights: BaseWeights, module: str, shape: tuple[int, int], *, transposed: bool, folder: Path
) -> torch.Tensor | None:
    """Return the weight of a linear module of the base model.

    Args:
        base_weights: Where the base model's parameters are.
        module: Its name.
        shape: (out, in), which it must have.
        transposed: The base may store it as [in, out] (`Conv1D`).
        folder: The adapter, for messages.

    Returns:
        [out, in], or [in, out] where it is stored so, in its own type; None if it is quantised or elsewhere, so that
        its numbers cannot be had.

    Raises:
        AdapterError: `shape_mismatch`: the base has no such module, or it is of another size.
    """
    weight = _find(base_weights, f"{module}.weight")
    if weight is not None and (not weight.is_floating_point() or weight.is_meta):
        return None
    if weight is None or tuple(weight.shape) not in ((shape, shape[::-1]) if transposed else (shape,)):
        found = "no such module" if weight is None else str(list(weight.shape))
        raise AdapterError(
            "shape_mismatch", f"{folder}: '{module}' is {list(shape)} here, the base model has {found}; "
            "the adapter was made for another base"
        )  # fmt: skip
    return weight


def check_whole(
    name: str,
    saved: Callable[[], torch.Tensor],
    shape: list[int],
    base_weights: BaseWeights | None,
    where: str,
    reason: str,
) -> None:
    """Accept a whole tensor in an adapter only if it is the base model's own.

    Args:
        name: Name of the parameter, as in the base model.
        saved: Loads the tensor.
        shape: Its shape, compared first.
        base_weights: Where the base model's parameters are; None = nowhere.
        where: Adapter and tensor, for messages.
        reason: Reason to give.

    Raises:
        AdapterError: It differs, or there is nothing to compare it with.
    """
    if base_weights is None:
        raise AdapterError(
            reason, f"{where}: no plain LoRA has it; give base_weights to see whether it is the base's own"
        )
    own = _find(base_weights, name)
    if own is None or own.is_meta or list(own.shape) != shape or not torch.equal(saved().float(), own.float().cpu()):
        raise AdapterError(reason, f"{where}: differs from the base model's, and no plain LoRA can hold that")
