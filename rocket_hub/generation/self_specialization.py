"""Self-Specialization: the base model makes its own data from a few seeds (arXiv 2310.00160; Self-MoE, 2406.12034).

It writes new questions after a list of seed questions, answers them below solved seeds, and filters keep what is new
and sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from rocket_hub.errors import InputError
from rocket_hub.generation import filters
from rocket_hub.generation.questions import SOURCE, Brainstorm, Question, Writer, first_fitting, rejection, seed_of
from rocket_hub.generation.retrieval import Retriever, cut
from rocket_hub.generation.student import trained_once
from rocket_hub.inference import GREEDY, Continuation, Search
from rocket_hub.inference.models import Encoder
from rocket_hub.lora.attach import adapted, fresh_lora
from rocket_hub.options import SelfSpecializationOptions, TrainOptions
from rocket_hub.records import Example, Generated
from rocket_hub.runs import KeptResults, digest
from rocket_hub.serialization import check, to_dict
from rocket_hub.tasks import Task
from rocket_hub.tasks.answers import LETTERS
from rocket_hub.training import train_expert

RANK, ALPHA = 8, 16  # of all linear modules, as in Self-MoE
Specialise = Callable[[list[Example]], AbstractContextManager[tuple[Any, str]]]
"""Trains the model on rows and lends the specialised one, with a name that no other training gives."""
Progress = Callable[[str, int, int], None]  # what, done, in all
UNREAD = Example("", "", "")


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
    _check(task, seeds, options, encoder, specialise)
    kept = KeptResults(folder / "written.jsonl")
    writer = Writer(model, tokenizer, maker, kept, options.batch_size, options.max_new_tokens)
    retriever = Retriever(cut(documents), options.retrieval, encoder) if documents and options.passages else None
    asking = Brainstorm(task, tokenizer, seeds, options, writer.room(), seed, _novelty(task, seeds, options, encoder))
    answers = Answers(task, tokenizer, seeds, options, retriever, writer.room(), seed)
    solved = _first_round(writer, asking, answers, progress)
    counts = {"prompts": asking.asked, "questions": len(asking.accepted), "answered": len(solved)}
    for number in range(1, options.rounds):
        rows = rows_of(task, solved)[: options.target_rows]
        counts[f"kept_round_{number}"] = len(rows)
        if specialise is None or not rows:
            break
        with specialise(rows) as (special, name):
            writer = replace(writer, model=special, name=f"{maker}, {name}")
            solved = _again(writer, answers, [each.question for each in solved], progress)
    return _generated(maker, asking, rows_of(task, solved), solved, counts, options.target_rows)


def needs_encoder(options: SelfSpecializationOptions, documents: bool) -> bool:
    """Return whether anything is compared by meaning; `documents`: whether there are any."""
    return options.novelty_by == "embedding" or (documents and options.passages > 0 and options.retrieval != "bm25")


def _check(
    task: Task, seeds: Sequence[Example], options: SelfSpecializationOptions, encoder: Encoder | None,
    specialise: Specialise | None,
) -> None:  # fmt: skip
    """Refuse what could not be done, before anything is written."""
    check(options, "self_specialization")
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


def _novelty(
    task: Task, seeds: Sequence[Example], options: SelfSpecializationOptions, encoder: Encoder | None
) -> filters.Novelty:
    """Choose how new questions are compared, and add the seeds."""
    known, by_meaning = [task.question_of(seed) for seed in seeds], options.novelty_by == "embedding"
    return filters.EmbeddingNovelty(known, encoder) if encoder and by_meaning else filters.RougeNovelty(known)


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


def rows_of(task: Task, solved: Sequence[Solved]) -> list[Example]:
    """Make rows of what is sound."""
    sound = [(each.example, each.question.number) for each in solved if each.fault is None]
    return [
        Example(task.question_of(example), example.completion.strip(), source=SOURCE, index=number)
        for example, number in sound
    ]


def _generated(
    maker: str, asking: Brainstorm, rows: list[Example], solved: Sequence[Solved], counts: dict[str, int], wanted: int
) -> Generated:
    """Put rows, rejections and counts together."""
    rejected = [*asking.rejected, *(rejection(each.question.number, each.fault) for each in solved if each.fault)]
    counts |= {reason: sum(each.reason == reason for each in rejected) for reason in ("duplicate", "not_novel")}
    counts |= {"kept": len(rows[:wanted]), "surplus": len(rows[wanted:])}
    return Generated("self_specialization", maker, tuple(rows[:wanted]), tuple(rejected), counts)


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the yield, and how much was there already, as shares of the questions that were asked for."""
    asked = max(counts["prompts"], 1)
    return {"yield": (counts["kept"] + counts["surplus"]) / asked, "duplicate_rate": counts["duplicate"] / asked,
            "not_novel_rate": counts["not_novel"] / asked}  # fmt: skip


@dataclass(frozen=True)
class Solved:
    """What came of a question: it in the task's form, or the fault."""

    question: Question
    example: Example = UNREAD
    fault: filters.Fault | None = None


