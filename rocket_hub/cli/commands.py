"""All commands, in the order of the pipeline; each is imported when it is called for."""

from __future__ import annotations

import click

from rocket_hub.cli.lazy import Lazy

COMMANDS = {
    "build": ("rocket_hub.cli.build", "Build an adapter for a task: every stage below, in order."),
    "discover": ("rocket_hub.cli.discover", "List adapters and data on the Hub that fit, and why the rest do not."),
    "generate": ("rocket_hub.cli.generate", "Make data where the Hub has none: by the base itself, or with a teacher."),
    "select": ("rocket_hub.cli.stages", "Let the K-shot choose: `select experts`, `select data`."),
    "merge": ("rocket_hub.cli.stages", "Merge the chosen experts into one routed adapter."),
    "train": ("rocket_hub.cli.train", "Fine-tune the merged adapter; or, with --dataset, an expert of your own."),
    "evaluate": ("rocket_hub.cli.evaluate", "Measure any model or adapter on a task; or a build and its controls."),
    "collapse": ("rocket_hub.cli.collapse", "Turn a routed adapter into one plain LoRA, with the measured loss."),
    "push": ("rocket_hub.cli.stages", "Publish the result with its card."),
    "hub": ("rocket_hub.cli.hub", "A small Hub in a folder: `hub serve`, `hub import`."),
}


@click.group(
    cls=Lazy, lazy=COMMANDS, heading="Commands, in order", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="rocket-hub", prog_name="rocket-hub")
def cli() -> None:
    r"""From K verified examples of a task to a published mixture of LoRA experts.

    \b
    Try it offline:  rocket-hub build --hub demo --task gsm8k --kshot recipes/demo/kshot.jsonl
    """
