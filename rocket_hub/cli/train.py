"""`rocket-hub train`: fine-tune the merged adapter of a run folder, or make an expert of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from rocket_hub.cli.options import adjusted, expert_options, find_recipe, recipe_options
from rocket_hub.errors import InputError

# Options that only say something with --dataset; and those of a build that then say something, too.
EXPERT = ("rank", "alpha", "targets", "batch_size", "max_length", "dtype", "quantize")
SHARED = (
    "hub", "task", "recipe", "base", "out", "seed", "allow_licence", "max_rows", "lr_grid", "max_steps", "push_to",
    "private",
)  # fmt: skip


@click.command()
@recipe_options
@expert_options
@click.pass_context
def train_command(context: click.Context, /, dataset: str | None, **given: Any) -> None:
    """Fine-tune the merged adapter on the K-shot and the chosen rows; earlier stages run first where they must.

    With --dataset instead of --kshot, train one plain LoRA expert on that data and publish it with --push-to.
    """
    if dataset is None and given["kshot"] is None:
        raise InputError("give --kshot FILE to train the merged adapter, or --dataset ID to train an expert")
    asked = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    unread = [name for name in asked if (name in EXPERT if dataset is None else name not in (*EXPERT, *SHARED))]
    if unread:
        strange = [f"--{name.replace('_', '-')}" for name in unread]
        what = "the merged adapter: they are" if dataset is None else "an expert: they are not"
        raise InputError(f"{', '.join(strange)} cannot be used to train {what} for --dataset; leave them out")
    if dataset is not None:
        _expert(dataset, given)
    else:
        from rocket_hub.cli.running import run

        run(given, "5-train")


def _expert(dataset: str, given: dict[str, Any]) -> None:
    """Train one expert and publish it."""
    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.cli.screen import Screen
    from rocket_hub.localhub import connect

    with connect(given["hub"]) as connection:
        recipe = adjusted(find_recipe(given["task"], given["recipe"], dict(connection.recipes)), given)
        recipe = recipe.updated(
            "train", batch_size=given["batch_size"], max_length=given["max_length"], dtype=given["dtype"]
        )
        recipe.check("command line")
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.expert import ExpertPlan, make_expert, push_expert

        out = given["out"] or Path("runs") / f"expert-{Path(dataset).name}"
        plan = ExpertPlan(
            dataset,
            rank=given["rank"],
            alpha=given["alpha"] or 2 * given["rank"],
            targets=tuple(given["targets"].split(",")),
            max_rows=given["max_rows"] or ExpertPlan.max_rows,
            quantization=given["quantize"],
        )
        screen = Screen()
        screen.say(f"one training on {recipe.base} of {recipe.train.max_steps} steps x {recipe.train.batch_size} rows "
                   f"at learning rate {recipe.train.learning_rate[0]:g}, into {out}")  # fmt: skip
        with screen:
            facts = make_expert(HfApi(), plan, recipe, out, screen)
        screen.say(f"expert: {out}, last loss {facts['training']['loss']:.3f}, licence {facts['licence']}")
        if given["push_to"]:
            commit = push_expert(HfApi(), out, given["push_to"], bool(given["private"]))
            screen.say(f"pushed to {given['push_to']} at {commit[:12]}")
