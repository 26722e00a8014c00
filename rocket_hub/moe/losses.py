"""Auxiliary losses of the gates, added as gradients because a trainer such as TRL's builds its own loss.

A layer passes its gates through a function that is the identity forwards and adds the losses' gradient backwards, also
with gradient checkpointing and DDP. Whoever multiplies the loss (by the share of a micro-batch, by the scale of fp16
training) must set `scale` to the same; for trainers of transformers and TRL `AuxiliaryLossCallback` does.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from rocket_hub.errors import RecipeError
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


class AuxiliaryLossCallback(TrainerCallback):
    """Scales the gradient of the auxiliary losses as the trainer scales its own, and logs their values.

    Give it to any `Trainer` of transformers or TRL, `callbacks=[AuxiliaryLossCallback()]`. Beside the trainer's own
    loss appear `load_balance_loss`, `entropy_loss` and `z_loss`, without factors, as means since the last log.
    """

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Tell the losses what share of a step one micro-batch is, times what fp16 training scales its loss by.

        Raises:
            RecipeError: The training is in fp16 and does not say its scale, as with DeepSpeed.
        """
        found = auxiliary_losses(model)
        if not found:
            return
        scaler = getattr(optimizer, "scaler", None)  # accelerate's wrapper has it
        if args.fp16 and scaler is None and args.device.type != "cpu":
            raise RecipeError(
                "fp16: this trainer does not say how it scales its loss, so the auxiliary losses would get lost in it; "
                "train in bf16, or set their factors (load_balance_coef, entropy_coef, z_coef) to 0"
            )
        loss_scale = 1.0 if scaler is None else scaler.get_scale()
        for losses in found:
            losses.scale = loss_scale / args.gradient_accumulation_steps

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, model: Any = None, **_: Any
    ) -> None:
        """Add the values to the log and to the trainer's history."""
        if logs is None or "loss" not in logs:  # an evaluation, or the summary at the end
            return
        for losses in auxiliary_losses(model):
            values = {f"{name}_loss": value for name, value in losses.pop_means().items()}
            logs.update(values)
            state.log_history[-1].update(values)


def auxiliary_losses(model: nn.Module) -> list[AuxiliaryLosses]:
    """List the auxiliary losses of a model's adapters, one entry for each that has any."""
    found = [getattr(module, "losses", None) for module in model.modules()]  # a gate has them
    return list({id(losses): losses for losses in found if isinstance(losses, AuxiliaryLosses)}.values())
