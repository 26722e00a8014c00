"""The result of a build and its controls: each a folder to start from, trained or not, and a way to open it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rocket_hub.controls.merges import fresh_lora, kshot_weights, peft_merge, untrained_experts
from rocket_hub.controls.peft_models import arrow_model, full_model, new_classifier, padded_experts, xlora_model
from rocket_hub.evaluation import paired_difference
from rocket_hub.lora.expert import Expert
from rocket_hub.moe.merging import merge_experts, stack_experts
from rocket_hub.moe.router_init import arrow_routers, kshot_routers
from rocket_hub.options import MergeOptions, Schedule
from rocket_hub.recipe import CONTROLS
from rocket_hub.records import Evaluation, Example, Pinned
from rocket_hub.results import Recommendation

Start = Callable[[float, Path], Path]  # (weight, folder to write) -> folder to start from
Open = Callable[[Any, Path, bool], AbstractContextManager[Any]]  # (base, folder, whether it is trained) -> the model


@dataclass(frozen=True)
class Method:
    """One way to a model for the task.

    Attributes:
        name: What tables call it.
        label: What it is, in a few words.
        start: Writes the folder it starts from; none = the bare base model.
        trained: Whether it is fine-tuned.
        weighted: Whether it has a weight to choose: the stack's, or the gates' start.
        schedule: What of a routed adapter is trained when; none = as the recipe says.
        rows: What it is trained on beside the K-shot: the `selected` rows, as many `random` ones of the pool, or
            `none`.
        experts: Repository ids of its experts, where they are not the chosen ones.
        open: Puts what is in a folder on the base model for a block; none = as one adapter, by PEFT.
    """

    name: str
    label: str
    start: Start | None = None
    trained: bool = False
    weighted: bool = False
    schedule: Schedule | None = None
    rows: str = "selected"
    experts: tuple[str, ...] = ()
    open: Open | None = None


@dataclass(frozen=True)
class Group:
    """Experts that are read when a method first asks for them."""

    pins: tuple[Pinned, ...]  # their ids, commits and licences
    read: Callable[[Pinned], Expert]  # reads one of them

    @property
    def names(self) -> tuple[str, ...]:
        """Their repository ids."""
        return tuple(pin.repo_id for pin in self.pins)

    @cached_property
    def experts(self) -> list[Expert]:
        """The experts, in the order of the pins."""
        return [self.read(pin) for pin in self.pins]


@dataclass(frozen=True)
class Parts:
    """What methods are made of; nothing is fetched before a method asks for it."""

    model: Callable[[], tuple[Any, Any]]  # gives the base model and its tokenizer
    base: Pinned  # its id and commit
    shots: Sequence[Example]  # the K-shot in the task's form
    chosen: Group  # the chosen experts
    drawn: Group  # as many experts, drawn at random from all usable ones
    ranked: Group  # as many experts, the first by rank alone
    best: Callable[[], Path]  # gives the folder of the best single expert
    merge: MergeOptions  # gate form of routed adapters
    seed: int = 0  # seeds what is random

    @property
    def pin(self) -> dict[str, Any]:
        """The base model, as adapter folders name it."""
        return {"base_model": self.base.repo_id, "base_revision": self.base.revision}


ROUTED, FRESH = "routed", "fresh_lora"
ROUTED_FORMS = (ROUTED, "router_only")
"""What is published as a routed adapter."""
ROUTING = ("gate", "gate_scale", "top_k", "router", "load_balance_coef", "entropy_coef", "z_coef")
"""What the options say about routers, as `RocketMoeConfig` names it."""


def all_methods(parts: Parts) -> dict[str, Method]:
    """List the result and its controls by name, in order of cost, the result last.

    Nothing is read or written before one is started.
    """
    found = {method.name: method for method in (*_untrained(parts), *_trained(parts), *_ablations(parts))}
    return {name: found[name] for name in (*CONTROLS, ROUTED)}


def _untrained(parts: Parts) -> tuple[Method, ...]:
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
    return (
        Method("best_single_trained", "single expert, trained", lambda weight, folder: parts.best(), trained=True),
        Method(FRESH, "fresh LoRA, trained", partial(_fresh, parts), trained=True),
        Method("stack_trained", "stacked experts, trained", partial(_stack, parts), trained=True,
               weighted=_has_weight(parts)),
        Method("xlora", "X-LoRA, trained", partial(_xlora, parts), trained=True, open=_xlora_open(parts)),
        Method("full_finetune", "all parameters, trained", _nothing, trained=True, open=full_model),
    )  # fmt: skip


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
    """Return whether there is a sum of experts to weigh; one alone is best at the strength it was trained at."""
    return len(parts.chosen.pins) > 1


def _nothing(weight: float, folder: Path) -> Path:
    return folder  # what is opened is a copy of the base


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
    weights = kshot_weights(*parts.model(), parts.chosen.experts, parts.shots)
    return stack_experts(parts.chosen.experts, weights, folder, **parts.pin)


def _arrow(parts: Parts, _: float, folder: Path) -> Path:
    return padded_experts(parts.model()[0], parts.chosen.experts, folder, **parts.pin)


def _fresh(parts: Parts, _: float, folder: Path) -> Path:
    return fresh_lora(parts.model()[0], parts.chosen.experts, folder, parts.seed)


def _xlora(parts: Parts, _: float, folder: Path) -> Path:
    return new_classifier(parts.model()[0], parts.chosen.experts, folder, **parts.pin)


def _xlora_open(parts: Parts) -> Open:
    """Return what opens an X-LoRA; the experts are read when it first does."""

    def opened(base: Any, folder: Path, trained: bool) -> AbstractContextManager[Any]:
        return xlora_model(base, folder, trained, experts=parts.chosen.experts, pin=parts.pin)

    return opened


def _routed(parts: Parts, group: Group) -> Start:
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


PRODUCTS = ("base", "best_single", "best_single_trained", "fresh_lora", "stack_trained", "router_only", "routed")
"""What may be recommended; the others show what an ingredient is worth, and are not kept up to be used."""


def recommend(evaluations: Sequence[Evaluation]) -> Recommendation:
    """Recommend the cheapest of the `PRODUCTS` that the best of them does not beat by more than one standard error.

    Args:
        evaluations: Measurements over the same problems, cheapest method first; at least one of a product.

    Returns:
        The recommendation; the standard error is that of the paired difference.
    """
    products = [evaluation for evaluation in evaluations if evaluation.method in PRODUCTS]
    if len(products) == 1:
        return Recommendation(products[0].method, "no control was measured beside it: run it with --controls core")
    best = max(products, key=lambda evaluation: evaluation.accuracy)
    for candidate in products:
        gap, error = paired_difference(best, candidate)
        if gap <= error:
            break
    if candidate.method == best.method:
        return Recommendation(best.method, f"it is best ({best.accuracy:.1%}) and no cheaper form comes within one "
                              "standard error of it")  # fmt: skip
    return Recommendation(
        candidate.method,
        f"the best, {best.method}, is ahead by {gap:.1%} with a standard error of {error:.1%}, and {candidate.method} "
        "is cheaper to make, to keep or to serve",
    )
