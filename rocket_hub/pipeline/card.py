"""Lay out what is published: the adapter, its stock-LoRA form, card, recipe and lock file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rocket_hub.controls import ROUTED, ROUTED_FORMS
from rocket_hub.discovery.licences import combine
from rocket_hub.errors import NothingLeftError, StorageError
from rocket_hub.evaluation import paired_difference
from rocket_hub.lora.attach import ADAPTER, adapted
from rocket_hub.pipeline.context import Context, evaluation_set
from rocket_hub.pipeline.generated import METHODS, SOURCE, in_words, teacher_terms
from rocket_hub.pipeline.lock import UNTRAINED, behind_generated, chosen_generated, lock_file, made, used
from rocket_hub.publishing import STATIC, create_model_card
from rocket_hub.recipe import Recipe
from rocket_hub.records import Evaluation, Pinned, Rejection, reasons_in_words
from rocket_hub.runs import write_json, write_text
from rocket_hub.serialization import from_dict

Results = Mapping[str, Any]
HELD_OUT = 64  # problems on which the loss of the stock-LoRA form is measured


def package(context: Context, results: Results, content: Path) -> Path:
    """Write everything that is published into one folder, from scratch.

    Raises:
        NothingLeftError: Only the best was to be published, and the best is the bare base model.
        StorageError: The folder cannot be written.
    """
    shutil.rmtree(content, ignore_errors=True)
    evaluations = [from_dict(Evaluation, entry, "6-evaluate") for entry in results["6-evaluate"]["evaluations"]]
    recommended = results["6-evaluate"]["recommendation"]["method"]
    method = recommended if context.recipe.push.publish == "best" else made(results)
    source = next((e.details.get("adapter") for e in evaluations if e.method == method), None)
    if source is None:
        raise NothingLeftError(f"'{method}' is recommended and has no adapter of its own; nothing is published")
    try:
        content.mkdir(parents=True)
        for name in ADAPTER:
            shutil.copyfile(context.run.absolute(source) / name, content / name)
        collapse = _static(context, results, content) if method in ROUTED_FORMS else None
    except OSError as error:
        raise StorageError(f"{content}: cannot be written: {error}; free some space and run it again") from error
    write_json(content / "lock.json", lock_file(context, results, method))
    write_text(content / "recipe.yaml", published(context.recipe).to_yaml())
    write_text(content / "README.md", card(context, results, evaluations, method, collapse))
    return content


def _static(context: Context, results: Results, content: Path) -> dict[str, Any]:
    """Write the stock-LoRA form and measure what it costs."""
    from rocket_hub.moe.collapsing import collapse_to_lora

    pinned = from_dict(Pinned, results["1-discover"]["evaluation"], "1-discover")
    problems = evaluation_set(context, pinned)[:HELD_OUT]
    texts = [example.prompt + example.completion for example in context.examples]
    held_out = [example.prompt + example.completion for example in problems]
    model, tokenizer = context.base
    with adapted(model, content) as routed:
        found = collapse_to_lora(routed, tokenizer, texts, content / STATIC, held_out=held_out)
    return {**asdict(found), "loss": found.loss}


def card(
    context: Context, results: Results, evaluations: list[Evaluation], method: str, collapse: dict[str, Any] | None
) -> str:
    """Gather the card's facts and write it."""
    recipe, pins = context.recipe, used(results, method)
    behind = behind_generated(results, method)
    ledger = combine([*pins, *behind], recipe.discover.allow_licences)
    experts = [pin for pin in pins if pin.kind == "model"][1:]
    rows = [pin for pin in pins if pin.kind == "dataset"]
    labels = results["6-evaluate"]["labels"]
    repo_id = recipe.push.repo_id or context.run.path.name
    recommendation = results["6-evaluate"]["recommendation"]
    ours = next(each for each in evaluations if each.method == method)
    start = ours.details.get("weight", 0.0)
    facts = {
        "title": repo_id.split("/")[-1],
        "summary": _summary(context, experts, method, labels[method]),
        "routed": method in ROUTED_FORMS,
        "trained": method not in UNTRAINED,
        "repo_id": repo_id,
        "base": pins[0],
        "collapse": collapse,
        "prompt": context.task.prompt("…"),
        "evaluation_note": _evaluation_note(context, results, evaluations),
        "results": [_result_row(each, ours, labels[each.method]) for each in evaluations],
        "recommendation": {"label": labels[recommendation["method"]], "reason": recommendation["reason"]},
        "experts": [_expert_row(pin, i, results, collapse, start) for i, pin in enumerate(experts)],
        "shots": len(context.shots),
        "verdict": results["2-select-experts"].get("reason", ""),
        "flagged": len(results["3-select-instructions"].get("flagged", ())),
        "scored": len(results["2-select-experts"]["scores"]),
        "diversity": results["2-select-experts"]["diversity"],
        "adapters_rejected": _reasons(_not_taken(results, experts)),
        "rows": len(results["3-select-instructions"]["selected"]),
        "considered": f"{results['3-select-instructions']['considered']:,}",
        "datasets": [_data_row(pin, results["3-select-instructions"]) for pin in rows],
        "generated": _generated(results, method, behind),
        "rows_rejected": _in_words(results["3-select-instructions"]["reasons"]),
        "datasets_rejected": _reasons(results["1-discover"]["datasets"]["rejected"]),
        "licence": ledger.result,
        "licence_notes": "; ".join(filter(None, (*ledger.restrictions, teacher_terms(behind)))),
        "version": _version(),
        "recipe": published(recipe).to_yaml().strip(),
    }
    metadata = {
        "base_model": pins[0].repo_id,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": ledger.result,
        "license_name": "see-this-card" if ledger.result == "other" else "",
        "datasets": [pin.repo_id for pin in rows],
        "tags": ["lora", "rocket-hub", *(["mixture-of-lora"] if method in ROUTED_FORMS else [])],
    }
    return create_model_card(facts, metadata)


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


