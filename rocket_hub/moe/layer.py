import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import nn

from rocket_hub.errors import AdapterError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.losses import AuxiliaryLosses
from rocket_hub.moe.router import Gate, Router


class _Project(torch.autograd.Function):
    """`x [A; R]^T` in one product; the stack of A and R is made anew for the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, a, r)
        return x @ torch.cat([a, r]).t()

    @staticmethod
    def backward(ctx: Any, d_z: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, r = ctx.saved_tensors
        needs_x, needs_a, needs_r = ctx.needs_input_grad
        d_x = d_z @ torch.cat([a, r]) if needs_x else None
        if needs_a and needs_r:
            d_a, d_r = (d_z.t() @ x).split([len(a), len(r)])
            return d_x, d_a, d_r
        d_a = d_z[:, : len(a)].t() @ x if needs_a else None
        d_r = d_z[:, len(a) :].t() @ x if needs_r else None
        return d_x, d_a, d_r


class _AddExperts(torch.autograd.Function):
    """`base + (hidden ∘ (gates M)) B^T`; keeps `hidden` and `gates`, weighs again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        base: torch.Tensor | None,
        hidden: torch.Tensor,
        gates: torch.Tensor,
        expand: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, gates, expand, weight)
        weighed = hidden * (gates @ expand).to(hidden.dtype)
        return weighed @ weight.t() if base is None else torch.addmm(base, weighed, weight.t())

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, gates, expand, weight = ctx.saved_tensors
        needs_base, needs_hidden, needs_gates, _, needs_weight = ctx.needs_input_grad
        wide = (gates @ expand).to(hidden.dtype)
        d_weighed = d_y @ weight if needs_hidden or needs_gates else None
        d_hidden = d_weighed * wide if needs_hidden else None
        d_gates = None
        if needs_gates:
            d_gates = ((d_weighed * hidden).to(expand.dtype) @ expand.t()).to(gates.dtype)
        d_weight = d_y.t() @ (hidden * wide) if needs_weight else None
        return d_y if needs_base else None, d_hidden, d_gates, None, d_weight


