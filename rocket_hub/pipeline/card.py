from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rocket_hub.controls.methods import ROUTED, ROUTED_FORMS
from rocket_hub.discovery.licences import combine
from rocket_hub.evaluation import paired_difference
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.generated import METHODS, SOURCE, in_words, teacher_terms
from rocket_hub.pipeline.lock import UNTRAINED, behind_generated, chosen_generated, used
from rocket_hub.publishing import adapter_metadata, create_model_card
from rocket_hub.recipe import Recipe
from rocket_hub.records import Evaluation, Pinned, Rejection, counts_in_words, reasons_in_words
from rocket_hub.results import CardFacts, Chosen, DataSelection, Evaluations


def card(
    context: Context, chosen: Chosen, measured: Evaluations, method: str, collapse: Mapping[str, Any] | None
) -> str:
    """Write the card of an adapter, of the `method` that is published; `collapse`: what its stock-LoRA form costs."""
    facts = card_facts(context, chosen, measured, method, collapse)
    datasets, tags = [row["repo_id"] for row in facts.datasets], ["mixture-of-lora"] if facts.routed else []
    return create_model_card(vars(facts), adapter_metadata(facts.base.repo_id, facts.licence, datasets, *tags))


def card_facts(
    context: Context, chosen: Chosen, measured: Evaluations, method: str, collapse: Mapping[str, Any] | None
) -> CardFacts:
    """Gather what the card says; see `card`."""
    pins, behind = used(chosen, method), behind_generated(chosen, method)
    ledger = combine([*pins, *behind], context.recipe.discover.allow_licences)
    experts = [pin for pin in pins if pin.kind == "model"][1:]
    repo_id = context.recipe.push.repo_id or context.run.path.name
    ours, labels, advice = measured.of(method), measured.labels, measured.recommendation
    start = ours.details.get("weight", 0.0)
    return CardFacts(
        title=repo_id.split("/")[-1],
        summary=_summary(context, experts, method, labels[method]),
        routed=method in ROUTED_FORMS,
        trained=method not in UNTRAINED,
        repo_id=repo_id,
        base=pins[0],
        dtype=context.placement.precision.split()[0],
        collapse=collapse,
        prompt=context.task.prompt("…"),
        evaluation_note=_evaluation_note(context, chosen.found.evaluation, ours),
        results=[_result_row(each, ours, labels[each.method]) for each in measured.evaluations],
        recommendation={"label": labels[advice.method], "reason": advice.reason},
        experts=[_expert_row(pin, i, chosen, collapse, start) for i, pin in enumerate(experts)],
        shots=len(context.shots),
        verdict=chosen.experts.reason,
        flagged=len(chosen.rows.flagged),
        scored=len(chosen.experts.scores),
        diversity=chosen.experts.diversity,
        adapters_rejected=reasons_in_words(_not_taken(chosen, experts)),
        rows=len(chosen.rows.selected),
        considered=f"{chosen.rows.considered:,}",
        datasets=[_data_row(pin, chosen.rows) for pin in pins if pin.kind == "dataset"],
        generated=_generated(chosen, method, behind),
        rows_rejected=counts_in_words(chosen.rows.reasons),
        datasets_rejected=reasons_in_words(chosen.found.datasets.rejected),
        licence=ledger.result,
        licence_notes="; ".join(filter(None, (*ledger.restrictions, teacher_terms(behind)))),
        version=version("rocket-hub"),
        recipe=published(context.recipe).to_yaml().strip(),
    )


def _summary(context: Context, experts: list[Pinned], method: str, label: str) -> str:
    what = label
    if method in ROUTED_FORMS:
        several = f"{len(experts)} LoRA experts merged into one routed adapter"
        what = several if len(experts) > 1 else "one LoRA expert behind routers"
        what += "" if method == ROUTED else ", of which the routers alone were trained"
    return (
        f"An adapter of `{context.pinned.repo_id}` for the task `{context.task.name}` "
        f"({context.task.description.rstrip('.').lower()}): {what}, made with {len(context.shots)} verified examples."
    )


