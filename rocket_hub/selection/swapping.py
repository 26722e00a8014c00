"""Many adapters, one base: what an adapter adds is computed beside the base's own linear layers.

PEFT wraps every layer of the base for each adapter; here a hook is put on each layer once, and another adapter is
another pair of references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Pair = tuple[Any, Any]  # A [r, in], B [out, r] with the scaling folded in; torch or numpy
Swap = Callable[[Mapping[str, Pair] | None], None]


@contextmanager
def swapping(model: nn.Module, bank: Mapping[str, Mapping[str, Pair]]) -> Iterator[Swap]:
    """Yield a function that puts an adapter on the model, or takes it off; the model is given back as it was.

    Args:
        model: The base model.
        bank: repository id -> module name -> (A, B), each without a `misfit`.

    Yields:
        `swap(factors)`; None = the bare base, as at the start.
    """
    current: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    layers = {
        name: model.get_submodule(name) for name in dict.fromkeys(n for factors in bank.values() for n in factors)
    }
    devices = {name: next(layer.parameters()).device for name, layer in layers.items()}

    def swap(factors: Mapping[str, Pair] | None) -> None:
        current.clear()
        for name, (a, b) in (factors or {}).items():
            current[name] = _tensor(a).to(devices[name]), _tensor(b).to(devices[name])

    hooks = []
    try:
        for name, layer in layers.items():
            hooks.append(layer.register_forward_hook(_adding(current, name)))
        yield swap
    finally:
        for hook in hooks:
            hook.remove()


def misfit(model: nn.Module, factors: Mapping[str, Pair]) -> str:
    """Say why factors cannot be put on a model; empty when they can."""
    layers = dict(model.named_modules())
    for name, (a, b) in factors.items():
        sizes = _sizes(layers.get(name))
        if sizes is None:
            return f"the base has no linear layer '{name}'"
        if (a.shape[1], b.shape[0]) != sizes or a.shape[0] != b.shape[1]:
            return f"'{name}' is {sizes[0]} -> {sizes[1]} in the base; found A {tuple(a.shape)} and B {tuple(b.shape)}"
    return "" if factors else "it adapts no layer"


def _sizes(layer: nn.Module | None) -> tuple[int, int] | None:
    """Return (in, out) of a linear layer, GPT-2's `Conv1D` included; quantised weights have other shapes than these."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if type(layer).__name__ == "Conv1D" and isinstance(weight := getattr(layer, "weight", None), torch.Tensor):
        return weight.shape[0], weight.shape[1]
    return None


def _tensor(matrix: Any) -> torch.Tensor:
    """Take numpy as torch, without a copy."""
    return torch.from_numpy(matrix) if isinstance(matrix, np.ndarray) else matrix


def _adding(current: Mapping[str, tuple[torch.Tensor, torch.Tensor]], name: str) -> Callable[..., torch.Tensor]:
    """Make the hook that adds the present adapter's part to the output of one layer."""

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if name not in current:
            return output
        a, b = current[name]
        # [..., in] [in, r] [r, out] -> [..., out], in the adapter's precision as in PEFT
        return output.add_(F.linear(F.linear(inputs[0].to(a.dtype), a), b))

    return hook
