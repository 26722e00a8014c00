"""The gates: how much each expert counts for each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn


def init_router(weight: torch.Tensor, gate: str, top_k: int | None) -> None:
    """Fill a router's weight in place with its start values.

    Dense sigmoid gates start at 0, so that every expert has exactly the weight `gate_start`. The others start random:
    equal logits would send every token to the same experts, and the rest would never be trained.

    Args:
        weight: [E, in].
        gate: `sigmoid` or `softmax`.
        top_k: Experts active per token; None = all.
    """
    if gate == "sigmoid" and top_k in (None, weight.shape[0]):
        nn.init.zeros_(weight)
    else:
        nn.init.normal_(weight, std=0.02)


class Router(nn.Module):
    """Gate weights from a layer's input, one router per adapted layer.

    The weight and the arithmetic stay in fp32 whatever the model is cast to: in bf16 close logits change places.

    Args:
        in_features: Width of the layer's input.
        ranks: Rank of each expert in this layer; 0 = absent.
        gate: `sigmoid` or `softmax`, see `RocketMoeConfig`.
        gate_start: Weight of every expert at the start (`sigmoid`).
        top_k: Experts active per token; None = all.
    """

    expand: torch.Tensor

    def __init__(self, in_features: int, ranks: Sequence[int], gate: str, gate_start: float, top_k: int | None) -> None:
        super().__init__()
        self.gate = gate
        self.gate_start = gate_start
        self.top_k = None if top_k == len(ranks) else top_k
        self.weight = nn.Parameter(torch.empty(len(ranks), in_features, dtype=torch.float32))
        # [E, ΣR], one 1 per column: which expert a column of the stack belongs to. Not saved, it follows from the
        # ranks; on the CPU by name, because loading may happen under a meta-device context.
        columns = torch.tensor(ranks, device="cpu")
        expand = torch.eye(len(ranks), device="cpu").repeat_interleave(columns, dim=1)
        self.register_buffer("expand", expand, persistent=False)
        init_router(self.weight.data, gate, self.top_k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the gate weights.

        Args:
            x: Input of the layer, [..., in].

        Returns:
            [..., E] in fp32. Softmax weights sum to 1 (Eq. 7-9); sigmoid weights lie between 0 and `2 * gate_start`.
        """
        with torch.autocast(x.device.type, enabled=False):
            # [..., in] x [in, E] -> [..., E]
            logits = F.linear(x.float(), self.weight.float())
        if self.top_k is None:
            return self._weigh(logits)
        # Both gates are monotone in the logit, and softmax over the k largest logits is the renormalised softmax.
        kept, index = logits.topk(self.top_k, dim=-1)
        return torch.zeros_like(logits).scatter(-1, index, self._weigh(kept))

    def _weigh(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits into weights of the same shape."""
        return logits.softmax(-1) if self.gate == "softmax" else logits.sigmoid() * (2 * self.gate_start)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        """Let `.to()`, `.half()` and the like move the router, but not lower its precision."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == torch.float32 else tensor.to(moved.device, torch.float32)

        return super()._apply(move, recurse)


def router_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """List the routers' parameters, so that training can give them their own learning rate.

    Args:
        model: A model with ROCKET_MOE layers, inside a `PeftModel` or not.

    Returns:
        Pairs of full name and parameter, in the model's order.
    """
    return [(name, parameter) for name, parameter in model.named_parameters() if ".rocket_moe_router." in name]
