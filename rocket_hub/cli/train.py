"""`rocket-hub train`: fine-tune the merged adapter of a run folder, or make an expert of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rocket_hub.cli.options import expert_options, recipe_options
from rocket_hub.errors import InputError


@click.command()
@recipe_options
@expert_options
def train_command(dataset: str | None, **given: Any) -> None:
    """Fine-tune the merged adapter on the K-shot and the chosen rows; earlier stages run first where they must.

    With --dataset instead of --kshot, train one plain LoRA expert on that data and publish it with --push-to.
    """
    if dataset is not None:
        _expert(dataset, given)
    elif given["kshot"] is None:
        raise InputError("give --kshot FILE to train the merged adapter, or --dataset ID to train an expert")
    else:
        from rocket_hub.cli.running import run

        run(given, "5-train")


def _expert(dataset: str, given: dict[str, Any]) -> None:
    """Train one expert and publish it."""
    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.cli.screen import Screen
    from rocket_hub.localhub import connect
    from rocket_hub.options import TrainOptions

    if not given["base"]:
        raise InputError("give --base ID: the model that the expert is for")
    values = {
        "learning_rate": given["lr_grid"],
        "max_steps": given["max_steps"],
        "batch_size": given["batch_size"],
        "max_length": given["max_length"],
        "dtype": given["dtype"],
    }
    options = TrainOptions(**{key: value for key, value in values.items() if value is not None})
    with connect(given["hub"]):
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.expert import ExpertPlan, make_expert, push_expert
        from rocket_hub.tasks import get_task

        task = get_task(given["task"] or "gsm8k")
        out = given["out"] or Path("runs") / f"expert-{dataset.replace('/', '-')}"
        plan = ExpertPlan(
            dataset,
            given["base"],
            rank=given["rank"],
            alpha=given["alpha"] or 2 * given["rank"],
            targets=tuple(given["targets"].split(",")),
            max_rows=given["max_rows"] or ExpertPlan.max_rows,
            quantization=given["quantize"],
            seed=given["seed"] or 0,
        )
        screen = Screen()
        screen.say(f"one training of {options.max_steps} steps x {options.batch_size} rows, into {out}")
        with screen:
            facts = make_expert(HfApi(), plan, task, options, out, screen)
        screen.say(f"expert: {out}, last loss {facts['training']['loss']:.3f}")
        if given["push_to"]:
            commit = push_expert(HfApi(), out, given["push_to"], bool(given["private"]))
            screen.say(f"pushed to {given['push_to']} at {commit[:12]}")
