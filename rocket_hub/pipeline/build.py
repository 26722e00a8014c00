"""The method on one page: K-shot -> discover (-> generate) -> select -> merge -> train -> evaluate -> push."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocket_hub.controls import check_controls
from rocket_hub.errors import RecipeError
from rocket_hub.pipeline.context import open_context
from rocket_hub.pipeline.discover import discover
from rocket_hub.pipeline.generate import check, generate
from rocket_hub.pipeline.lock import check_generated, check_lock, write_lock
from rocket_hub.pipeline.make import merge, train
from rocket_hub.pipeline.prove import measure, push
from rocket_hub.pipeline.select_data import select_instructions
from rocket_hub.pipeline.select_experts import check_chosen, select_experts
from rocket_hub.recipe import Recipe
from rocket_hub.records import Evaluation
from rocket_hub.runs import Reporter, Silent, write_text

STAGES = {
    "1-discover": discover,
    "0-generate": generate,
    "2-select-experts": select_experts,
    "3-select-instructions": select_instructions,
    "4-merge": merge,
    "5-train": train,
    "6-evaluate": measure,
    "7-push": push,
}


@dataclass(frozen=True)
class Build:
    """A finished build, or as much of one as was asked for.

    Attributes:
        folder: The run folder.
        results: What each stage that ran left, by the stage's name.
        seconds: Wall-clock seconds of each stage when it was made.
    """

    folder: Path
    results: dict[str, Any]
    seconds: dict[str, float]

    @property
    def adapter(self) -> Path:
        """Folder of the trained routed adapter."""
        return self.folder / self.results["5-train"]["training"]["adapter"]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Measurements of the result and its controls, cheapest method first."""
        return [Evaluation(**entry) for entry in self.results["6-evaluate"]["evaluations"]]


def build(
    recipe: Recipe,
    kshot: str | Path,
    out: str | Path,
    *,
    hub_name: str = "",
    until: str = "7-push",
    locked: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Build:
    """Build an adapter for a task from a handful of verified examples.

    What an earlier run in the same folder has finished, from the same inputs, is kept; what changed is made again.

    Args:
        recipe: What to build.
        kshot: File with the K verified examples, see `load_kshot`.
        out: The run folder.
        hub_name: Name of the Hub in use, so that a folder is not mistaken for that of another Hub.
        until: Last stage to run, one of `STAGES`.
        locked: A `lock.json`; every ingredient must be at the commit it names.
        reporter: Told what happens; none = silence.

    Returns:
        The build.

    Raises:
        RocketError: What went wrong, where, and what to do next; finished stages stay.
    """
    if until not in STAGES:
        raise RecipeError(f"unknown stage '{until}'; stages: {', '.join(STAGES)}")
    recipe.check("recipe")
    check_controls(recipe.evaluate.controls, recipe.evaluate.settings)
    check(recipe)
    context = open_context(recipe, Path(kshot), Path(out), hub_name, reporter or Silent())
    write_text(context.run.path / "recipe.yaml", recipe.to_yaml())
    results: dict[str, Any] = {}
    for name, stage in STAGES.items():
        results[name] = stage(context, name, results)
        if name == "1-discover" and locked:
            check_lock(Path(locked), results[name])
        if name == "0-generate" and locked:
            check_generated(Path(locked), results[name])
        if name == "1-discover" and name != until:
            context.use_chat_template()
        if name == "2-select-experts" and name != until:
            check_chosen(context, results[name])
        if name == "3-select-instructions":
            write_lock(context, results)
        if name == until:
            break
    return Build(context.run.path, results, context.run.seconds())
