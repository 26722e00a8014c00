"""Stage 2: the group of adapters that the K-shot chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.discovery.hub import reason_of
from rocket_hub.errors import AdapterError, HubError, HubUnreachableError, NothingLeftError
from rocket_hub.moe.expert import Expert, read_expert
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.loading import adapter_folder
from rocket_hub.records import AdapterDiscovery, ExpertSelection, Rejection
from rocket_hub.serialization import from_dict, to_dict

Results = Mapping[str, Any]


def select_experts(context: Context, name: str, results: Results) -> Any:
    """Score every adapter on the K-shot and choose the group of experts (Algorithm 1)."""
    from rocket_hub.selection.experts import select_experts as choose_group
    from rocket_hub.selection.scoring import expert_scores, score_adapters

    found = from_dict(AdapterDiscovery, results["1-discover"]["adapters"], name)

    def make(folder: Path) -> dict[str, Any]:
        experts, folders, rejected = _read_experts(context, found)
        if not experts:
            raise NothingLeftError(
                f"no adapter on the Hub can be used with {context.recipe.base}; see {context.run.path / '1-discover'} "
                "for the reasons, or choose another base with --base"
            )
        model, tokenizer = context.base
        scored = score_adapters(
            model,
            tokenizer,
            folders,
            context.examples,
            extract=context.task.extract,
            batch_size=context.recipe.evaluate.batch_size,
            max_new_tokens=context.recipe.evaluate.max_new_tokens,
            progress=lambda done, total: context.reporter.advance("scoring adapters", done, total),
        )
        factors = {
            repo_id: {module: (a.numpy(), b.numpy()) for module, (a, b) in expert.modules.items()}
            for repo_id, expert in experts.items()
        }
        selection = choose_group(expert_scores(scored), factors, context.recipe.experts)
        everything = (*selection.rejected, *scored.rejected, *rejected)
        return to_dict(ExpertSelection(selection.selected, everything, selection.scores, selection.diversity,
                                       selection.best_single))  # fmt: skip

    inputs = context.inputs(
        "experts",
        adapters=results["1-discover"]["adapters"]["selected"],
        scoring=[context.recipe.evaluate.max_new_tokens, context.recipe.train.dtype],
    )
    return context.run.stage(name, inputs, make)


def _read_experts(
    context: Context, found: AdapterDiscovery
) -> tuple[dict[str, Expert], dict[str, Path], list[Rejection]]:
    """Download and read the candidates; one that turns out to be unusable is rejected, not fatal."""
    experts: dict[str, Expert] = {}
    folders: dict[str, Path] = {}
    rejected: list[Rejection] = []
    for number, candidate in enumerate(found.selected, 1):
        context.reporter.advance("reading adapters", number, len(found.selected))
        try:
            folder = adapter_folder(context, candidate)
            experts[candidate.repo_id] = read_expert(folder, candidate.repo_id)
            folders[candidate.repo_id] = folder
        except AdapterError as error:
            rejected.append(Rejection(candidate.repo_id, error.reason, str(error)))
        except HubUnreachableError:
            raise  # an outage is no verdict
        except HubError as error:
            rejected.append(Rejection(candidate.repo_id, reason_of(error), str(error)))
    return experts, folders, rejected
