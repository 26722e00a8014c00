"""`rocket-hub generate meteor`: a stronger teacher answers, judges and advises; the base model learns."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rocket_hub.cli.app import Lazy
from rocket_hub.cli.options import find_recipe
from rocket_hub.errors import InputError, NothingLeftError, StorageError
from rocket_hub.lora.attach import ADAPTER
from rocket_hub.options import NOVELTIES, RETRIEVALS, MeteorOptions, SelfSpecializationOptions
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Pinned, reasons_in_words
from rocket_hub.results import Generation
from rocket_hub.runs import write_json
from rocket_hub.serialization import to_dict

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from rich.table import Table

    from rocket_hub.cli.screen import Screen
    from rocket_hub.generation.meteor import Meteor
    from rocket_hub.tasks import Task


def write_results(
    made: Meteor, out: Path, used: Sequence[Pinned], task: str, options: MeteorOptions, seconds: float
) -> None:
    """Write rows, adapters and, last, the facts."""
    from rocket_hub.pipeline.generated import write_generated

    adapters = {name: f"adapters/{name}" for name in made.adapters}
    facts = write_generated(out, made.generated, used, task=task, stages=made.counts, adapters=adapters,
                            settings=to_dict(options))  # fmt: skip
    try:
        for name, folder in made.adapters.items():
            (out / adapters[name]).mkdir(parents=True, exist_ok=True)
            for file in ADAPTER:
                shutil.copyfile(Path(folder) / file, out / adapters[name] / file)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error}; free some space and run it again") from error
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
    from rich.table import Table

    shown = Table(title=f"{len(made.generated.rows)} rows by {made.generated.maker}", title_justify="left",
                  title_style="bold")  # fmt: skip
    for column in ("stage", "what happened", "not learned from"):
        shown.add_column(column)
    for name, counts in made.counts.items():
        lost = [each for each in made.generated.rejected if each.item.startswith(f"{name}#")]
        told = ", ".join(f"{count:,} {step.replace('_', ' ')}" for step, count in counts.items())
        shown.add_row(name, told, reasons_in_words(lost))
    shown.caption = f"{seconds:.0f} s"
    return shown


OWN = ("rounds", "collect", "max_new_tokens", "learning_rate", "epochs", "beams", "batch_size", "rank", "judge",
       "seed")  # fmt: skip
"""Options that are named as in `MeteorOptions`."""


@click.command("meteor")
@click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out.")
@click.option("--task", metavar="NAME", help="Task; its recipe comes with the package or with the Hub.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe file, instead of the task's own.")
@click.option("--kshot", type=click.Path(path_type=Path), help="File with examples: their questions are asked, too.")
@click.option("--questions", metavar="FILE|ID", help="Questions without answers: a file or a data set.")
@click.option("--max-questions", type=click.IntRange(1), help="Ask at most this many.")
@click.option("--base", metavar="ID|FOLDER", help="The weak model, instead of the recipe's base.")
@click.option("--adapter", metavar="ID|FOLDER", help="LoRA to go on from; a fresh one when left out.")
@click.option("--teacher", metavar="MODEL", help="An id or a folder (on this machine), endpoint:URL#MODEL (any OpenAI-"
              "compatible API, up to /v1) or inference:MODEL (Hugging Face Inference).")  # fmt: skip
@click.option("--teacher-key-env", metavar="VARIABLE", help="Environment variable with an endpoint's key; "
              "default ROCKET_HUB_TEACHER_KEY.")  # fmt: skip
@click.option("--calls", type=click.IntRange(1), help="Budget: calls, those that fail included, all runs together.")
@click.option("--tokens", type=click.IntRange(1), help="Budget: tokens, in and out.")
@click.option("--judge", metavar="MODEL", help="Compares the answers after the last stage with those before the first "
              "in five aspects, within as large a budget; named as a teacher is, and not the teacher.")  # fmt: skip
@click.option("--stages", metavar="A,B", help="Some of distilled,refined,evolved; default all.")
@click.option("--no-guideline", is_flag=True, help="The teacher answers without the weak model's guideline.")
@click.option("--rounds", type=int, help=f"Answers to one question that are judged; default {MeteorOptions.rounds}.")
@click.option("--collect", type=int, help=f"Right rows before the next training; default {MeteorOptions.collect}.")
@click.option("--max-new-tokens", type=int, help=f"Longest answer; default {MeteorOptions.max_new_tokens}.")
@click.option("--learning-rate", type=float, help=f"Of the first two stages; default {MeteorOptions.learning_rate:g}.")
@click.option("--epochs", type=float, help=f"Passes over the teacher's answers; default {MeteorOptions.epochs:g}.")
@click.option("--beams", type=int, help=f"Beams of the last stage; default {MeteorOptions.beams}.")
@click.option("--batch-size", type=int, help=f"Rows a step; default {MeteorOptions.batch_size}.")
@click.option("--rank", type=int, help=f"Rank of a fresh LoRA; default {MeteorOptions.rank}.")
@click.option("--allow-licence", multiple=True, metavar="ID", help="Accept this licence; may be repeated.")
@click.option("--seed", type=int, help="Seed, instead of the recipe's.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; a stopped run goes on in it.")
def meteor_command(**given: Any) -> None:
    """Teach the base model a task with a stronger model.

    Writes rows.jsonl (read by `train --dataset`), rejected.jsonl with the reasons, an adapter for each stage in
    adapters, and result.json with the bill. The teacher is asked nothing twice, in however many runs.
    """
    from rocket_hub.cli.build import quiet_libraries
    from rocket_hub.cli.screen import Screen
    from rocket_hub.localhub import connect

    if not given["teacher"]:
        raise InputError("give --teacher MODEL: who answers and judges")
    if not (given["questions"] or given["kshot"]):
        raise InputError("give --questions FILE or a data set's id, or --kshot FILE: what the teacher is asked")
    with connect(given["hub"]) as connection:
        recipe = find_recipe(given["task"], given["recipe"], dict(connection.recipes))
        quiet_libraries()
        out = given["out"] or Path("runs") / f"{Path(recipe.task).stem}-meteor"
        screen = Screen()
        with screen:
            made, seconds = _made(recipe, given, out, screen)
    screen.console.print(table(made, seconds))
    screen.say(f"{bill_in_words(made.bill)}\nwritten to {out}: rows.jsonl, rejected.jsonl, adapters, result.json")


def _made(recipe: Recipe, given: Mapping[str, Any], out: Path, screen: Screen) -> tuple[Meteor, float]:
    """Find all that is needed, say what it costs, and do it."""
    from huggingface_hub import HfApi

    from rocket_hub.discovery.pins import named, pin_model
    from rocket_hub.generation.asking import Budget
    from rocket_hub.generation.meteor import check, cost, meteor
    from rocket_hub.generation.teachers import find_teacher
    from rocket_hub.inference.models import load_base
    from rocket_hub.pipeline.generate import budget_in_words, check_licences
    from rocket_hub.tasks import get_task

    api, started = HfApi(), time.monotonic()
    options = _options(recipe, given)
    check(options)
    task = get_task(recipe.task).at(recipe.evaluate.dataset, recipe.evaluate.config)
    teacher = find_teacher(api, given["teacher"], recipe.train.dtype, given["teacher_key_env"])
    questions, read = _questions(api, task, recipe, given, screen)
    check_licences([teacher.origin, *read], (*recipe.discover.allow_licences, *given["allow_licence"]))
    base, said = pin_model(api, given["base"] or recipe.base), recipe.generation
    budget = Budget(given["calls"] or said.calls, given["tokens"] or said.tokens)
    screen.say(f"loading {base.repo_id}")
    model, tokenizer = load_base(base.repo_id, base.revision or None, recipe.train.dtype)
    most = cost(tokenizer, questions, options)
    screen.say(f"{len(questions):,} questions for {teacher.origin.repo_id}: at most {most.calls:,} calls and about "
               f"{most.tokens:,} tokens; calls that fail come on top. Allowed: {budget_in_words(budget)}")  # fmt: skip
    made = meteor(
        model, tokenizer, task, questions, _adapter(api, given["adapter"]), teacher.open(), options, folder=out,
        budget=budget, maker=f"{named(teacher.origin)}, with {named(base)}", progress=screen,
        judge=find_teacher(api, options.judge, recipe.train.dtype).open() if options.judge else None,
    )  # fmt: skip
    seconds = time.monotonic() - started
    write_results(made, out, [base, teacher.origin, *read], recipe.task, options, seconds)
    return made, seconds


def _options(recipe: Recipe, given: Mapping[str, Any]) -> MeteorOptions:
    """Put the command line over the recipe."""
    from dataclasses import replace

    options = recipe.generation.meteor or MeteorOptions(seed=recipe.seed)
    said = {name: given[name] for name in OWN if given[name] is not None}
    if given["stages"]:
        said["stages"] = tuple(part.strip() for part in given["stages"].split(","))
    return replace(options, **said, guideline=options.guideline and not given["no_guideline"])


def _questions(
    api: HfApi, task: Task, recipe: Recipe, given: Mapping[str, Any], screen: Screen
) -> tuple[list[str], list[Pinned]]:
    """Read the questions; those of the evaluation set are left out."""
    from rocket_hub.generation.retrieval import questions_of
    from rocket_hub.pipeline.standalone import without_problems
    from rocket_hub.rows.kshot import load_kshot

    shots = [task.question_of(task.example(shot)) for shot in load_kshot(given["kshot"])] if given["kshot"] else []
    texts = questions_of(api, given["questions"]) if given["questions"] else None
    asked = list(dict.fromkeys([*shots, *(texts.texts if texts else ())]))[: given["max_questions"]]
    kept, held = without_problems([task.example(Example(text, "")) for text in asked], task, recipe.evaluate.split)
    if held:
        screen.say(f"{held:,} questions left out that hold problems of {task.dataset}")
    return [task.question_of(example) for example in kept], [texts.origin] if texts else []


def _adapter(api: HfApi, name: str | None) -> Path | None:
    """Find the adapter that is gone on from."""
    from rocket_hub.discovery.pins import pin_model
    from rocket_hub.pipeline.adapters import fetch_adapter

    if name is None or Path(name).is_dir():
        return Path(name) if name else None
    return fetch_adapter(api, name, pin_model(api, name).revision)


METHODS = {
    "self-specialization": ("rocket_hub.cli.generate", "The base model makes its own rows from a handful of seeds."),
    "meteor": ("rocket_hub.cli.generate", "A stronger teacher answers, judges and advises."),
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
    from rocket_hub.cli.build import quiet_libraries
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
    if not facts.rows:
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


def _table(facts: Generation) -> Table:
    """Show how many there were at each step, and why the others were not kept."""
    from rich.table import Table

    from rocket_hub.pipeline.generated import shares

    table = Table(title=f"{facts.rows} rows by {facts.maker}", title_justify="left", title_style="bold",
                  caption=shares(facts.counts))  # fmt: skip
    table.add_column("step")
    table.add_column("count", justify="right")
    for name in ("prompts", "questions", "answered", "kept"):
        table.add_row(name, str(facts.counts[name]))
    for reason, count in facts.reasons.items():
        table.add_row(f"  rejected: {reason}", str(count))
    return table
