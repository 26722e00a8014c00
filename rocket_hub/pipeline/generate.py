import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rocket_hub.discovery.licences import judge, named, pin_model
from rocket_hub.errors import LicenceError, NothingLeftError
from rocket_hub.generation.meteor import cost, meteor
from rocket_hub.generation.retrieval import documents_of, questions_of
from rocket_hub.generation.self_specialization import lora_specialiser, needs_encoder, self_specialize
from rocket_hub.generation.teachers import Budget, find_teacher
from rocket_hub.inference.models import DeferredEncoder
from rocket_hub.options import GenerationOptions, MeteorOptions, MeteorStage
from rocket_hub.pipeline.context import Context, open_context, rejecting
from rocket_hub.pipeline.generated import REJECTED, ROWS, in_words, write_generated
from rocket_hub.recipe import Recipe
from rocket_hub.records import DatasetDiscovery, Example, Generated, Pinned, Rejection
from rocket_hub.results import Discovery, Generation
from rocket_hub.runs import Reporter, write_json
from rocket_hub.serialization import to_dict
from rocket_hub.tasks import Task, get_task

ROWS_ALONE: tuple[MeteorStage, ...] = ("distilled", "refined")
"""METEOR's stages that make rows; the third changes its own adapter alone, which a build has no use for."""


@dataclass(frozen=True)
class Writer:
    """What makes rows.

    Attributes:
        write: Makes them in a folder, where what an interrupted run has finished is still there.
        read: What it reads or asks beside the base model: documents, questions, a teacher.
        cost: What it costs at most, in one line.
    """

    write: Callable[[Path], Generated]
    read: tuple[Pinned, ...]
    cost: str


def meteor_options(options: GenerationOptions, seed: int) -> MeteorOptions:
    """Return how METEOR works in a build."""
    return options.meteor or MeteorOptions(stages=ROWS_ALONE, seed=seed)


def check_licences(read: Sequence[Pinned], allowed: Sequence[str]) -> None:
    """Refuse what restricts rows that are made with it.

    Raises:
        LicenceError: A licence does, and is not allowed.
    """
    for pin in read:
        if judge(pin.licence, allowed):
            raise LicenceError(
                f"{pin.repo_id}: its licence {pin.licence} restricts rows that are made with it; accept that with "
                f"discover.allow_licences (--allow-licence {pin.licence}), or take another"
            )


def budget_in_words(budget: Budget) -> str:
    """Write what a teacher may cost."""
    limits = [f"{count:,} {name}" for name, count in (("calls", budget.calls), ("tokens", budget.tokens)) if count]
    return " and ".join(limits) or "any number of calls"


def open_writer(context: Context, encoder: Pinned | None) -> Writer:
    """Find all that a recipe's method needs, and refuse what it may not use, before anything is computed.

    The sentence encoder is none where `needs_encoder` says so.
    """
    alone = _alone(context, encoder)
    writer = _taught(context, alone) if context.recipe.generation.method == "meteor" else alone
    check_licences(writer.read, context.recipe.discover.allow_licences)
    return writer


def _alone(context: Context, encoder: Pinned | None) -> Writer:
    """Let the base model write by itself."""
    options = context.recipe.generation
    how = options.self_specialization
    documents = documents_of(context.api, options.documents) if options.documents else None

    def write(folder: Path) -> Generated:
        task, seeds = plain(context)
        seed, tell = context.recipe.seed, context.reporter.advance
        specialise = lora_specialiser(
            *context.base, task, seeds, context.recipe.train, folder / "specialised", seed=seed,
            progress=lambda step, steps, loss: tell("specialising the base", step, steps),
        ) if how.rounds > 1 else None  # fmt: skip
        return self_specialize(
            *context.base, task, seeds, how, folder=folder, maker=named(context.pinned),
            encoder=DeferredEncoder(encoder.repo_id, encoder.revision) if encoder else None,
            documents=documents.texts if documents else (), specialise=specialise, seed=seed, progress=tell,
        )  # fmt: skip

    price = (f"{context.pinned.repo_id} asks itself at most {how.most_prompts:,} questions and writes at most "
             f"{how.most_generations:,} texts of {how.max_new_tokens} tokens")  # fmt: skip
    if how.rounds > 1:
        price += f", with a training of {context.recipe.train.max_steps:,} steps between two rounds"
    return Writer(write, (documents.origin,) if documents else (), price)