def project(x: torch.Tensor, a: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute hidden values `x a^T` [tokens, ΣR] and router logits `x r^T` [tokens, E] in one product.

    Args:
        x: Input of the layer, [tokens, in]; all of one dtype, outside autocast.
        a: Stacked experts A, [ΣR, in].
        r: Router, [E, in].
    """
    both = x @ torch.cat([a, r]).t() if torch.compiler.is_compiling() else _Project.apply(x, a, r)
    hidden, logits = both.split([len(a), len(r)], dim=1)
    return hidden, logits


def add_experts(
    base: torch.Tensor, hidden: torch.Tensor, gates: torch.Tensor, expand: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Compute `base + (hidden ∘ (gates expand)) weight^T`, [tokens, out] in the dtype of `base`.

    Args:
        base: Output of the base layer, [tokens, out], any dtype.
        hidden: `A x`, [tokens, ΣR].
        gates: Gate weights, [tokens, E] in fp32.
        expand: Which expert each column of `hidden` belongs to, one-hot [E, ΣR].
        weight: Stacked experts B, [out, ΣR].
    """
    weight = weight.to(hidden.dtype)  # under autocast the hidden values come in its dtype
    if torch.compiler.is_compiling():
        return base + ((hidden * (gates @ expand).to(hidden.dtype)) @ weight.t()).to(base.dtype)
    if base.dtype == hidden.dtype:
        return _AddExperts.apply(base, hidden, gates, expand, weight)
    return base + _AddExperts.apply(None, hidden, gates, expand, weight).to(base.dtype)


# Below this, stacking router and experts costs more than a second product (measured on a CPU, width 512 and 4096).
MANY_TOKENS = 256


def refuse_merge() -> NoReturn:
    """Raise: routed experts cannot be merged into the base."""
    raise AdapterError(
        "routed",
        "a ROCKET_MOE adapter weighs its experts anew for every token, so it cannot be merged into the base weights; "
        "rocket_hub.collapse_to_lora writes one plain LoRA with mean gates (and measures the loss), which can be",
    )


class RocketMoeLayer(BaseTunerLayer):
    """Experts of all adapters of one layer, each adapter's stacked: A = cat(A_e), B = cat(s_e * B_e).

    So any number of experts of any ranks costs two matrix products, and no expert is skipped or looped over.
    """

    adapter_layer_names: tuple[str, ...] = ("rocket_moe_A", "rocket_moe_B", "rocket_moe_router")
    training: bool  # this and the next belong to nn.Module, which the concrete class is too
    _modules: dict[str, Any]
    other_param_names: tuple[str, ...] = ("ranks", "rocket_moe_gate", "rocket_moe_dropout")

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.rocket_moe_A = nn.ModuleDict()
        self.rocket_moe_B = nn.ModuleDict()
        self.rocket_moe_router = nn.ModuleDict()
        self.rocket_moe_gate = nn.ModuleDict()
        self.rocket_moe_dropout = nn.ModuleDict()  # holds only adapters that have dropout
        self.ranks: dict[str, tuple[int, ...]] = {}
        # PEFT's default is one dict shared by all layers of all models.
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        features: Any = _get_in_out_features(self.get_base_layer())
        self.in_features: int = features[0]
        self.out_features: int = features[1]

    def update_layer(
        self,
        adapter_name: str,
        ranks: Sequence[int],
        config: RocketMoeConfig,
        *,
        router: Router | None = None,
        losses: AuxiliaryLosses | None = None,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: Name of the adapter in the model.
            ranks: Rank of each expert in this layer; 0 = absent.
            config: Configuration of the adapter.
            router: Router shared with other layers; None = one of its own.
            losses: Auxiliary losses of the adapter; None = there are none.
            inference_mode: Leave the new weights frozen.
        """
        self.ranks[adapter_name] = tuple(ranks)
        if config.dropout:
            self.rocket_moe_dropout[adapter_name] = nn.Dropout(config.dropout)
        down = nn.Linear(self.in_features, sum(ranks), bias=False)
        up = nn.Linear(sum(ranks), self.out_features, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.rocket_moe_A[adapter_name] = down
        self.rocket_moe_B[adapter_name] = up
        self.rocket_moe_router[adapter_name] = router or Router(self.in_features, config)
        self.rocket_moe_gate[adapter_name] = Gate(ranks, config, losses)
        if not config.train_experts:
            self.freeze_experts(adapter_name)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def freeze_experts(self, adapter_name: str) -> None:
        """Train only the router of an adapter from now on; switching and disabling adapters keeps it so."""
        self.frozen_peft_weight_names[adapter_name] = ("rocket_moe_A", "rocket_moe_B")
        self._freeze_non_trainable_peft_weights(adapter_name)

    def add_delta(self, result: torch.Tensor, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """Add an adapter to the output of the base layer: `result + B((A x) * (w M))`, [..., out] from x [..., in]."""
        # Through `_modules`: with one token nn.Module's attribute look-ups cost as much as a product does.
        held = self._modules
        down = held["rocket_moe_A"]._modules[adapter_name]
        up = held["rocket_moe_B"]._modules[adapter_name]
        gate = held["rocket_moe_gate"]._modules[adapter_name]
        bare = _bare(up)
        if bare and (torch.is_grad_enabled() or x.numel() >= MANY_TOKENS * self.in_features):
            hidden, logits = self._hidden_and_logits(x.reshape(-1, self.in_features), down, adapter_name)
            flat = result.reshape(-1, self.out_features)
            return add_experts(flat, hidden, gate(logits), gate.expand, up._parameters["weight"]).view_as(result)
        hidden, logits = self._hidden_and_logits(x, down, adapter_name)
        # [..., E] x [E, ΣR] -> [..., ΣR]: the gate of each column's expert
        wide = gate(logits) @ gate.expand
        weighed = hidden * (wide if wide.dtype == hidden.dtype else wide.to(hidden.dtype))
        # [..., ΣR] -> [..., out]
        delta = F.linear(weighed, up._parameters["weight"]) if bare else up(weighed)
        return result + (delta if delta.dtype == result.dtype else delta.to(result.dtype))

    def _hidden_and_logits(self, x: torch.Tensor, down: Any, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `A x` [..., ΣR] in the adapter's dtype and the router's logits [..., E] in fp32."""
        router = self._modules["rocket_moe_router"]._modules[adapter_name]
        dropped = self.training and adapter_name in self._modules["rocket_moe_dropout"]._modules
        autocast = torch.is_autocast_enabled(x.device.type)
        if dropped or autocast or not _bare(down) or not _bare(router):
            # autocast brings input and weight to one dtype; a copy in fp32 before would be kept for the backward pass
            seen = x if autocast else self._cast_input_dtype(x, down.weight.dtype)
            return down(self.rocket_moe_dropout[adapter_name](seen) if dropped else seen), router(x)
        a, r = down._parameters["weight"], router._parameters["weight"]
        seen = x if x.dtype == a.dtype else self._cast_input_dtype(x, a.dtype)
        if seen.dtype == a.dtype == r.dtype:
            if x.dim() == 2 and len(x) >= MANY_TOKENS:
                return project(seen, a, r)
            return F.linear(seen, a), F.linear(seen, r)
        return F.linear(seen, a), router(x)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: routed experts have no static weights."""
        refuse_merge()

    def unmerge(self) -> None:
        """Do nothing: nothing is ever merged."""


class Linear(nn.Module, RocketMoeLayer):
    """Wraps any linear-like layer: `nn.Linear`, transformers' `Conv1D`, bitsandbytes' 4 and 8 bit layers."""

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, ranks: Sequence[int], config: RocketMoeConfig, **shared: Any
    ) -> None:
        super().__init__()
        RocketMoeLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, ranks, config, inference_mode=config.inference_mode, **shared)

    # On the concrete class: nn.Module comes first in the method order and would hide a forward of the mixin.
    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Add the active adapters to the base layer's output, [..., in] -> [..., out]."""
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.ranks:
                result = self.add_delta(result, x, name)
        return result

    def __repr__(self) -> str:
        return "rocket_moe." + super().__repr__()


def _bare(module: nn.Module) -> bool:
    """Return whether a module's weight may be read without calling it; FSDP, DeepSpeed, accelerate need the call."""
    return type(module) in (nn.Linear, Router) and not module._forward_pre_hooks and "_hf_hook" not in module.__dict__
