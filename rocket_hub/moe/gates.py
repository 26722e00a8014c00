from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from rocket_hub.moe.layer import RocketMoeLayer
from rocket_hub.moe.router import Router

CLASSES = ("prompt", "completion", "special")


@dataclass(frozen=True)
class GateStatistics:
    """What one layer's gates did to one class of tokens."""

    tokens: int  # tokens seen
    means: tuple[float, ...]  # mean gate weight of each expert
    active: tuple[float, ...]  # share of the tokens for which each expert weighed more than 0
    largest: tuple[float, ...]  # share of the tokens for which each expert weighed most


class GateRecorder:
    """Gate weights per module, class of tokens and expert, over the tokens seen so far."""

    def __init__(self, special_ids: Collection[int] = ()) -> None:
        self._special = torch.tensor(sorted(special_ids), dtype=torch.long)
        self._sums: dict[str, torch.Tensor] = {}  # [classes, 3, E]: weight, active, largest
        self._tokens: dict[str, torch.Tensor] = {}  # [classes]
        self._classes: torch.Tensor | None = None  # of the running batch, flat; padding is -1

    def means(self) -> dict[str, torch.Tensor]:
        """Return each module's mean weights over all tokens, [E] in fp64 on the CPU; absent where none were seen."""
        return {
            name: sums.sum(0)[0] / self._tokens[name].sum()
            for name, sums in self._sums.items()
            if self._tokens[name].any()
        }

    def statistics(self) -> dict[str, dict[str, GateStatistics]]:
        """Return statistics by module and class of tokens (`prompt`, `completion`, `special`), where any were seen."""
        found: dict[str, dict[str, GateStatistics]] = {}
        for name, sums in self._sums.items():
            counts = self._tokens[name].tolist()
            found[name] = {
                kind: GateStatistics(count, *(tuple((row / count).tolist()) for row in sums[number]))
                for number, (kind, count) in enumerate(zip(CLASSES, counts, strict=True))
                if count
            }
        return found

    def _see_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model: the layers below get neither the mask nor the tokens."""
        ids, mask, labels = (kwargs.get(name) for name in ("input_ids", "attention_mask", "labels"))
        ids = args[0] if ids is None and args else ids
        mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
        shaped = ids if ids is not None else mask
        if not isinstance(shaped, torch.Tensor):
            self._classes = None
            return
        cache = kwargs.get("past_key_values")  # what comes after a cache is completion
        later = cache is not None and cache.get_seq_length() > 0
        classes = torch.full(shaped.shape, CLASSES.index("completion" if later else "prompt"), device=shaped.device)
        if isinstance(labels, torch.Tensor) and labels.shape == classes.shape:
            classes[labels != -100] = CLASSES.index("completion")
        if ids is not None and len(self._special):
            classes[torch.isin(ids, self._special.to(ids.device))] = CLASSES.index("special")
        if mask is not None:  # during generation the mask also covers the tokens in the cache; the newest come last
            classes[mask[:, -classes.shape[1] :] == 0] = -1
        self._classes = classes.reshape(-1)

    def _see_gates(self, name: str, gate: nn.Module, args: tuple[Any, ...], gates: torch.Tensor) -> None:
        """Forward hook of a gate: add up the tokens that are not padding."""
        kept = gates.detach().reshape(-1, gates.shape[-1])
        largest = torch.zeros_like(kept).scatter_(1, kept.argmax(1, keepdim=True), 1.0)
        values = torch.stack([kept, (kept > 0).to(kept.dtype), largest]).double()
        known = self._classes is not None and len(self._classes) == len(kept)
        classes = cast(torch.Tensor, self._classes) if known else torch.zeros(len(kept), dtype=torch.long)
        members = torch.stack([classes == number for number in range(len(CLASSES))]).to(values)
        # [classes, tokens] x [3, tokens, E] -> [classes, 3, E]
        sums = torch.einsum("ct,vte->cve", members, values).cpu()
        self._sums[name] = self._sums.get(name, 0) + sums
        self._tokens[name] = self._tokens.get(name, 0) + members.sum(1).long().cpu()


def layers(model: nn.Module, adapter_name: str | None = None) -> dict[str, Any]:
    """Map module names, as in the base model, to the ROCKET_MOE layers of an adapter; None = the first active one."""
    return {name: layer for name, (layer, _) in _places(model, adapter_name).items()}


def routers(model: nn.Module, adapter_name: str | None = None) -> dict[str, Router]:
    """Map module names, as in the base model, to their routers; a shared router comes under every name."""
    return {name: layer.rocket_moe_router[held] for name, (layer, held) in _places(model, adapter_name).items()}


def _places(model: nn.Module, adapter_name: str | None) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, RocketMoeLayer):
            for wanted in [adapter_name] if adapter_name else layer.active_adapters[:1]:
                if wanted in layer.ranks:
                    found[name.removeprefix("base_model.model.")] = (layer, wanted)
    return found


@contextmanager
def collect_gates(
    model: nn.Module, adapter_name: str | None = None, *, special_ids: Collection[int] = ()
) -> Iterator[GateRecorder]:
    """Record the gate weights of every forward pass inside the block, by class of tokens, without padding.

    Tokens with a label, or generated after a cache, are `completion`; all others are `prompt`.

    Args:
        model: A model with ROCKET_MOE layers, inside a `PeftModel` or not.
        adapter_name: Name of the adapter; None = the first active one.
        special_ids: Token ids of the class `special`, for example `tokenizer.all_special_ids`.

    Yields:
        The recorder.
    """
    recorder = GateRecorder(special_ids)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    with ExitStack() as hooks:
        hooks.callback(inner.register_forward_pre_hook(recorder._see_inputs, with_kwargs=True).remove)
        for name, (layer, held) in _places(model, adapter_name).items():
            hook = layer.rocket_moe_gate[held].register_forward_hook(partial(recorder._see_gates, name))
            hooks.callback(hook.remove)
        yield recorder


@contextmanager
def fixed_gates(model: nn.Module, gates: Mapping[str, torch.Tensor], adapter_name: str | None = None) -> Iterator[None]:
    """Hold the gates at the given weights inside the block: the adapter then is a static stack of its experts.

    Args:
        model: A model with ROCKET_MOE layers, inside a `PeftModel` or not.
        gates: Module name, as in the base model -> weights [E]. Modules that are not named keep their router.
        adapter_name: Name of the adapter; None = the first active one.
    """

    def hold(weights: torch.Tensor, gate: nn.Module, args: tuple[Any, ...], found: torch.Tensor) -> torch.Tensor:
        return weights.to(found).expand_as(found)

    with ExitStack() as hooks:
        for name, (layer, held) in _places(model, adapter_name).items():
            if name in gates:
                hook = layer.rocket_moe_gate[held].register_forward_hook(partial(hold, gates[name]))
                hooks.callback(hook.remove)
        yield
