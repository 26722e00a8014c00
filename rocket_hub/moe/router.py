from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.losses import AuxiliaryLosses


def init_router(weight: torch.Tensor, gate: str, top_k: int | None, gate_scale: str | None = None) -> None:
    """Fill a router's weight in place: 0 for dense gates of unit scale, so that they start as a static stack.

    The others start random: equal logits would send every token to the same experts, and the rest would never learn.

    Args:
        weight: [E, in].
        gate: `sigmoid` or `softmax`.
        top_k: Experts active per token; None = all.
        gate_scale: `unit` or `renormalised`; None = the gate's own, see `RocketMoeConfig`.
    """
    if (gate == "sigmoid" or gate_scale == "unit") and top_k in (None, weight.shape[0]):
        nn.init.zeros_(weight)
    else:
        nn.init.normal_(weight, std=0.02)


class _KeepsFp32(nn.Module):
    """Stays in fp32 whatever the model is cast to: in bf16 close logits change places."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        """Let `.to()`, `.half()` and the like move the tensors, but not lower their precision."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == torch.float32 else tensor.to(moved.device, torch.float32)

        return super()._apply(move, recurse)


class _Float32Logits(torch.autograd.Function):
    """`x W^T` in fp32 of an `x` in half precision, which is kept for the backward pass as it came, not in fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.float(), weight)

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        # [..., E] [E, in] -> [..., in]; [tokens, E]^T [tokens, in] -> [E, in]
        d_x = (d_y @ weight).to(x.dtype) if needs_x else None
        d_weight = d_y.flatten(0, -2).t() @ x.flatten(0, -2).float() if needs_weight else None
        return d_x, d_weight


class Router(_KeepsFp32):
    """Linear map from a layer's input to one logit per expert; of one layer, or shared by layers of one width."""

    def __init__(self, in_features: int, config: RocketMoeConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, in_features, dtype=torch.float32))
        init_router(self.weight.data, config.gate, config.top_k, config.gate_scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits in fp32, [..., in] -> [..., E]."""
        # Entering a context costs as much as the product itself when there is one token.
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._logits(x)
        return self._logits(x)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float32 or torch.compiler.is_compiling():
            return F.linear(x.float(), self.weight.float())
        return _Float32Logits.apply(x, self.weight.float())


class Gate(_KeepsFp32):
    """Gate weights of one layer from its router's logits; a rank of 0 = that expert is absent from the layer."""

    expand: torch.Tensor
    scale: torch.Tensor

    def __init__(self, ranks: Sequence[int], config: RocketMoeConfig, losses: AuxiliaryLosses | None = None) -> None:
        super().__init__()
        experts = len(ranks)
        self.softmax = config.gate == "softmax"
        self.absolute = config.router_logits == "absolute"
        self.top_k = None if config.top_k == experts else config.top_k
        scale = 2 * config.gate_start
        if self.softmax:
            scale = float(config.top_k or experts) if config.gate_scale == "unit" else 1.0
        self.scaled = scale != 1
        self.hard = self.softmax and self.top_k == 1
        self.losses = losses
        # [E, ΣR], one 1 per column: which expert a column of the stack belongs to. Not saved, it follows from the
        # ranks; on the CPU by name, because loading may happen under a meta-device context.
        columns = torch.tensor(ranks, device="cpu")
        expand = torch.eye(experts, device="cpu").repeat_interleave(columns, dim=1)
        self.register_buffer("expand", expand, persistent=False)
        # A tensor: with one token, wrapping a number costs more than the product.
        self.register_buffer("scale", torch.tensor(scale, device="cpu"), persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute gate weights from logits, both [..., E] in fp32.

        Softmax weights sum to 1 (`renormalised`, Eq. 7-9) or to the number of active experts (`unit`); sigmoid weights
        lie between 0 and `2 * gate_start`.
        """
        if self.absolute:
            logits = logits.abs()
        if self.hard:
            gates = self._choose_one(logits)
        elif self.top_k is None:
            gates = self._weigh(logits)
        else:
            # Both gates are monotone in the logit, and softmax over the k largest is the renormalised softmax.
            kept, index = logits.topk(self.top_k, dim=-1)
            gates = torch.zeros_like(logits).scatter_(-1, index, self._weigh(kept))
        if self.losses is not None and self.training and gates.requires_grad:
            return self.losses.inject(gates, logits)
        return gates

    def _weigh(self, logits: torch.Tensor) -> torch.Tensor:
        weights = logits.softmax(-1) if self.softmax else logits.sigmoid()
        return weights * self.scale if self.scaled else weights

    def _choose_one(self, logits: torch.Tensor) -> torch.Tensor:
        """Weigh the likeliest expert 1 and all others 0; the gradient is that of the softmax (straight-through)."""
        chosen = torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
        if not logits.requires_grad:
            return chosen
        soft = logits.softmax(-1)
        return chosen + (soft - soft.detach())


def router_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """List name and value of the routers' parameters in the model's order; a shared router comes once."""
    return [(name, parameter) for name, parameter in model.named_parameters() if ".rocket_moe_router." in name]