def _evaluation_note(context: Context, results: Results, evaluations: list[Evaluation]) -> str:
    pinned = results["1-discover"]["evaluation"]
    return (
        f"Exact match by greedy decoding on {len(evaluations[-1].correct):,} problems of "
        f"`{pinned['repo_id']}` ({context.recipe.evaluate.split}) at `{pinned['revision'][:12]}`; Wilson intervals; "
        "one seed and one draw of the examples. The difference is paired over the problems, with its standard error."
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
    pin: Pinned, position: int, results: Results, collapse: dict[str, Any] | None, start: float
) -> dict[str, Any]:
    """Describe an expert; its mean weight is its mean gate times the weight that was folded into it."""
    score = next(s for s in results["2-select-experts"]["scores"] if s["repo_id"] == pin.repo_id)
    weight = f"{start * collapse['expert_means'][position]:.2f}" if collapse else ""
    return {**asdict(pin), "perplexity": score["perplexity"], "accuracy": score["accuracy"], "weight": weight}


def _data_row(pin: Pinned, chosen: Results) -> dict[str, Any]:
    """Describe a data set: what of it is in the adapter, and what of it may not be."""
    contaminated = chosen.get("counts", {}).get(pin.repo_id, {}).get("contaminated", 0)
    return {**asdict(pin), "rows": chosen["per_source"][pin.repo_id], "contaminated": contaminated}


def _not_taken(results: Results, experts: list[Pinned]) -> list[Any]:
    """List the rejected adapters, but not those that are inside all the same, where a control is published."""
    inside = {pin.repo_id for pin in experts}
    second = [each for each in results["2-select-experts"]["rejected"] if each["item"] not in inside]
    return [*results["1-discover"]["adapters"]["rejected"], *second]


def _reasons(rejected: Iterable[Any]) -> str:
    """Count the reasons of a list of rejections in words."""
    return reasons_in_words(from_dict(Rejection, entry, "rejected") for entry in rejected)


def _generated(results: Results, method: str, behind: list[Pinned]) -> dict[str, Any] | None:
    """Describe the generated rows in an adapter; none = there are none in it."""
    if not (chosen := chosen_generated(results, method)):
        return None
    facts, rows = results["0-generate"], results["3-select-instructions"]
    name, paper = METHODS[facts["method"]]
    return {
        "rows": chosen,
        "share": f"{chosen / len(rows['selected']):.0%}",
        "method": f"[{name}]({paper})",
        "maker": facts["maker"],
        "made": facts["rows"],
        "seeds": facts["seeds"],
        "sha256": facts["sha256"],
        "counts": in_words(facts["counts"]),
        "bill": in_words(facts["bill"]),
        "behind": [asdict(pin) for pin in behind],
        "contaminated": sum(count.get("contaminated", 0) for source, count in rows.get("counts", {}).items()
                            if source.startswith(SOURCE)),
    }  # fmt: skip


def _in_words(reasons: Mapping[str, int]) -> str:
    """Write the counts per reason of a list too long to be in the results."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"


def published(recipe: Recipe) -> Recipe:
    """Return a recipe that names no place of this machine: of files and folders that rows are made from, the names."""
    given = {name: getattr(recipe.generation, name) for name in ("documents", "questions", "teacher")}
    return recipe.updated("generation", **{name: Path(text).name for name, text in given.items()
                                           if text and Path(text).exists()})  # fmt: skip


def _version() -> str:
    from importlib.metadata import version

    return version("rocket-hub")