def _taught(context: Context, alone: Writer) -> Writer:
    """Let a teacher answer and judge; where no questions are given, the base model brainstorms them first."""
    options = context.recipe.generation
    how = meteor_options(options, context.recipe.seed)
    budget = Budget(options.calls, options.tokens)
    teacher = find_teacher(context.api, str(options.teacher), context.recipe.compute)
    judge_model = find_teacher(context.api, how.judge, context.recipe.compute) if how.judge else None
    given = questions_of(context.api, options.questions) if options.questions else None

    def write(folder: Path) -> Generated:
        task, _ = plain(context)
        questions = given.texts if given else _asked(alone, folder / "questions")
        most = cost(context.base[1], questions, how)
        context.reporter.say(f"{len(questions):,} questions for {teacher.origin.repo_id}: at most {most.calls:,} calls "
                             f"and {most.tokens:,} tokens where each call succeeds")  # fmt: skip
        found = meteor(
            *context.base, task, questions, None, teacher.open(), how, folder=folder / "meteor",
            maker=f"{named(teacher.origin)}, with {named(context.pinned)}",
            budget=budget, progress=context.reporter, judge=judge_model.open() if judge_model else None,
        )  # fmt: skip
        return found.generated

    price = f"the teacher {teacher.origin.repo_id} may cost {budget_in_words(budget)}"
    price += ", the judge as much" if judge_model else ""
    if given:
        return Writer(write, (teacher.origin, given.origin), price)
    return Writer(write, (teacher.origin, *alone.read), f"{price}; before, {alone.cost}")


def _asked(alone: Writer, folder: Path) -> list[str]:
    """Brainstorm questions; the base model's own answers, which say that they can be answered, are left."""
    found = alone.write(folder)
    if not found.rows:
        raise NothingLeftError("the base model thought of no question that is new and sound; give generation.questions")
    return [row.prompt for row in found.rows]


def plain(context: Context) -> tuple[Task, tuple[Example, ...]]:
    """Return task and K-shot without a chat template: the methods put it around what they ask themselves."""
    evaluate = context.recipe.evaluate
    return get_task(context.recipe.task).at(evaluate.dataset, evaluate.config), context.plain or context.examples


NOTHING = Generation()


def generate(context: Context, found: Discovery) -> Generation:
    """Make rows where that was asked for and too few were found; where it was not, nothing is read or written."""
    options = context.recipe.generation
    if options.method == "none":
        return NOTHING
    writer = open_writer(context, found.encoder)

    def make(folder: Path) -> Generation:
        if options.below_rows is not None:
            there = rows_with_answers(context, found.datasets, options.below_rows)
            if there >= options.below_rows:
                context.reporter.say(f"at least {there:,} rows with an answer were found: none are made")
                return replace(NOTHING, found=there)
        rows, rejected = (context.run.relative(folder / name) for name in (ROWS, REJECTED))
        return replace(_written(context, writer, folder), rows_file=rows, rejected_file=rejected)

    inputs = context.inputs(
        "generation",
        found=[each.revision for each in found.datasets.selected] if options.below_rows else [],
        read=writer.read,
        encoder=found.encoder,
        train=context.recipe.train,
    )
    return context.run.stage("0-generate", inputs, make, Generation)


def generate_alone(recipe: Recipe, kshot: Path, out: Path, reporter: Reporter) -> Generation:
    """Make rows without a build, however many there are already; a run that was stopped goes on.

    Args:
        recipe: Task, base and method.
        kshot: File with the seeds, see `load_kshot`.
        out: Gets what `write_generated` writes, and its facts in `result.json`.
        reporter: Told what happens.

    Returns:
        What is known of the rows.

    Raises:
        RocketError: What went wrong; see `open_writer` and the method.
    """
    started, options = time.monotonic(), recipe.generation
    context = open_context(recipe, kshot, out, "", reporter, measured=False)
    context.pinned = pin_model(context.api, recipe.base)
    by_meaning = needs_encoder(options.self_specialization, options.documents is not None)
    encoder = pin_model(context.api, recipe.instructions.encoder) if by_meaning else None
    writer = open_writer(context, encoder)
    facts = _written(context, writer, out, settings={**to_dict(options), "seed": recipe.seed})
    write_json(out / "result.json", {"seconds": round(time.monotonic() - started, 1), "result": to_dict(facts)})
    return facts


def _written(context: Context, writer: Writer, folder: Path, **more: Any) -> Generation:
    """Let rows be written, and say before what that may cost."""
    context.reporter.say(writer.cost)
    made = writer.write(folder)
    context.reporter.say(f"{len(made.rows):,} rows, written by {made.maker} ({in_words(made.counts)})")
    return write_generated(folder, made, [context.pinned, *writer.read], seeds=len(context.shots),
                           task=context.task.name, **more)  # fmt: skip


def rows_with_answers(context: Context, found: DatasetDiscovery, enough: int) -> int:
    """Count the rows of the data sets that were found that have an answer in the task's form, up to `enough`."""
    count = 0
    for candidate in found.selected:
        answered = (row for row in context.rows_of(candidate) if context.task.example(row).answer)
        unreadable: list[Rejection] = []
        with rejecting(candidate.repo_id, unreadable):
            count += sum(1 for _ in islice(answered, enough - count))
        for lost in unreadable:
            context.reporter.say(f"{lost.item}: {lost.reason}, not counted")
        context.reporter.advance("rows with an answer", count, enough)
        if count >= enough:
            break
    return count