def _evaluation_note(context: Context, pinned: Pinned, ours: Evaluation) -> str:
    return (
        f"Exact match by greedy decoding on {len(ours.correct):,} problems of "
        f"`{pinned.repo_id}` ({context.recipe.evaluate.split}) at `{pinned.revision[:12]}`; Wilson intervals; "
        "one seed and one draw of the examples. The difference is paired over the problems, with its standard error."
        + f" The base was computed in {context.placement.precision}."
        + (" Everything was asked in the base's chat template." if context.task.chat else "")
    )


def _result_row(evaluation: Evaluation, ours: Evaluation, label: str) -> dict[str, str]:
    """Describe a measurement, and how far what is published is from it."""
    gap, error = paired_difference(ours, evaluation)
    details = evaluation.details
    settings = f"lr {details['learning_rate']:g}, weight {details['weight']:g}" if "learning_rate" in details else ""
    return {
        "label": label,
        "accuracy": f"{evaluation.accuracy:.1%}",
        "interval": f"{evaluation.low:.1%} to {evaluation.high:.1%}",
        "difference": "" if evaluation is ours else f"{gap:+.1%} ± {error:.1%}",
        "settings": settings,
    }


def _expert_row(
    pin: Pinned, position: int, chosen: Chosen, collapse: Mapping[str, Any] | None, start: float
) -> dict[str, Any]:
    """Describe an expert; its mean weight is its mean gate times the weight that was folded into it."""
    score = next(each for each in chosen.experts.scores if each.repo_id == pin.repo_id)
    weight = f"{start * collapse['expert_means'][position]:.2f}" if collapse else ""
    return {**asdict(pin), "perplexity": score.perplexity, "accuracy": score.accuracy, "weight": weight}


def _data_row(pin: Pinned, rows: DataSelection) -> dict[str, Any]:
    """Describe a data set: what of it is in the adapter, and what of it may not be."""
    contaminated = rows.counts.get(pin.repo_id, {}).get("contaminated", 0)
    return {**asdict(pin), "rows": rows.per_source[pin.repo_id], "contaminated": contaminated}


def _not_taken(chosen: Chosen, experts: Sequence[Pinned]) -> list[Rejection]:
    """List the rejected adapters, but not those that are inside all the same, where a control is published."""
    inside = {pin.repo_id for pin in experts}
    second = [each for each in chosen.experts.rejected if each.item not in inside]
    return [*chosen.found.adapters.rejected, *second]


def _generated(chosen: Chosen, method: str, behind: Iterable[Pinned]) -> dict[str, Any] | None:
    """Describe the generated rows in an adapter; none = there are none in it."""
    if not (count := chosen_generated(chosen, method)):
        return None
    facts, rows = chosen.generated, chosen.rows
    name, paper = METHODS[facts.method]
    return {
        "rows": count,
        "share": f"{count / len(rows.selected):.0%}",
        "method": f"[{name}]({paper})",
        "maker": facts.maker,
        "made": facts.rows,
        "seeds": facts.seeds,
        "sha256": facts.sha256,
        "counts": in_words(facts.counts),
        "bill": in_words(facts.bill),
        "behind": [asdict(pin) for pin in behind],
        "contaminated": sum(each.get("contaminated", 0) for source, each in rows.counts.items()
                            if source.startswith(SOURCE)),
    }  # fmt: skip


def published(recipe: Recipe) -> Recipe:
    """Return a recipe that names no place of this machine: of files and folders that rows are made from, the names."""
    given = {name: getattr(recipe.generation, name) for name in ("documents", "questions", "teacher")}
    return recipe.updated("generation", **{name: Path(text).name for name, text in given.items()
                                           if text and Path(text).exists()})  # fmt: skip
