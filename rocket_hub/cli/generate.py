from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from rocket_hub.cli.options import COMPUTE, NAMED, adjusted, connected, find_recipe, shared, words
from rocket_hub.cli.screen import Screen, new_table
from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import MeteorOptions, SelfSpecializationOptions
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Pinned, reasons_in_words
from rocket_hub.results import Generation
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.runs import write_json
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import Task, get_task

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from rocket_hub.generation.meteor import Meteor

COMMON = ("hub", "task", "recipe", "kshot", "base", "allow_licence", "seed", "out", *COMPUTE, "option")


@click.command()
@shared(*COMMON, "documents")
@click.option("--target-rows", type=int,
              help=f"Rows that are wanted; default {SelfSpecializationOptions.target_rows}.")  # fmt: skip
def self_specialization_command(**given: Any) -> None:
    """Let the base model make rows for a task: it asks itself new questions and answers them.

    The examples of --kshot are the seeds, which stand before each. Writes rows.jsonl (read by `model train`),
    rejected.jsonl with the reasons, and result.json. Further options: -o generation.self_specialization.KEY=VALUE.
    """
    if given["kshot"] is None:
        raise InputError("give --kshot FILE: the seeds, solved examples of the task")
    with connected(given["hub"]) as connection:
        recipe = find_recipe(given["task"], given["recipe"], connection.recipes)
        recipe = recipe.updated("generation", method="self_specialization")
        recipe = adjusted(recipe, given, NAMED | {"target_rows": "generation.self_specialization.target_rows"})
        out = given["out"] or Path("runs") / f"{Path(recipe.task).stem}-self-specialization"
        screen = Screen()
        screen.say(f"[bold]{recipe.task}[/] by {recipe.base} itself, from the seeds in {given['kshot']}, into {out}")
        from rocket_hub.pipeline.generate import generate_alone

        with screen:
            facts = generate_alone(recipe, given["kshot"], out, screen)
        screen.console.print(_table(facts))
    if not facts.rows:
        raise NothingLeftError(f"{out}: no row was kept; {out / 'rejected.jsonl'} says why")
    screen.say(f"written to {out / 'rows.jsonl'}")


def _table(facts: Generation) -> Table:
    """Show how many there were at each step, and why the others were not kept."""
    from rocket_hub.pipeline.generated import shares

    table = new_table(f"{facts.rows} rows by {facts.maker}", "step", "count", numbers=range(1, 2))
    table.caption = shares(facts.counts)
    for name in ("prompts", "questions", "answered", "kept"):
        table.add_row(name, str(facts.counts[name]))
    for reason, count in facts.reasons.items():
        table.add_row(f"  rejected: {reason}", str(count))
    return table


@click.command()
@shared(*COMMON, "teacher")
@click.option("--questions", metavar="FILE|ID", help="Questions without answers: a file or a data set.")
@click.option("--max-questions", type=click.IntRange(1), help="Ask at most this many.")
@click.option("--adapter", metavar="ID|FOLDER", help="LoRA to continue from; a fresh one when left out.")
@click.option("--teacher-key-env", metavar="VARIABLE", help="Environment variable with an endpoint's key; "
              "default ROCKET_HUB_TEACHER_KEY.")  # fmt: skip
@click.option("--calls", type=click.IntRange(1), help="Budget: calls, those that fail included, all runs together.")
@click.option("--tokens", type=click.IntRange(1), help="Budget: tokens, in and out.")
@click.option("--stages", callback=words, metavar="A,B", help="Some of distilled,refined,evolved; default all.")
def meteor_command(**given: Any) -> None:
    """Teach the base model a task with a stronger model.

    Writes rows.jsonl (read by `model train`), rejected.jsonl with the reasons, an adapter for each stage in adapters,
    and result.json with the bill. The teacher is asked nothing twice, in however many runs. Further options:
    -o generation.meteor.KEY=VALUE.
    """
    if not given["teacher"]:
        raise InputError("give --teacher MODEL: who answers and judges")
    if not (given["questions"] or given["kshot"]):
        raise InputError("give --questions FILE or a data set's id, or --kshot FILE: what the teacher is asked")
    with connected(given["hub"]) as connection:
        recipe = _adjusted(find_recipe(given["task"], given["recipe"], connection.recipes), given)
        out = given["out"] or Path("runs") / f"{Path(recipe.task).stem}-meteor"
        screen = Screen()
        with screen:
            made, seconds = _made(recipe, given, out, screen)
    screen.console.print(table(made, seconds))
    screen.say(f"{bill_in_words(made.bill)}\nwritten to {out}: rows.jsonl, rejected.jsonl, adapters, result.json")


