"""Who writes rows for a build, what they read, and what that costs at most: the two methods behind one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rocket_hub.discovery.licences import judge
from rocket_hub.discovery.pins import named
from rocket_hub.errors import LicenceError, NothingLeftError
from rocket_hub.generation.asking import Budget
from rocket_hub.generation.meteor import check as check_meteor
from rocket_hub.generation.meteor import cost, meteor
from rocket_hub.generation.retrieval import documents_of, questions_of
from rocket_hub.generation.self_specialization import check as check_self
from rocket_hub.generation.self_specialization import lora_specialiser, self_specialize
from rocket_hub.generation.teachers import find_teacher
from rocket_hub.inference.models import DeferredEncoder
from rocket_hub.options import GenerationOptions, MeteorOptions
from rocket_hub.pipeline.context import Context
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Generated, Pinned
from rocket_hub.tasks import Task, get_task

ROWS_ALONE = ("distilled", "refined")
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


def check(recipe: Recipe) -> None:
    """Refuse options of a method that mean nothing.

    Raises:
        InputError: One does.
    """
    check_self(recipe.generation.self_specialization)
    check_meteor(meteor_options(recipe.generation, recipe.seed))


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

    Args:
        context: The build.
        encoder: The sentence encoder; none where `needs_encoder` says so.

    Raises:
        LicenceError: Documents, questions or a teacher restrict what is made with them.
        InputError: They cannot be read, or an option means nothing.
        HubError: The Hub did not give them.
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
    teacher = find_teacher(context.api, str(options.teacher), context.recipe.train.dtype)
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
            budget=budget, progress=context.reporter,
        )  # fmt: skip
        return found.generated

    price = f"the teacher {teacher.origin.repo_id} may cost {budget_in_words(budget)}"
    if given:
        return Writer(write, (teacher.origin, given.origin), price)
    return Writer(write, (teacher.origin, *alone.read), f"{price}; before, {alone.cost}")


def _asked(alone: Writer, folder: Path) -> list[str]:
    """Brainstorm questions; the base model's own answers, which say that they can be answered, are left.

    Raises:
        NothingLeftError: None is left.
    """
    found = alone.write(folder)
    if not found.rows:
        raise NothingLeftError("the base model thought of no question that is new and sound; give generation.questions")
    return [row.prompt for row in found.rows]


def plain(context: Context) -> tuple[Task, tuple[Example, ...]]:
    """Return task and K-shot without a chat template: the methods put it around what they ask themselves."""
    evaluate = context.recipe.evaluate
    return get_task(context.recipe.task).at(evaluate.dataset, evaluate.config), context.plain or context.examples
