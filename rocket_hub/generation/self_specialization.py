"""Self-Specialization: the base model makes its own data from a few seeds (arXiv 2310.00160; Self-MoE, 2406.12034).

It goes on with a list of seed questions (brainstorming), answers what it asked itself below solved seeds, and filters
keep what is new and sound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rocket_hub.encoder import Encoder
from rocket_hub.errors import InputError
from rocket_hub.generation.answering import Answers, Solved
from rocket_hub.generation.brainstorm import METHOD, SOURCE, Brainstorm, rejection
from rocket_hub.generation.filters import EmbeddingNovelty, Novelty, RougeNovelty
from rocket_hub.generation.retrieval import Retriever, cut
from rocket_hub.generation.writing import Question, Writer, room_of
from rocket_hub.options import NOVELTIES, RETRIEVALS, SelfSpecializationOptions
from rocket_hub.records import Example, Generated, Row
from rocket_hub.runs import KeptResults
from rocket_hub.tasks import Task

Specialise = Callable[[list[Row]], AbstractContextManager[tuple[Any, str]]]
"""Trains the model on rows and lends the specialised one, with a name that no other training gives."""
Progress = Callable[[str, int, int], None]  # what, done, in all


def self_specialize(
    model: Any,
    tokenizer: Any,
    task: Task,
    seeds: Sequence[Example],
    options: SelfSpecializationOptions,
    *,
    folder: Path,
    maker: str,
    encoder: Encoder | None = None,
    documents: Sequence[str] = (),
    specialise: Specialise | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generated:
    """Let a model make rows for a task from seeds.

    What was written is kept in `folder`: a run that was stopped goes on, to the same result.

    Args:
        model: The base model, or a chat model.
        tokenizer: Its tokenizer; a chat template makes it a chat model.
        task: The task, without shots and chat template.
        seeds: Verified examples in the task's form (`Task.example`).
        options: How.
        folder: Where what was written is kept.
        maker: Name of the model, with its commit where it has one.
        encoder: For dense retrieval, and for novelty by embeddings.
        documents: Domain text, whose passages stand before a question while it is answered, and are no part of the row.
        specialise: Trains on the rows of one round and lends the model that writes the next round's answers.
        seed: Decides which seeds are shown and what is sampled.
        progress: Called after each batch.

    Returns:
        The rows: `prompt` is the bare question, `completion` the worked answer. `counts` say how many there were at
        each step; `rates` makes the yield of them.

    Raises:
        InputError: An option means nothing or asks for what was not given, or the seeds do not fit.
        StorageError: The folder cannot be written.
    """
    check(options)
    _check(task, seeds, options, encoder, specialise)
    room, kept = room_of(model, options.max_new_tokens), KeptResults(folder / "written.jsonl")
    asking = Brainstorm(task, tokenizer, seeds, options, room, seed, _novelty(task, seeds, options, encoder))
    answers = Answers(task, tokenizer, seeds, options, _retriever(documents, options, encoder), room, seed)

    def writer(model: Any, name: str) -> Writer:
        return Writer(model, tokenizer, name, kept, options.batch_size, options.max_new_tokens)

    solved = _first_round(writer(model, maker), asking, answers, progress)
    counts = {"prompts": asking.asked, "questions": len(asking.accepted), "answered": len(solved)}
    for number in range(1, options.rounds):
        rows = rows_of(task, solved)[: options.target_rows]
        counts[f"kept_round_{number}"] = len(rows)
        if specialise is None or not rows:
            break
        with specialise(rows) as (special, name):
            solved = _again(writer(special, f"{maker}, {name}"), answers, [each.question for each in solved], progress)
    return _generated(maker, asking, rows_of(task, solved), solved, counts, options.target_rows)


def check(options: SelfSpecializationOptions) -> None:
    """Refuse options that mean nothing.

    Raises:
        InputError: One does.
    """
    least = {"target_rows": 1, "rounds": 1, "seeds_in_prompt": 1, "seeds_for_answer": 0, "passages": 0, "votes": 0,
             "max_new_tokens": 1, "batch_size": 1, "max_prompts": 1}  # fmt: skip
    for name, bound in least.items():
        found = getattr(options, name)
        if found is not None and found < bound:
            raise InputError(f"{name}: expected at least {bound}, found {found}")
    if not options.temperature > 0 or not options.vote_temperature > 0:
        raise InputError("temperature and vote_temperature: expected more than 0; the likeliest text is always the "
                         f"same one; found {options.temperature} and {options.vote_temperature}")  # fmt: skip
    if not 0 < options.top_p <= 1 or not options.novelty > 0:
        raise InputError(f"top_p: expected a share above 0, up to 1, and novelty: more than 0; found {options.top_p} "
                         f"and {options.novelty}")  # fmt: skip
    for name, known in (("retrieval", RETRIEVALS), ("novelty_by", NOVELTIES)):
        if getattr(options, name) not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, found {getattr(options, name)!r}")


def needs_encoder(options: SelfSpecializationOptions, documents: bool) -> bool:
    """Say whether anything is compared by meaning; `documents`: whether there are any."""
    return options.novelty_by == "embedding" or (documents and options.passages > 0 and options.retrieval != "bm25")


def _retriever(
    documents: Sequence[str], options: SelfSpecializationOptions, encoder: Encoder | None
) -> Retriever | None:
    """Cut the documents into passages; none where there are none, or none are wanted."""
    return Retriever(cut(documents), options.retrieval, encoder) if documents and options.passages else None


def _novelty(
    task: Task, seeds: Sequence[Example], options: SelfSpecializationOptions, encoder: Encoder | None
) -> Novelty:
    """Choose how new questions are compared, and begin with the seeds."""
    known = [task.question_of(each) for each in seeds]
    by_meaning = encoder is not None and options.novelty_by == "embedding"
    return EmbeddingNovelty(known, encoder) if encoder and by_meaning else RougeNovelty(known)


def _generated(
    maker: str, asking: Brainstorm, rows: list[Row], solved: Sequence[Solved], counts: dict[str, int], wanted: int
) -> Generated:
    """Put the record together."""
    rejected = [*asking.rejected, *(rejection(each.question.number, each.fault) for each in solved if each.fault)]
    counts |= {reason: sum(each.reason == reason for each in rejected) for reason in ("duplicate", "not_novel")}
    counts |= {"kept": len(rows[:wanted]), "surplus": len(rows[wanted:])}
    return Generated(METHOD, maker, tuple(rows[:wanted]), tuple(rejected), counts)


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the yield, and how much was there already, as shares of the questions that were asked for."""
    asked = max(counts["prompts"], 1)
    return {"yield": (counts["kept"] + counts["surplus"]) / asked, "duplicate_rate": counts["duplicate"] / asked,
            "not_novel_rate": counts["not_novel"] / asked}  # fmt: skip


