"""The result of a build and its controls, in the order of what they cost to keep and to serve.

Each is a folder to start from, trained or not, and a way to open it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rocket_hub.controls.arrow import arrow_model, padded_experts
from rocket_hub.controls.fresh import fresh_lora, untrained_experts
from rocket_hub.controls.full import full_model
from rocket_hub.controls.merging import kshot_weights, peft_merge
from rocket_hub.controls.method import Group, Method, Open, Parts, Start
from rocket_hub.controls.xlora import new_classifier, xlora_model
from rocket_hub.moe.centroids import kshot_routers
from rocket_hub.moe.expert import Expert
from rocket_hub.moe.initialisation import arrow_routers
from rocket_hub.moe.merging import merge_experts, stack_experts
from rocket_hub.recipe import CONTROLS
from rocket_hub.records import Pinned

ROUTED, FRESH = "routed", "fresh_lora"
ROUTED_FORMS = (ROUTED, "router_only")
"""What is published as a routed adapter."""
ROUTING = ("gate", "gate_scale", "top_k", "router", "load_balance_coef", "entropy_coef", "z_coef")
"""What the options say about routers, as `RocketMoeConfig` names it."""


def all_methods(parts: Parts) -> dict[str, Method]:
    """List the result and its controls; nothing is read or written before one is started.

    Args:
        parts: What they are made of.

    Returns:
        Methods by name, in order of cost; the result is the last.
    """
    found = {method.name: method for method in (*_untrained(parts), *_trained(parts), *_ablations(parts))}
    return {name: found[name] for name in (*CONTROLS, ROUTED)}


def _untrained(parts: Parts) -> tuple[Method, ...]:
    """List what sees no rows."""
    return (
        Method("base", "base model"),
        Method("best_single", "best single expert", lambda weight, folder: parts.best()),
        Method("uniform_merge", "uniform merge", lambda weight, folder: _stack(parts, None, folder)),
        Method("ties", "TIES merge", partial(_peft_merge, parts, "ties", 1.0)),
        Method("dare_ties", "DARE merge with TIES signs", partial(_peft_merge, parts, "dare_ties", 1.0)),
        Method("dare_linear", "DARE merge, mean", partial(_peft_merge, parts, "dare_linear", None)),
        Method("lorahub", "LoRAHub weights", partial(_lorahub, parts)),
        Method("arrow", "Arrow", partial(_arrow, parts), open=partial(arrow_model, seed=parts.seed)),
    )


def _trained(parts: Parts) -> tuple[Method, ...]:
    """List what is trained on the same rows, beside the routed adapter."""
    return (
        Method("best_single_trained", "single expert, trained", lambda weight, folder: parts.best(), trained=True),
        Method(FRESH, "fresh LoRA, trained", partial(_fresh, parts), trained=True),
        Method(
            "stack_trained",
            "stacked experts, trained",
            partial(_stack, parts),
            trained=True,
            weighted=_has_weight(parts),
        ),
        Method("xlora", "X-LoRA, trained", partial(_xlora, parts), trained=True, open=_xlora_open(parts)),
        Method("full_finetune", "all parameters, trained", _nothing, trained=True, open=full_model),
    )


def _ablations(parts: Parts) -> tuple[Method, ...]:
    """List the routed adapter and what is left of it without one of its ingredients."""
    weighted = _has_weight(parts) and parts.merge.gate == "sigmoid"  # those of softmax start at its own
    routed = Method(ROUTED, "routed experts, trained", _routed(parts, parts.chosen), trained=True, weighted=weighted)
    return (
        replace(routed, name="random_experts", label="routed, random experts", start=_routed(parts, parts.drawn),
                experts=parts.drawn.names),
        replace(routed, name="random_init", label="routed, untrained experts", start=partial(_random_init, parts)),
        replace(routed, name="router_only", label="routed, routers trained alone", schedule="router_only"),
        replace(routed, name="two_stage", label="routed, routers trained first", schedule="two_stage"),
        replace(routed, name="no_diversity", label="routed, experts by rank alone", start=_routed(parts, parts.ranked),
                experts=parts.ranked.names),
        replace(routed, name="no_data", label="routed, K-shot alone", rows="none"),
        replace(routed, name="random_data", label="routed, random rows", rows="random"),
        routed,
    )  # fmt: skip


def _has_weight(parts: Parts) -> bool:
    """Tell whether there is a sum of experts to weigh; one expert alone is best at the strength it was trained at."""
    return len(parts.chosen.pins) > 1


def _nothing(weight: float, folder: Path) -> Path:
    """Write nothing: what is opened is a copy of the base."""
    return folder


def _stack(parts: Parts, weight: float | None, folder: Path) -> Path:
    """Write the chosen experts in one plain LoRA, each at a weight; none = their mean."""
    experts = parts.chosen.experts
    return stack_experts(experts, 1.0 / len(experts) if weight is None else weight, folder, **parts.pin)


def _peft_merge(parts: Parts, kind: str, weight: float | None, _: float, folder: Path) -> Path:
    """Write PEFT's merge of the chosen experts, each at a weight; none = one over their number."""
    experts, (model, _) = parts.chosen.experts, parts.model()
    each = 1.0 / len(experts) if weight is None else weight
    return peft_merge(model, experts, kind, each, folder, seed=parts.seed, **parts.pin)


