"""Starts that know nothing: a new LoRA, and experts with random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rocket_hub.adapting import write_fresh
from rocket_hub.moe.expert import Expert


def fresh_lora(base_model: Any, experts: Sequence[Expert], folder: Path, seed: int = 0) -> Path:
    """Write a new LoRA with the experts' modules and, in each, their total rank; alpha is twice the rank."""
    from peft import LoraConfig

    ranks = total_ranks(experts)
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=2 * max(ranks.values()),
        rank_pattern={name.replace(".", r"\."): rank for name, rank in ranks.items()},
        alpha_pattern={name.replace(".", r"\."): 2 * rank for name, rank in ranks.items()},
        target_modules=sorted(ranks),
        task_type="CAUSAL_LM",
    )
    return write_fresh(base_model, config, folder, seed)


def total_ranks(experts: Sequence[Expert]) -> dict[str, int]:
    """Add up the experts' ranks in each module."""
    ranks: dict[str, int] = {}
    for expert in experts:
        for name, (a, _) in expert.modules.items():
            ranks[name] = ranks.get(name, 0) + a.shape[0]
    return ranks


def untrained_experts(experts: Sequence[Expert], seed: int) -> list[Expert]:
    """Make experts of the same shapes as new LoRAs start: A uniform within 1 / sqrt(in), B zero."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, expert in enumerate(experts):
        modules = {}
        for name, (a, b) in sorted(expert.modules.items()):
            bound = 1 / math.sqrt(a.shape[1])  # what PEFT's kaiming_uniform_(a=sqrt(5)) comes to
            modules[name] = torch.empty(a.shape).uniform_(-bound, bound, generator=generator), torch.zeros(b.shape)
        made.append(Expert(f"random-{number}", modules, expert.config))
    return made