def _first_round(writer: Writer, asking: Brainstorm, answers: Answers, progress: Progress | None) -> list[Solved]:
    """Ask and answer in turn, whole batches at once, until there are enough rows or all prompts are spent."""
    size, wanted = answers.options.batch_size, answers.options.target_rows
    solved: list[Solved] = []
    waiting: list[Question] = []
    sound = 0
    while sound < wanted and (waiting or not asking.over):
        if len(waiting) < size and not asking.over:
            waiting += asking.batch(writer)
        else:
            new = answers.solve(writer, waiting[:size])
            waiting, solved = waiting[size:], [*solved, *new]
            sound += sum(each.fault is None for each in new)
        if progress:
            progress("questions asked for", asking.asked, answers.options.most_prompts)
            progress("rows kept", min(sound, wanted), wanted)
    return solved


def _again(writer: Writer, answers: Answers, questions: Sequence[Question], progress: Progress | None) -> list[Solved]:
    """Answer all questions again."""
    size, solved = answers.options.batch_size, list[Solved]()
    for start in range(0, len(questions), size):
        solved += answers.solve(writer, questions[start : start + size])
        if progress:
            progress("answered again", len(solved), len(questions))
    return solved


def rows_of(task: Task, solved: Sequence[Solved]) -> list[Row]:
    """Make rows of what is sound."""
    return [
        Row(task.question_of(each.example), each.example.completion.strip(), SOURCE, each.question.number)
        for each in solved
        if each.fault is None
    ]


def _check(
    task: Task, seeds: Sequence[Example], options: SelfSpecializationOptions, encoder: Encoder | None,
    specialise: Specialise | None,
) -> None:  # fmt: skip
    """Refuse, before anything is written, what could not be done."""
    if not seeds:
        raise InputError("self-specialisation starts from seeds; give at least one solved example")
    if task.chat or task.shots:
        raise InputError(f"task '{task.name}': give the task without shots and chat template; both are added here")
    if options.rounds > 1 and specialise is None:
        raise InputError(f"rounds {options.rounds}: give `specialise`, which trains the model of the next round")
    if options.votes and options.filtered and task.metric == "pass_at_1":
        raise InputError(f"votes: the answers of '{task.name}' are programs, which never agree word by word; set 0")
    if options.novelty_by == "embedding" and encoder is None:
        raise InputError("novelty_by 'embedding' needs an encoder; give one, or take 'rouge_l'")