def _lorahub(parts: Parts, _: float, folder: Path) -> Path:
    """Write the stack of the chosen experts at LoRAHub's weights."""
    weights = kshot_weights(*parts.model(), parts.chosen.experts, parts.shots)
    return stack_experts(parts.chosen.experts, weights, folder, **parts.pin)


def _arrow(parts: Parts, _: float, folder: Path) -> Path:
    """Write the chosen experts as Arrow takes them."""
    return padded_experts(parts.model()[0], parts.chosen.experts, folder, **parts.pin)


def _fresh(parts: Parts, _: float, folder: Path) -> Path:
    """Write a new LoRA of the chosen experts' shape."""
    return fresh_lora(parts.model()[0], parts.chosen.experts, folder, parts.seed)


def _xlora(parts: Parts, _: float, folder: Path) -> Path:
    """Write a new classifier over the chosen experts."""
    return new_classifier(parts.model()[0], parts.chosen.experts, folder, **parts.pin)


def _xlora_open(parts: Parts) -> Open:
    """Return what opens an X-LoRA; the experts are read when it first does."""

    def opened(base: Any, folder: Path, trained: bool) -> AbstractContextManager[Any]:
        return xlora_model(base, folder, trained, experts=parts.chosen.experts, pin=parts.pin)

    return opened


def _routed(parts: Parts, group: Group) -> Start:
    """Return what merges a group of experts into one routed adapter."""
    return lambda weight, folder: _merge(parts, group.experts, group.pins, weight, folder)


def _random_init(parts: Parts, weight: float, folder: Path) -> Path:
    """Write a routed adapter whose experts have the chosen ones' shapes, and know nothing."""
    return _merge(parts, untrained_experts(parts.chosen.experts, parts.seed), (), weight, folder)


def _merge(parts: Parts, experts: Sequence[Expert], pins: Sequence[Pinned], weight: float, folder: Path) -> Path:
    """Merge experts into one routed adapter, with routers as the recipe says."""
    provenance = [{"repo_id": p.repo_id, "revision": p.revision, "licence": p.licence} for p in pins]
    routing = {name: getattr(parts.merge, name) for name in ROUTING}
    adapter = merge_experts(experts, folder, gate_start=weight, provenance=provenance, **routing, **parts.pin)
    if parts.merge.router_init == "arrow":
        arrow_routers(adapter)
    elif parts.merge.router_init == "kshot":
        kshot_routers(adapter, *parts.model(), [(shot.prompt, shot.completion) for shot in parts.shots])
    return adapter