def _adjusted(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """Put the command line over the recipe; --seed seeds METEOR alone."""
    if recipe.generation.meteor is None:
        recipe = recipe.updated("generation", meteor=MeteorOptions(seed=recipe.seed))
    keys = {"seed": "generation.meteor.seed", "stages": "generation.meteor.stages", "calls": "generation.calls",
            "tokens": "generation.tokens"}  # fmt: skip
    return adjusted(recipe, given, NAMED | keys)


def _made(recipe: Recipe, given: Mapping[str, Any], out: Path, screen: Screen) -> tuple[Meteor, float]:
    """Find all that is needed, say what it costs, and do it."""
    from huggingface_hub import HfApi

    from rocket_hub.discovery.licences import named, pin_model
    from rocket_hub.generation.meteor import cost, meteor
    from rocket_hub.generation.teachers import Budget, find_teacher
    from rocket_hub.inference.models import load_base
    from rocket_hub.pipeline.generate import budget_in_words, check_licences

    api, started = HfApi(), time.monotonic()
    options = recipe.generation.meteor or MeteorOptions()
    task = get_task(recipe.task).at(recipe.evaluate.dataset, recipe.evaluate.config)
    teacher = find_teacher(api, given["teacher"], recipe.compute, given["teacher_key_env"])
    questions, read = _questions(api, task, recipe, given, screen)
    check_licences([teacher.origin, *read], recipe.discover.allow_licences)
    base = pin_model(api, recipe.base)
    budget = Budget(recipe.generation.calls, recipe.generation.tokens)
    screen.say(f"loading {base.repo_id}")
    model, tokenizer = load_base(base.repo_id, base.revision or None, recipe.compute)
    start = _adapter(api, given["adapter"], model, out)
    most = cost(tokenizer, questions, options)
    screen.say(f"{len(questions):,} questions for {teacher.origin.repo_id}: at most {most.calls:,} calls and about "
               f"{most.tokens:,} tokens; calls that fail come on top. Allowed: {budget_in_words(budget)}")  # fmt: skip
    made = meteor(
        model, tokenizer, task, questions, start, teacher.open(), options, folder=out,
        budget=budget, maker=f"{named(teacher.origin)}, with {named(base)}", progress=screen,
        judge=find_teacher(api, options.judge, recipe.compute).open() if options.judge else None,
    )  # fmt: skip
    seconds = time.monotonic() - started
    write_results(made, out, [base, teacher.origin, *read], recipe.task, options, seconds)
    return made, seconds


def _questions(
    api: HfApi, task: Task, recipe: Recipe, given: Mapping[str, Any], screen: Screen
) -> tuple[list[str], list[Pinned]]:
    """Read the questions; those of the evaluation set are left out."""
    from rocket_hub.generation.retrieval import questions_of
    from rocket_hub.pipeline.standalone import without_problems

    shots = [task.question_of(task.example(shot)) for shot in load_kshot(given["kshot"])] if given["kshot"] else []
    texts = questions_of(api, given["questions"]) if given["questions"] else None
    asked = list(dict.fromkeys([*shots, *(texts.texts if texts else ())]))[: given["max_questions"]]
    kept, held = without_problems([task.example(Example(text, "")) for text in asked], task, recipe.evaluate.split)
    if held:
        screen.say(f"{held:,} questions left out that hold problems of {task.dataset}")
    return [task.question_of(example) for example in kept], [texts.origin] if texts else []


def _adapter(api: HfApi, name: str | None, model: Any, out: Path) -> Path | None:
    """Return the folder of the adapter to continue from; a LoRA of the Hub is written anew in the run folder."""
    from rocket_hub.discovery.licences import pin_model
    from rocket_hub.lora.config import read_config
    from rocket_hub.lora.write import rewrite_lora
    from rocket_hub.pipeline.adapters import fetch_adapter

    if name is None or Path(name).is_dir():
        return Path(name) if name else None
    folder = fetch_adapter(api, name, pin_model(api, name).revision)
    if read_config(folder).get("peft_type") == "ROCKET_MOE":
        return folder
    pin = {"base_model": model.name_or_path, "base_revision": None}
    return rewrite_lora(folder, out / "adapter-of-the-hub", model.get_parameter, **pin)


def write_results(
    made: Meteor, out: Path, used: Sequence[Pinned], task: str, options: MeteorOptions, seconds: float
) -> None:
    """Write rows, adapters and, last, the facts."""
    from rocket_hub.lora.attach import copy_adapter
    from rocket_hub.pipeline.generated import write_generated

    adapters = {name: f"adapters/{name}" for name in made.adapters}
    facts = write_generated(out, made.generated, used, task=task, stages=made.counts, adapters=adapters,
                            settings=to_dict(options))  # fmt: skip
    for name, folder in made.adapters.items():
        copy_adapter(Path(folder), out / adapters[name])
    write_json(out / "result.json", {"seconds": round(seconds, 1), "result": to_dict(facts)})


def bill_in_words(bill: Mapping[str, Any]) -> str:
    """Write a bill in one line."""
    faults = ", ".join(f"{count:,} {name}" for name, count in bill.get("faults", {}).items())
    parts = [f"bill: {bill.get('calls', 0):,} calls", f"{bill.get('tokens_in', 0):,} tokens in",
             f"{bill.get('tokens_out', 0):,} tokens out"]  # fmt: skip
    parts += [f"{bill[name]:,} {text}" for name, text in
              (("unmetered", "calls without a count of tokens"), ("cached", "prompts answered from the cache"))
              if bill.get(name)]  # fmt: skip
    return ", ".join(parts) + (f" (failed: {faults})" if faults else "")


def table(made: Meteor, seconds: float) -> Table:
    """Show what each stage did, and why rows were not kept."""
    title = f"{len(made.generated.rows)} rows by {made.generated.maker}"
    shown = new_table(title, "stage", "what happened", "not learned from")
    for name, counts in made.counts.items():
        lost = [each for each in made.generated.rejected if each.item.startswith(f"{name}#")]
        told = ", ".join(f"{count:,} {step.replace('_', ' ')}" for step, count in counts.items())
        shown.add_row(name, told, reasons_in_words(lost))
    shown.caption = f"{seconds:.0f} s"
    return shown


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@shared("hub", "push_to", "private")
def push_command(folder: Path, hub: str | None, push_to: str | None, private: bool | None) -> None:
    """Publish rows that `generate`, or a build's 0-generate, made: that FOLDER or the rows.jsonl in it.

    They become the data set --push-to, with a card.
    """
    if not push_to:
        raise InputError("give --push-to ID: the repository of the data set")
    with connected(hub), TemporaryDirectory() as scratch:
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.generated import push_generated

        commit = push_generated(HfApi(), folder, push_to, Path(scratch) / "content", private=bool(private))
    click.echo(f"pushed {folder} to {push_to} at {commit[:12]}")
