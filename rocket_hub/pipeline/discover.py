"""Stage 1: what is on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.discovery import discover_adapters, discover_datasets
from rocket_hub.discovery.hub import call
from rocket_hub.discovery.licences import combine, declared
from rocket_hub.pipeline.context import Context
from rocket_hub.records import AdapterDiscovery, DatasetDiscovery, Pinned
from rocket_hub.serialization import from_dict, to_dict

Results = Mapping[str, Any]


def discover(context: Context, name: str, results: Results) -> Any:
    """Find adapters and data on the Hub, pin everything, and judge licences."""

    def make(folder: Path) -> dict[str, Any]:
        recipe, api = context.recipe, context.api
        adapters = discover_adapters(
            api,
            recipe.base,
            options=recipe.discover,
            progress=lambda done, total: context.reporter.advance("looking at adapters", done, total),
        )
        datasets = discover_datasets(api, options=recipe.discover, task=context.task, exclude=(context.task.dataset,))
        encoder = _pin(context, recipe.instructions.encoder, "model")
        evaluation = _pin(context, context.task.dataset, "dataset")
        used = [
            *(Pinned(found.repo_id, found.revision, "model", found.licence) for found in adapters.selected),
            *(Pinned(found.repo_id, found.revision, "dataset", found.licence) for found in datasets.selected),
        ]
        ledger = combine([adapters.base, *used], recipe.discover.allow_licences)
        refused = {rejection.item for rejection in ledger.rejected}
        adapters = AdapterDiscovery(
            adapters.base,
            tuple(found for found in adapters.selected if found.repo_id not in refused),
            (*adapters.rejected, *(_ for _ in ledger.rejected if _.item in {a.repo_id for a in adapters.selected})),
        )
        datasets = DatasetDiscovery(
            tuple(found for found in datasets.selected if found.repo_id not in refused),
            (*datasets.rejected, *(_ for _ in ledger.rejected if _.item in {d.repo_id for d in datasets.selected})),
        )
        return {
            "adapters": to_dict(adapters),
            "datasets": to_dict(datasets),
            "encoder": to_dict(encoder),
            "evaluation": to_dict(evaluation),
        }

    result = context.run.stage(name, context.inputs("discover", encoder=context.recipe.instructions.encoder,
                                                    evaluation=context.task.dataset), make)  # fmt: skip
    context.pinned = from_dict(Pinned, result["adapters"]["base"], name)
    return result


def _pin(context: Context, repo_id: str, kind: str) -> Pinned:
    """Pin a repository to its present commit."""
    info = call(repo_id, context.api.repo_info, repo_id, repo_type=kind)
    return Pinned(repo_id, str(info.sha), kind, declared(getattr(info, "card_data", None)))
