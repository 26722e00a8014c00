"""A linear layer with stacked LoRA experts and a gate for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import nn

from rocket_hub.errors import AdapterError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.router import Router


def refuse_merge() -> NoReturn:
    """Say why routed experts cannot be merged into the base, and what can be done."""
    raise AdapterError(
        "routed",
        "a ROCKET_MOE adapter weighs its experts anew for every token, so it cannot be merged into the base weights; "
        "rocket_hub.collapse_to_lora writes one plain LoRA with mean gates (and measures the loss), which can be",
    )


class RocketMoeLayer(BaseTunerLayer):
    """Experts of all adapters of one layer.

    The experts of an adapter are stacked, A = cat(A_e) and B = cat(s_e * B_e), so that any number of experts of any
    ranks costs two matrix products, and no expert is skipped or looped over.
    """

    adapter_layer_names: tuple[str, ...] = ("rocket_moe_A", "rocket_moe_B", "rocket_moe_router")
    other_param_names: tuple[str, ...] = ("ranks", "rocket_moe_dropout")

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.rocket_moe_A = nn.ModuleDict()
        self.rocket_moe_B = nn.ModuleDict()
        self.rocket_moe_router = nn.ModuleDict()
        self.rocket_moe_dropout = nn.ModuleDict()
        self.ranks: dict[str, tuple[int, ...]] = {}
        # PEFT's default is one dict shared by all layers of all models.
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        features: Any = _get_in_out_features(self.get_base_layer())
        self.in_features: int = features[0]
        self.out_features: int = features[1]

    def update_layer(
        self, adapter_name: str, ranks: Sequence[int], config: RocketMoeConfig, inference_mode: bool = False
    ) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: Name of the adapter in the model.
            ranks: Rank of each expert in this layer; 0 = absent.
            config: Configuration of the adapter.
            inference_mode: Leave the new weights frozen.
        """
        self.ranks[adapter_name] = tuple(ranks)
        self.rocket_moe_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        down = nn.Linear(self.in_features, sum(ranks), bias=False)
        up = nn.Linear(sum(ranks), self.out_features, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.rocket_moe_A[adapter_name] = down
        self.rocket_moe_B[adapter_name] = up
        self.rocket_moe_router[adapter_name] = Router(
            self.in_features, ranks, config.gate, config.gate_start, config.top_k
        )
        if not config.train_experts:
            self.frozen_peft_weight_names[adapter_name] = ("rocket_moe_A", "rocket_moe_B")
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def delta(self, x: torch.Tensor, adapter_name: str) -> torch.Tensor:
        """Compute what an adapter adds to the layer's output: `B((A x) * (w M))`.

        Args:
            x: Input of the layer, [..., in].
            adapter_name: Name of the adapter.

        Returns:
            [..., out], in the dtype of the adapter.
        """
        down: Any = self.rocket_moe_A[adapter_name]
        up: Any = self.rocket_moe_B[adapter_name]
        router: Any = self.rocket_moe_router[adapter_name]
        dropout: Any = self.rocket_moe_dropout[adapter_name]
        # [..., E] x [E, ΣR] -> [..., ΣR]: the gate of each column's expert
        gates = router(x) @ router.expand
        # [..., in] -> [..., ΣR]
        hidden = down(dropout(self._cast_input_dtype(x, down.weight.dtype)))
        # [..., ΣR] -> [..., out]
        return up(hidden * gates.to(hidden.dtype))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: routed experts have no static weights."""
        refuse_merge()

    def unmerge(self) -> None:
        """Do nothing: nothing is ever merged."""


class Linear(nn.Module, RocketMoeLayer):
    """Wraps any linear-like layer: `nn.Linear`, transformers' `Conv1D`, bitsandbytes' 4 and 8 bit layers."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, ranks: Sequence[int], config: RocketMoeConfig) -> None:
        super().__init__()
        RocketMoeLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, ranks, config, inference_mode=config.inference_mode)

    # On the concrete class: nn.Module comes first in the method order and would hide a forward of the mixin.
    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Add the active adapters to the base layer's output, [..., in] -> [..., out]."""
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self.rocket_moe_A:
                result = result + self.delta(x, name).to(result.dtype)
        return result

    def __repr__(self) -> str:
        return "rocket_moe." + super().__repr__()
