from dataclasses import replace
from functools import partial
from pathlib import Path

from rocket_hub.discovery import discover_adapters, discover_datasets
from rocket_hub.discovery.hub.answers import or_last
from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.licences import combine, declared
from rocket_hub.inference.models import DeferredEncoder
from rocket_hub.pipeline.context import Context
from rocket_hub.records import DatasetDiscovery, Pinned
from rocket_hub.results import Discovery


def discover(context: Context) -> Discovery:
    """Stage 1: find adapters and data on the Hub, pin everything, and check licences."""

    def make(folder: Path) -> Discovery:
        recipe, api, shots = context.recipe, context.api, [shot.prompt for shot in context.shots]
        encoder = _pin(context, recipe.instructions.encoder, "model")
        adapters = discover_adapters(
            api,
            recipe.base,
            options=recipe.discover,
            progress=partial(context.reporter.advance, "looking at adapters"),
            shots=shots,
            encoder=DeferredEncoder(encoder.repo_id, encoder.revision),
            closed=context.task.closed,
            planned=lambda plan: context.reporter.say(str(plan)),
        )
        if adapters.note:
            context.reporter.say(adapters.note)
        datasets = discover_datasets(
            api,
            options=recipe.discover,
            task=context.task,
            exclude=(context.task.dataset,),
            shots=shots,
            progress=partial(context.reporter.advance, "looking at data sets"),
        )
        evaluation = _pin(context, context.task.dataset, "dataset", context.task.revision)
        found = Discovery(adapters, datasets, encoder, evaluation)
        ledger = combine([found.base, *found.usable], recipe.discover.allow_licences)
        refused = {rejection.item: rejection for rejection in ledger.rejected}
        kept = tuple(each for each in datasets.selected if each.repo_id not in refused)
        lost = (refused[each.repo_id] for each in datasets.selected if each.repo_id in refused)
        return replace(found, datasets=DatasetDiscovery(kept, (*datasets.rejected, *lost)))

    inputs = context.inputs(
        "discover",
        encoder=context.recipe.instructions.encoder,
        evaluation=[context.task.dataset, context.task.revision],
    )
    found = context.run.stage("1-discover", inputs, make, Discovery)
    context.pinned = found.base
    return found


def _pin(context: Context, repo_id: str, kind: str, revision: str | None = None) -> Pinned:
    """Pin a repository to a commit, or to its present one; offline, to the one that was told last."""

    def ask() -> dict[str, str]:
        info = call(repo_id, context.api.repo_info, repo_id, repo_type=kind, revision=revision)
        return {"revision": str(info.sha), "licence": declared(getattr(info, "card_data", None))}

    told, _ = or_last(context.api, ask, "pin", kind, repo_id, revision or "")
    return Pinned(repo_id, told["revision"], kind, told["licence"])
