"""Watch the gates of a running model, or hold them at fixed values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from rocket_hub.moe.layer import RocketMoeLayer
from rocket_hub.moe.router import Router


class GateRecorder:
    """Mean gate weights per module and expert, over the tokens seen so far."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._mask: torch.Tensor | None = None

    def means(self) -> dict[str, torch.Tensor]:
        """Return the mean weights.

        Returns:
            Module name, as in the base model -> [E] in fp64 on the CPU. Modules that saw no token are absent.
        """
        return {name: total / self._tokens[name] for name, total in self._sums.items() if self._tokens[name]}

    def _see_mask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model: the layers below do not get the attention mask."""
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None

    def _see_gates(self, name: str, router: nn.Module, args: tuple[Any, ...], gates: torch.Tensor) -> None:
        """Forward hook of a router: add up the gates of the tokens that are not padding."""
        kept = gates.detach().flatten(0, -2)
        if self._mask is not None:
            # During generation the mask also covers the tokens in the cache; the newest come last.
            mask = self._mask[:, -gates.shape[1] :] if gates.dim() == 3 else self._mask
            if mask.numel() == len(kept):
                kept = kept[mask.reshape(-1).bool()]
        self._sums[name] = self._sums.get(name, 0) + kept.sum(0).cpu().double()
        self._tokens[name] = self._tokens.get(name, 0) + len(kept)


def routers(model: nn.Module, adapter_name: str | None = None) -> dict[str, Router]:
    """Map module names, as in the base model, to their routers.

    Args:
        model: A model with ROCKET_MOE layers, inside a `PeftModel` or not.
        adapter_name: Name of the adapter; None = the first active one.
    """
    found: dict[str, Router] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, RocketMoeLayer):
            for wanted in [adapter_name] if adapter_name else layer.active_adapters[:1]:
                if wanted in layer.rocket_moe_router:
                    found[name.removeprefix("base_model.model.")] = cast(Router, layer.rocket_moe_router[wanted])
    return found


@contextmanager
def collect_gates(model: nn.Module, adapter_name: str | None = None) -> Iterator[GateRecorder]:
    """Record the mean gate weights of every forward pass inside the block.

    Args:
        model: A model with ROCKET_MOE layers, inside a `PeftModel` or not.
        adapter_name: Name of the adapter; None = the first active one.

    Yields:
        The recorder. Padding is left out where the model is given a two-dimensional `attention_mask` by keyword.
    """
    recorder = GateRecorder()
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    with ExitStack() as hooks:
        hooks.callback(inner.register_forward_pre_hook(recorder._see_mask, with_kwargs=True).remove)
        for name, router in routers(model, adapter_name).items():
            hooks.callback(router.register_forward_hook(partial(recorder._see_gates, name)).remove)
        yield recorder


@contextmanager
def fixed_gates(model: nn.Module, gates: Mapping[str, torch.Tensor], adapter_name: str | None = None) -> Iterator[None]:
    """Hold the gates at the given weights inside the block: the adapter then is a static stack of its experts.

    Args:
        model: A model with ROCKET_MOE layers, inside a `PeftModel` or not.
        gates: Module name, as in the base model -> weights [E]. Modules that are not named keep their router.
        adapter_name: Name of the adapter; None = the first active one.

    Yields:
        Nothing.
    """

    def hold(weights: torch.Tensor, router: nn.Module, args: tuple[Any, ...], found: torch.Tensor) -> torch.Tensor:
        return weights.to(found).expand_as(found)

    with ExitStack() as hooks:
        for name, router in routers(model, adapter_name).items():
            if name in gates:
                hooks.callback(router.register_forward_hook(partial(hold, gates[name])).remove)
        yield
