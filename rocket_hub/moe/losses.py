"""Auxiliary losses of the gates, added as gradients because a trainer such as TRL's builds its own loss.

A layer passes its gates through a function that is the identity forwards and adds the losses' gradient backwards, also
with gradient checkpointing and DDP. Whoever multiplies the loss (by the share of a micro-batch, by the scale of fp16
training) must set `scale` to the same; for trainers of transformers and TRL `AuxiliaryLossCallback` does.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from rocket_hub.moe.config import RocketMoeConfig


class _AddGradient(torch.autograd.Function):
    """Return `gates` as they are; in the backward pass also send `scale` to `loss`."""

    @staticmethod
    def forward(ctx: Any, gates: torch.Tensor, loss: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return gates.view_as(gates)

    @staticmethod
    def backward(ctx: Any, d_gates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return d_gates, d_gates.new_full((), ctx.scale), None


def load_balance(scores: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    """Compute E times the sum over experts of share of tokens times mean score (Switch Transformer, Eq. 4).

    Args:
        scores: Each expert's share of a token, rows sum to 1, [tokens, E].
        active: Each expert's share of the token's active experts, [tokens, E].

    Returns:
        A scalar; 1 where the load is even, E where one expert has it all.
    """
    return scores.shape[-1] * (active.mean(0) * scores.mean(0)).sum()


def entropy(scores: torch.Tensor) -> torch.Tensor:
    """Compute the mean entropy of a token's scores, [tokens, E], as a share of the highest one: 0 is a clear choice."""
    return torch.special.entr(scores).sum(-1).mean() / math.log(max(scores.shape[-1], 2))


def z_loss(logits: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared log-sum-exp of a token's logits, [tokens, E] (ST-MoE, Eq. 5): keeps logits small."""
    return logits.logsumexp(-1).square().mean()


class AuxiliaryLosses:
    """The losses of one adapter in one model; its gates share this object.

    Attributes:
        coefficients: Name of the loss -> factor.
        scale: Factor of all gradients; the trainer's share of one micro-batch in a step, times its loss scale.
        mask: Attention mask of the running batch, [batch, length]; None = not known. Kept until the next forward pass
            for gradient checkpointing, which runs the layers again.
    """

    def __init__(self, config: RocketMoeConfig) -> None:
        given = {"load_balance": config.load_balance_coef, "entropy": config.entropy_coef, "z": config.z_coef}
        self.coefficients = {name: factor for name, factor in given.items() if factor}
        self.softmax = config.gate == "softmax"
        self.sparse = config.top_k not in (None, config.num_experts)
        self.scale = 1.0
        self.mask: torch.Tensor | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._calls = 0

    def see_inputs(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the whole model: layers are never told what is padding."""
        mask = kwargs.get("attention_mask")
        self.mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None

    def inject(self, gates: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return one layer's gates [..., E], whose backward pass also sends the losses' gradient to the router."""
        values = self.values(gates, logits)
        self._calls += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        total = torch.stack([self.coefficients[name] * value for name, value in values.items()]).sum()
        return _AddGradient.apply(gates, total, self.scale)

    def values(self, gates: torch.Tensor, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the losses of one layer's gates and logits, [..., E], without factors and without padding.

        Returns:
            Name of the loss -> scalar.
        """
        experts = logits.shape[-1]
        logits, active = logits.reshape(-1, experts), gates.detach().reshape(-1, experts)
        if self.mask is not None and self.mask.numel() == len(logits):
            kept = self.mask.reshape(-1).bool()
            logits, active = logits[kept], active[kept]
        if not len(logits):  # a mean over nothing would be NaN
            return {name: logits.sum() for name in self.coefficients}
        scores = logits.softmax(-1) if self.softmax else torch.nn.functional.normalize(logits.sigmoid(), p=1.0, dim=-1)
        chosen = (active > 0) / (active > 0).sum(-1, keepdim=True).clamp_min(1) if self.sparse else scores
        found = {}
        if "load_balance" in self.coefficients:
            found["load_balance"] = load_balance(scores, chosen)
        if "entropy" in self.coefficients:
            found["entropy"] = entropy(scores)
        if "z" in self.coefficients:
            found["z"] = z_loss(logits)
        return found

    def pop_means(self) -> dict[str, float]:
        """Return the mean value of each loss over layers and batches since the last call, and start anew."""
        means = {name: float(total) / self._calls for name, total in self._sums.items()}
        self._sums, self._calls = {}, 0
        return means
