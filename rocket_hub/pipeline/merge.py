from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from rocket_hub.controls.methods import Group, Method, Parts, all_methods
from rocket_hub.lora.attach import WEIGHTS
from rocket_hub.lora.expert import Expert
from rocket_hub.pipeline.adapters import read_adapter, stock_folder
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.lock import made
from rocket_hub.records import Pinned, Setting
from rocket_hub.results import Adapter, Chosen


def merge(context: Context, chosen: Chosen) -> Adapter:
    """Stage 4: merge the chosen experts into one routed adapter; where none helps, make a fresh LoRA."""

    def make(folder: Path) -> Adapter:
        seed_everything(context.recipe.seed)
        method = methods(context, chosen)[made(chosen)]
        weight = weighed(method, Setting(0.0, context.recipe.merge.gate_start[0])).weight
        adapter = method.start(weight, folder / "adapter") if method.start else folder
        return Adapter(method.name, context.run.relative(adapter), weight, (adapter / WEIGHTS).stat().st_size)

    inputs = context.inputs("merge", experts=chosen.experts.selected, pins=commits_of(chosen))
    return context.run.stage("4-merge", inputs, make, Adapter)


def methods(context: Context, chosen: Chosen) -> dict[str, Method]:
    """List the result and its controls; see `all_methods`. Experts are read when a method is first started."""
    pins, selection = chosen.found.pins, chosen.experts
    usable = [score.repo_id for score in selection.scores]  # the best rank sum comes first
    count = len(chosen.group)
    drawn = np.random.default_rng(context.recipe.seed).choice(sorted(usable), count, replace=False).tolist()

    def group(names: Sequence[str]) -> Group:
        return Group(tuple(pins[f"models/{name}"] for name in names), read)

    @cache
    def read(pin: Pinned) -> Expert:
        return read_adapter(context, pin)

    return all_methods(
        Parts(
            model=lambda: context.base,
            base=context.pinned,
            shots=context.examples,
            chosen=group(chosen.group),
            drawn=group(drawn),
            ranked=group(usable[:count]),
            best=lambda: stock_folder(context, pins[f"models/{selection.best_single}"]),
            merge=context.recipe.merge,
            seed=context.recipe.seed,
        )
    )


def weighed(method: Method, setting: Setting) -> Setting:
    """Return a setting without a weight for a method that has none to choose."""
    return setting if method.weighted else replace(setting, weight=1.0)


def commits_of(chosen: Chosen) -> list[str]:
    """List the commits of the experts that methods are made of."""
    return [chosen.found.pins[f"models/{name}"].revision for name in chosen.group]


def seed_everything(seed: int) -> None:
    """Seed every random generator that initialisation and data order use."""
    from transformers import set_seed

    set_seed(seed)
