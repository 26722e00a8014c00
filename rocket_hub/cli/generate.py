"""`rocket-hub generate`: data where the Hub has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocket_hub.cli.lazy import Lazy
from rocket_hub.cli.options import find_recipe
from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import NOVELTIES, RETRIEVALS, SelfSpecializationOptions
from rocket_hub.recipe import Recipe

if TYPE_CHECKING:
    from rich.table import Table

METHODS = {
    "self-specialization": ("rocket_hub.cli.generate", "The base model makes its own rows from a handful of seeds."),
    "meteor": ("rocket_hub.cli.generate_meteor", "A stronger teacher answers, judges and advises."),
}
DEFAULTS = SelfSpecializationOptions()


@click.group(cls=Lazy, lazy=METHODS, heading="Methods")
def generate_command() -> None:
    """Make data where the Hub has none."""


@click.command()
@click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out.")
@click.option("--task", metavar="NAME", help="Task; its recipe comes with the package or with the Hub.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file, instead of the task's own.")
@click.option("--kshot", type=click.Path(path_type=Path), help="File with the seeds: verified, solved examples.")
@click.option("--base", metavar="ID|FOLDER", help="Base model, instead of the recipe's.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Its precision, instead of the recipe's.")
@click.option("--documents", metavar="FOLDER|ID", help="Domain text that answers may draw on: .txt, .md, .jsonl files, "
              "or a data set.")  # fmt: skip
@click.option("--passages", type=int, help=f"Passages of it before every question; default {DEFAULTS.passages}.")
@click.option("--retrieval", type=click.Choice(RETRIEVALS), help=f"How they are found; default {DEFAULTS.retrieval}.")
@click.option("--encoder", metavar="ID|FOLDER", help="Sentence encoder, instead of the recipe's.")
@click.option("--target-rows", type=int, help=f"Rows that are wanted; default {DEFAULTS.target_rows}.")
@click.option("--max-prompts", type=int, help="Ask for at most this many questions; default ten for each row.")
@click.option("--rounds", type=click.IntRange(1, 2), help="2 = train on the rows, and let that model answer again.")
@click.option("--max-steps", type=click.IntRange(1), help="Steps of that training, instead of the recipe's.")
@click.option("--novelty", type=float, help=f"Similarity from which a question is not new; default {DEFAULTS.novelty}.")
@click.option("--novelty-by", type=click.Choice(NOVELTIES), help=f"What that is; default {DEFAULTS.novelty_by}.")
@click.option("--votes", type=int, help="Samples of every answer, most of which must agree; default none.")
@click.option("--no-filters", is_flag=True, help="Keep everything but empty texts and questions asked twice.")
@click.option("--max-new-tokens", type=int, help=f"Longest text; default {DEFAULTS.max_new_tokens}.")
@click.option("--batch-size", type=int, help=f"Prompts at once; default {DEFAULTS.batch_size}.")
@click.option("--allow-licence", multiple=True, metavar="ID", help="Accept this licence; may be repeated.")
@click.option("--seed", type=int, help="Seed, instead of the recipe's.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; a stopped run goes on in it.")
def self_specialization_command(**given: Any) -> None:
    """Let the base model make rows for a task: it asks itself new questions and answers them below the seeds.

    Writes rows.jsonl (read by `train --dataset`), rejected.jsonl with the reasons, and result.json.
    """
    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.cli.screen import Screen
    from rocket_hub.localhub import connect

    if given["kshot"] is None:
        raise InputError("give --kshot FILE: the seeds, solved examples of the task")
    with connect(given["hub"]) as connection:
        recipe = _recipe(given, dict(connection.recipes))
        quiet_libraries()
        out = given["out"] or Path("runs") / f"{Path(recipe.task).stem}-self-specialization"
        screen = Screen()
        screen.say(f"[bold]{recipe.task}[/] by {recipe.base} itself, from the seeds in {given['kshot']}, into {out}")
        from rocket_hub.pipeline.generate import generate_alone  # reads HF_ENDPOINT when it is imported: only now

        with screen:
            facts = generate_alone(recipe, given["kshot"], out, screen)
        screen.console.print(_table(facts))
    if not facts["rows"]:
        raise NothingLeftError(f"{out}: no row was kept; {out / 'rejected.jsonl'} says why")
    screen.say(f"written to {out / 'rows.jsonl'}")


def _recipe(given: Mapping[str, Any], brought: dict[str, str]) -> Recipe:
    """Find the recipe and put the command line over it."""
    recipe = find_recipe(given["task"], given["recipe"], brought)
    recipe = replace(recipe, base=given["base"] or recipe.base,
                     seed=recipe.seed if given["seed"] is None else given["seed"])  # fmt: skip
    recipe = recipe.updated("train", max_steps=given["max_steps"], dtype=given["dtype"])
    recipe = recipe.updated("instructions", encoder=given["encoder"])
    recipe = recipe.updated("discover", allow_licences=given["allow_licence"] or None)
    options = recipe.generation.self_specialization
    said = {item.name: given[item.name] for item in fields(options) if given.get(item.name) is not None}
    options = replace(options, **said, filtered=options.filtered and not given["no_filters"])
    recipe = recipe.updated("generation", method="self_specialization", documents=given["documents"],
                            self_specialization=options)  # fmt: skip
    recipe.check("command line")
    return recipe


def _table(facts: Mapping[str, Any]) -> Table:
    """Show how many there were at each step, and why the others were not kept."""
    from rich.table import Table

    from rocket_hub.pipeline.generated import shares

    table = Table(title=f"{facts['rows']} rows by {facts['maker']}", title_justify="left", title_style="bold",
                  caption=shares(facts["counts"]))  # fmt: skip
    table.add_column("step")
    table.add_column("count", justify="right")
    for name in ("prompts", "questions", "answered", "kept"):
        table.add_row(name, str(facts["counts"][name]))
    for reason, count in facts["reasons"].items():
        table.add_row(f"  rejected: {reason}", str(count))
    return table
