"""Collapse a routed adapter into one plain LoRA, and measure what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rocket_hub.errors import AdapterError, InputError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import collect_gates, fixed_gates
from rocket_hub.moe.merging import write_lora


@dataclass(frozen=True)
class Collapse:
    """A routed adapter as a plain LoRA.

    Attributes:
        path: Folder of the plain LoRA.
        gate_means: Module name, as in the base model -> mean gate weight of each expert, over the given texts.
        expert_means: Mean gate weight of each expert over the modules.
        routed_nll: Mean negative log-likelihood per token of the routed adapter, in nats, on the held-out texts.
        collapsed_nll: The same of the plain LoRA.
        tokens: Tokens that these two are means over.
    """

    path: str
    gate_means: dict[str, tuple[float, ...]]
    expert_means: tuple[float, ...]
    routed_nll: float
    collapsed_nll: float
    tokens: int

    @property
    def loss(self) -> float:
        """What collapsing costs, in nats per token; below 0 when the plain LoRA is better."""
        return self.collapsed_nll - self.routed_nll


def collapse_to_lora(
    model: PeftModel,
    tokenizer: Any,
    texts: Sequence[str],
    output: Path | str,
    *,
    held_out: Sequence[str] | None = None,
    max_length: int = 2048,
) -> Collapse:
    """Write the active routed adapter as one plain LoRA whose experts weigh what their gates weigh on average.

    Concatenating the experts is exact; replacing the gates by their means is not, so the loss is measured.

    Args:
        model: Model with one active ROCKET_MOE adapter.
        tokenizer: Its tokenizer.
        texts: Texts of the kind the adapter is for (the K-shot); the gates are averaged over their tokens.
        output: Folder to write; any PEFT loads it.
        held_out: Texts to measure on; by default `texts`.
        max_length: Texts are cut at this many tokens.

    Returns:
        The folder, the mean gates, and both likelihoods.

    Raises:
        AdapterError: The active adapter is not one ROCKET_MOE adapter (`not_rocket_moe`), or it also changes whole
            modules or tokens (`modules_to_save`).
        InputError: No text has two tokens.
    """
    name, config = _active(model)
    was_training = model.training
    model.eval()
    try:
        with collect_gates(model, name) as recorder:
            measured = _mean_nll(model, tokenizer, texts, max_length)
        means = recorder.means()
        if held_out is not None:
            measured = _mean_nll(model, tokenizer, held_out, max_length)
        with fixed_gates(model, means, name):
            collapsed, _ = _mean_nll(model, tokenizer, texts if held_out is None else held_out, max_length)
    finally:
        model.train(was_training)
    restricted = config.layers_to_transform not in (None, []) or config.exclude_modules
    folder = write_lora(
        _weighed(model, means, name),
        output,
        everywhere=config.target_modules if isinstance(config.target_modules, (set, list)) and not restricted else (),
        base_model=config.base_model_name_or_path,
        base_revision=config.revision,
    )
    overall = torch.stack(list(means.values())).mean(0)
    return Collapse(
        path=str(folder),
        gate_means={module: tuple(mean.tolist()) for module, mean in means.items()},
        expert_means=tuple(overall.tolist()),
        routed_nll=measured[0],
        collapsed_nll=collapsed,
        tokens=measured[1],
    )


def _active(model: PeftModel) -> tuple[str, RocketMoeConfig]:
    """Return name and configuration of the one active adapter."""
    active = list(model.active_adapters)
    config = model.peft_config.get(active[0]) if len(active) == 1 else None
    if not isinstance(config, RocketMoeConfig):
        raise AdapterError(
            "not_rocket_moe", f"active adapters: {active}; activate exactly one ROCKET_MOE adapter with set_adapter()"
        )
    if config.modules_to_save or config.trainable_token_indices:
        raise AdapterError(
            "modules_to_save",
            f"adapter '{active[0]}' also changes whole modules or tokens, which no plain LoRA can hold",
        )
    return active[0], config


def _weighed(
    model: PeftModel, means: dict[str, torch.Tensor], adapter_name: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Take A and B of every module out of the model, B's columns weighed by the mean gate of their expert."""
    base = model.get_base_model()
    modules = {}
    for name, mean in means.items():
        layer: Any = base.get_submodule(name)
        a, b = (part[adapter_name].weight.detach().float() for part in (layer.rocket_moe_A, layer.rocket_moe_B))
        expand = layer.rocket_moe_router[adapter_name].expand
        # [E] x [E, ΣR] -> [ΣR]
        modules[name] = (a, b * (mean.to(expand) @ expand))
    return modules


@torch.no_grad()
def _mean_nll(model: PeftModel, tokenizer: Any, texts: Sequence[str], max_length: int) -> tuple[float, int]:
    """Return the mean negative log-likelihood per token and the number of tokens; one text at a time, no padding."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length).input_ids.to(model.device)
        if ids.shape[1] > 1:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            total += loss.item() * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    if not tokens:
        raise InputError(
            f"texts: none of the {len(texts)} texts has two tokens; give the prompts with their completions"
        )
    return total / tokens, tokens
