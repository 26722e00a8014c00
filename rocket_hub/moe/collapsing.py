import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rocket_hub.errors import AdapterError, InputError
from rocket_hub.lora.attach import load_adapter
from rocket_hub.lora.write import truncate, write_lora
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import GateStatistics, collect_gates
from rocket_hub.moe.layer import RocketMoeLayer

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Collapse:
    """A routed adapter as a plain LoRA.

    Attributes:
        path: Folder of the plain LoRA.
        gates: Module name -> class of tokens -> what the gates did, over the given texts.
        gate_means: Module name, as in the base model -> mean gate weight of each expert, over the given texts.
        expert_means: Mean gate weight of each expert over the modules.
        routed_nll: Mean negative log-likelihood per token of the routed adapter, in nats, on the held-out texts.
        collapsed_nll: The same of the plain LoRA, loaded from its folder by PEFT.
        tokens: Tokens that these two are means over.
        rank: Largest rank of any module of the plain LoRA.
        energy: Share of the squared norm of the weighed experts that the plain LoRA keeps, over all modules; 1 unless
            it was cut to a rank.
    """

    path: str
    gate_means: dict[str, tuple[float, ...]]
    expert_means: tuple[float, ...]
    routed_nll: float
    collapsed_nll: float
    tokens: int
    rank: int = 0
    energy: float = 1.0
    gates: dict[str, dict[str, GateStatistics]] = field(default_factory=dict)

    @property
    def expert_shares(self) -> tuple[float, ...]:
        """Share of the tokens for which each expert weighs most, over all modules."""
        seen = [one for classes in self.gates.values() for one in classes.values()]
        total = sum(one.tokens for one in seen)
        columns = zip(*([one.tokens * share for share in one.largest] for one in seen), strict=True)
        return tuple(sum(column) / total for column in columns)

    @property
    def loss(self) -> float:
        """What collapsing costs, in nats per token; below 0 when the plain LoRA is better."""
        return self.collapsed_nll - self.routed_nll

    @property
    def routed_perplexity(self) -> float:
        """Held-out perplexity of the routed adapter."""
        return math.exp(self.routed_nll)

    @property
    def collapsed_perplexity(self) -> float:
        """Held-out perplexity of the plain LoRA."""
        return math.exp(self.collapsed_nll)


def collapse_to_lora(
    model: PeftModel,
    tokenizer: Any,
    texts: Sequence[str],
    output: Path | str,
    *,
    rank: int | None = None,
    held_out: Sequence[str] | None = None,
    max_length: int = 2048,
) -> Collapse:
    """Write the active routed adapter as one plain LoRA whose experts weigh what their gates weigh on average.

    Replacing the gates by their means is not exact, and a lower rank is not; the loss is measured on the LoRA as it is
    on disk.

    Args:
        model: Model with one active ROCKET_MOE adapter; it is the same afterwards.
        tokenizer: Its tokenizer.
        texts: Texts of the kind the adapter is for (the K-shot); the gates are averaged over their tokens.
        output: Folder to write; any PEFT loads it.
        rank: Cut every module to this rank by singular values; None = concatenate the experts.
        held_out: Texts to measure on; by default `texts`.
        max_length: Texts are cut at this many tokens.

    Returns:
        The folder, the mean gates, rank and energy, and both likelihoods.

    Raises:
        AdapterError: The active adapter is not one ROCKET_MOE adapter (`not_rocket_moe`), or it also changes whole
            modules or tokens (`modules_to_save`).
        InputError: No text has two tokens, or the rank is below 1.
    """
    name, config = _active(model)
    if rank is not None and rank < 1:
        raise InputError(f"rank: expected at least 1, found {rank}; leave it out to keep everything")
    was_training = model.training
    model.eval()
    try:
        with collect_gates(model, name, special_ids=tokenizer.all_special_ids) as recorder:
            routed, _ = _mean_nll(model, tokenizer, texts, max_length)
        means = recorder.means()
        if held_out is not None:
            routed, _ = _mean_nll(model, tokenizer, held_out, max_length)
        modules, energy = _cut(_weighed(model, means, name), rank)
        folder = _write(modules, config, output)
        with _stock(model, folder) as plain:
            collapsed, tokens = _mean_nll(plain, tokenizer, texts if held_out is None else held_out, max_length)
    finally:
        model.train(was_training)
    return Collapse(
        path=str(folder),
        gate_means={module: tuple(mean.tolist()) for module, mean in means.items()},
        expert_means=tuple(torch.stack(list(means.values())).mean(0).tolist()),
        routed_nll=routed,
        collapsed_nll=collapsed,
        tokens=tokens,
        rank=max(len(a) for a, _ in modules.values()),
        energy=energy,
        gates=recorder.statistics(),
    )


def _active(model: PeftModel) -> tuple[str, RocketMoeConfig]:
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


def _weighed(model: PeftModel, means: Mapping[str, torch.Tensor], adapter_name: str) -> dict[str, Pair]:
    """Take A and B of every module out of the model, B's columns weighed by the mean gate of their expert."""
    base = model.get_base_model()
    modules = {}
    for name, mean in means.items():
        layer: Any = base.get_submodule(name)
        a, b = (part[adapter_name].weight.detach().float() for part in (layer.rocket_moe_A, layer.rocket_moe_B))
        # [E] -> [ΣR]
        weights = mean.repeat_interleave(torch.tensor(layer.ranks[adapter_name]))
        modules[name] = (a, b * weights.to(b))
    return modules


def _cut(modules: Mapping[str, Pair], rank: int | None) -> tuple[Mapping[str, Pair], float]:
    """Cut every module to a rank; also returns the share of the squared norm that is kept."""
    if rank is None:
        return modules, 1.0
    cut = {name: truncate(a, b, rank) for name, (a, b) in modules.items()}
    total = math.fsum(found.total for found in cut.values())
    kept = math.fsum(found.kept for found in cut.values())
    return {name: (found.a, found.b) for name, found in cut.items()}, kept / total if total else 1.0


def _write(modules: Mapping[str, Pair], config: RocketMoeConfig, output: Path | str) -> Path:
    restricted = config.layers_to_transform not in (None, []) or config.exclude_modules
    return write_lora(
        modules,
        output,
        everywhere=config.target_modules if isinstance(config.target_modules, (set, list)) and not restricted else (),
        base_model=config.base_model_name_or_path,
        base_revision=config.revision,
    )


@contextmanager
def _stock(model: PeftModel, folder: Path) -> Iterator[PeftModel]:
    """Load a plain LoRA on the base of a model, with the routed layers out of the way inside the block."""
    base: Any = model.get_base_model()
    routed = [(name, layer) for name, layer in base.named_modules() if isinstance(layer, RocketMoeLayer)]
    trained = [parameter for parameter in base.parameters() if parameter.requires_grad]
    configs = base.__dict__.pop("peft_config", None)  # PEFT would take the LoRA for one more adapter of this type
    for name, layer in routed:
        base.set_submodule(name, layer.base_layer)
    try:
        yield load_adapter(base, folder).eval()
    finally:
        for name, layer in routed:
            base.set_submodule(name, layer)  # in place of the LoRA layers, which are in no other places
        for parameter in trained:
            parameter.requires_grad_(True)
        if configs is not None:
            base.peft_config = configs


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
