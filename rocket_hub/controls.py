"""The methods a build is measured against, and the build itself: all are an adapter to start from, trained or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocket_hub.errors import RecipeError
from rocket_hub.evaluation import paired_difference
from rocket_hub.moe.centroids import kshot_routers
from rocket_hub.moe.expert import Expert
from rocket_hub.moe.initialisation import arrow_routers
from rocket_hub.moe.merging import merge_experts, stack_experts
from rocket_hub.options import MergeOptions
from rocket_hub.records import Evaluation, Example, Pinned

ROUTED, FRESH = "routed", "fresh_lora"
Start = Callable[[float, Path], Path]  # (weight, folder to write) -> adapter folder to start from


@dataclass(frozen=True)
class Method:
    """One way to an adapter for the task.

    Attributes:
        name: What tables call it.
        label: What it is, in a few words.
        trained: Whether it is fine-tuned on the K-shot and the selected rows.
        weighted: Whether it has a weight to choose (the stack's, or the gates' start).
        start: Writes the adapter it starts from; none = the bare base model.
    """

    name: str
    label: str
    trained: bool
    weighted: bool
    start: Start | None


def all_methods(
    base_model: Any,
    tokenizer: Any,
    shots: Sequence[Example],
    base: Pinned,
    experts: Sequence[Expert],
    pins: Sequence[Pinned],
    best: Path,
    merge: MergeOptions,
) -> dict[str, Method]:
    """List the result and its controls, cheapest to keep and to serve first.

    Args:
        base_model: The base model; a fresh LoRA is shaped after it.
        tokenizer: Its tokenizer.
        shots: The K-shot in the task's form, for routers that start from it.
        base: Its id and commit.
        experts: The chosen experts.
        pins: Their ids, commits and licences, in the same order.
        best: Folder of the best single expert.
        merge: Gate form of the routed adapter.

    Returns:
        Methods by name, in order of cost.
    """
    pin: dict[str, Any] = {"base_model": base.repo_id, "base_revision": base.revision}
    provenance = [{"repo_id": p.repo_id, "revision": p.revision, "licence": p.licence} for p in pins]

    def single(weight: float, folder: Path) -> Path:
        return best

    def fresh(weight: float, folder: Path) -> Path:
        return fresh_lora(base_model, experts, folder)

    def uniform(weight: float, folder: Path) -> Path:
        return stack_experts(experts, 1.0 / len(experts), folder, **pin)

    def stack(weight: float, folder: Path) -> Path:
        return stack_experts(experts, weight, folder, **pin)

    def routed(weight: float, folder: Path) -> Path:
        adapter = merge_experts(experts, folder, gate_start=weight, provenance=provenance, **_routing(merge), **pin)
        if merge.router_init == "arrow":
            arrow_routers(adapter)
        elif merge.router_init == "kshot":
            kshot_routers(adapter, base_model, tokenizer, [(shot.prompt, shot.completion) for shot in shots])
        return adapter

    methods = (
        Method("base", "base model", False, False, None),
        Method("best_single", "best single expert", False, False, single),
        Method("best_single_trained", "single expert, trained", True, False, single),
        Method(FRESH, "fresh LoRA, trained", True, False, fresh),
        Method("uniform_merge", "uniform merge", False, False, uniform),
        Method("stack_trained", "stacked experts, trained", True, True, stack),
        Method(ROUTED, "routed experts, trained", True, True, routed),
    )
    return {method.name: method for method in methods}


def _routing(merge: MergeOptions) -> dict[str, Any]:
    """Name what the options say about routers as `RocketMoeConfig` does."""
    names = ("gate", "gate_scale", "top_k", "router", "load_balance_coef", "entropy_coef", "z_coef")
    return {name: getattr(merge, name) for name in names}


CONTROLS = ("base", "best_single", "best_single_trained", FRESH, "uniform_merge", "stack_trained")


def check_controls(names: Sequence[str], settings: Collection[str] = ()) -> tuple[str, ...]:
    """Resolve `all` and refuse unknown names, among the controls and among those with fixed settings.

    Raises:
        RecipeError: A name is no control.
    """
    for key, given in (("controls", names), ("settings", settings)):
        for name in given:
            if name not in CONTROLS and (name != "all" or key == "settings"):
                raise RecipeError(f"evaluate.{key}: unknown control '{name}'; known: all, {', '.join(CONTROLS)}")
    return CONTROLS if "all" in names else tuple(name for name in CONTROLS if name in names)


def fresh_lora(base_model: Any, experts: Sequence[Expert], folder: Path) -> Path:
    """Write a new LoRA with the experts' modules and, in each, their total rank; alpha is twice the rank."""
    from peft import LoraConfig, get_peft_model

    ranks: dict[str, int] = {}
    for expert in experts:
        for name, (a, _) in expert.modules.items():
            ranks[name] = ranks.get(name, 0) + a.shape[0]
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=2 * max(ranks.values()),
        rank_pattern={name.replace(".", r"\."): rank for name, rank in ranks.items()},
        alpha_pattern={name.replace(".", r"\."): 2 * rank for name, rank in ranks.items()},
        target_modules=sorted(ranks),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base_model, config)
    model.save_pretrained(str(folder))
    model.unload()
    return folder


@dataclass(frozen=True)
class Recommendation:
    """Which method to use, and why.

    Attributes:
        method: Name of the method.
        reason: One sentence with the numbers.
    """

    method: str
    reason: str


def recommend(evaluations: Sequence[Evaluation]) -> Recommendation:
    """Recommend the cheapest method that the best one does not beat by more than one standard error.

    Args:
        evaluations: Measurements over the same problems, cheapest method first.

    Returns:
        The recommendation; the standard error is that of the paired difference.
    """
    if len(evaluations) == 1:
        return Recommendation(evaluations[0].method, "no control was measured beside it: run it with --controls all")
    best = max(evaluations, key=lambda evaluation: evaluation.accuracy)
    for candidate in evaluations:
        gap, error = paired_difference(best, candidate)
        if gap <= error:
            break
    if candidate.method == best.method:
        return Recommendation(best.method, f"it is best ({best.accuracy:.1%}) and no cheaper form comes within one "
                              "standard error of it")  # fmt: skip
    return Recommendation(
        candidate.method,
        f"the best, {best.method}, is ahead by {gap:.1%} with a standard error of {error:.1%}, and {candidate.method} "
        "is cheaper to keep and to serve",
    )
