"""Training of all weights, for the base and the teacher: AdamW with a one-cycle schedule, in bfloat16."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Learner:
    """A model with its optimiser and learning-rate schedule.

    Args:
        model: Trained in place.
        steps: Optimiser steps in all.
        rate: Peak learning rate.
    """

    def __init__(self, model: LlamaForCausalLM, steps: int, rate: float) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=steps, pct_start=0.1)

    def step(self, ids: torch.Tensor, labels: torch.Tensor) -> float:
        """Learn one batch, ids and labels [rows, length], and return its loss."""
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16):
            loss = self.model(input_ids=ids.to(self.model.device), labels=labels.to(self.model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(loss)
