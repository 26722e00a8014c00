from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback

from rocket_hub.errors import RecipeError
from rocket_hub.moe.losses import AuxiliaryLosses
from rocket_hub.moe.router import Gate


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
    found = [gate.losses for gate in model.modules() if isinstance(gate, Gate) and gate.losses is not None]
    return list({id(losses): losses for losses in found}.values())