@dataclass(frozen=True)
class Answers:
    """Answers questions below solved seeds; a prompt may have `room` tokens, `seed` decides which seeds are shown."""

    task: Task
    tokenizer: Any
    seeds: Sequence[Example]
    options: SelfSpecializationOptions
    retriever: Retriever | None
    room: float
    seed: int

    def solve(self, writer: Writer, questions: Sequence[Question]) -> list[Solved]:
        """Answer questions greedily, find what is wrong with the answers, and let samples vote on the rest."""
        passages = self._passages([question.text for question in questions])
        prompts = [self.prompt(question, found) for question, found in zip(questions, passages, strict=True)]
        asked = [prompt for prompt in prompts if prompt is not None]
        texts = iter(writer.write(asked, GREEDY, self.task.stop))
        solved = [
            self._judged(question, None if prompt is None else next(texts))
            for question, prompt in zip(questions, prompts, strict=True)
        ]
        return self._voted(writer, solved, prompts) if self.options.filtered and self.options.votes else solved

    def prompt(self, question: Question, passages: Sequence[str]) -> str | None:
        """Write the prompt of a question, with as many solved seeds as the model has room for; none if it has none."""
        count = min(self.options.seeds_for_answer, len(self.seeds))
        shown = Random(f"{self.seed} shots {question.number}").sample(range(len(self.seeds)), count)
        shots = [self._shots[i] for i in shown]
        return first_fitting(self._ways(question.text, passages, shots), self.tokenizer, self.room)

    @cached_property
    def _shots(self) -> list[Example]:
        """Write the seeds below passages of their own, so that the model sees how they are used."""
        questions = [self.task.question_of(seed) for seed in self.seeds]
        return [
            replace(seed, prompt=self.task.prompt(below(question, found)))
            for seed, question, found in zip(self.seeds, questions, self._passages(questions), strict=True)
        ]

    def _ways(self, question: str, passages: Sequence[str], shots: Sequence[Example]) -> Iterator[str]:
        """Write the prompt with fewer and fewer shots, and last with fewer passages."""
        for count in range(len(shots), -1, -1):
            yield self.task.with_shots(shots[:count]).prompt_for(below(question, passages), self.tokenizer)
        for count in range(len(passages) - 1, -1, -1):
            yield self.task.prompt_for(below(question, passages[:count]), self.tokenizer)

    def _passages(self, questions: Sequence[str]) -> list[list[str]]:
        """Find the passages of questions."""
        return self.retriever.find(questions, self.options.passages) if self.retriever else [[] for _ in questions]

    def _judged(self, question: Question, found: Continuation | None) -> Solved:
        """Bring an answer into the task's form, and find what is wrong with it; none = there was no room to ask."""
        if found is None:
            return Solved(question, fault=("too_long", "the prompt does not fit into the model's context"))
        text = found.text.strip()
        solved = Solved(question, self.task.example(Example(question.text, text, ""))) if text else Solved(question)
        if not self.options.filtered:
            return replace(solved, fault=None if text else ("empty", "the answer"))
        fault = filters.text_fault(found, filters.Lengths.like([seed.completion for seed in self.seeds]))
        return replace(solved, fault=fault or form_fault(solved.example))

    def _voted(self, writer: Writer, solved: list[Solved], prompts: Sequence[str | None]) -> list[Solved]:
        """Reject the answers that most samples contradict."""
        open_ = [i for i, each in enumerate(solved) if each.fault is None]
        asked = [prompt for i in open_ if (prompt := prompts[i]) is not None]
        votes: list[list[str]] = [[] for _ in open_]
        for vote in range(self.options.votes):
            search = Search(self.options.vote_temperature, self.options.top_p, seed_of(self.seed, "vote", vote))
            for i, said, found in zip(open_, votes, writer.write(asked, search, self.task.stop), strict=True):
                said.append(self.task.read_answer(found.text, solved[i].example))
        for i, said in zip(open_, votes, strict=True):
            solved[i] = replace(solved[i], fault=filters.vote_fault(solved[i].example.answer, said))
        return solved


def below(question: str, passages: Sequence[str]) -> str:
    """Put passages before a question, one a line."""
    return "\n".join([*passages, question])


def form_fault(example: Example) -> filters.Fault | None:
    """Find `unparsable`: no answer in the task's form, or one that is none of the options."""
    if not example.answer:
        return "unparsable", f"no answer in {example.completion.strip()[:80]!r}"
    if example.choices and example.answer not in (*LETTERS[: len(example.choices)], *example.choices):
        return "unparsable", f"{example.answer!r:.40} is no option"
    return None


def lora_specialiser(
    model: Any,
    tokenizer: Any,
    task: Task,
    seeds: Sequence[Example],
    options: TrainOptions,
    folder: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> Specialise:
    """Return what trains a LoRA of a model on rows, for `self_specialize`.

    Args:
        model: The base model; it is given back unchanged. A quantised one makes it QLoRA.
        tokenizer: Its tokenizer.
        task: The task, without shots and chat template.
        seeds: Verified examples in the task's form; they are trained on, too.
        options: Learning rate, steps, batch size.
        folder: For the adapters; one that is there already is not trained again.
        seed: Seeds the adapter's start and the order of the rows.
        progress: Called after each training step.
    """
    asked = task.for_model(tokenizer)

    @contextmanager
    def specialise(rows: list[Example]) -> Iterator[tuple[Any, str]]:
        raw = [Example(task.question_of(each), each.completion.strip(), "") for each in seeds]
        raw += [Example(row.prompt, row.completion, "") for row in rows]
        examples = [asked.example(each) for each in raw]

        def train(output: Path) -> None:
            start = fresh_lora(model, output.with_name("start"), rank=RANK, alpha=ALPHA, targets=("all-linear",),
                               seed=seed)  # fmt: skip
            train_expert(model, tokenizer, start, examples, options, output, seed=seed, progress=progress)

        name = digest([[(each.prompt, each.completion) for each in examples], to_dict(options), seed])
        with adapted(model, trained_once(folder / name, {"training": name}, train)) as special:
            yield special, f"specialised as {name}"

    return specialise
