"""New questions: a model continues a list of seed questions, and what it writes must have their form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

from rocket_hub.errors import InputError
from rocket_hub.generation.filters import Fault, Lengths, Novelty, folded, text_fault
from rocket_hub.inference import Continuation, Search, continuations, encode
from rocket_hub.options import SelfSpecializationOptions
from rocket_hub.records import Example, Rejection
from rocket_hub.runs import Batches, KeptResults, digest
from rocket_hub.tasks import Task
from rocket_hub.tasks.answers import lettered, split_choices

SOURCE = "generated:self_specialization"

_LABEL = re.compile(r"^\w[\w ]{0,30}:", re.MULTILINE)
_NUMBER = re.compile(
    r"\A(?:\*\*)?(?:(?:new |the )?(?:problem|question)\s*\d*\s*[:.)](?:\*\*)?\s*|\d{1,3}[.)]\s+)", re.I
)


@dataclass(frozen=True)
class Question:
    """A bare question; `number` counts what was asked for, or given, from 0."""

    number: int
    text: str


@dataclass(frozen=True)
class QuestionForm:
    """What questions of a task look like."""

    before: str  # what stands before a question in the task's frame
    after: str  # what stands after it
    blank_lines: bool  # whether a seed question has a blank line in it
    labels: tuple[str, ...]  # words with a colon that begin a line of every seed question, such as BoolQ's `Question:`
    options: bool  # whether the seed questions have lettered options
    stop: tuple[str, ...]  # texts at which a new question is over; none of them is part of a seed question

    @classmethod
    def of(cls, task: Task, seeds: Sequence[Example]) -> QuestionForm:
        """Learn the form from a task without shots and chat template, and from seeds in its form."""
        questions = [task.question_of(seed) for seed in seeds]
        before, _, after = task.prompt("\0").partition("\0")
        marks = (before.strip(), after.strip(), "\n\n", task.mark, *task.stop)
        labels = [{match.strip() for match in _LABEL.findall(question)} for question in questions]
        return cls(
            before=before,
            after=after,
            blank_lines=any("\n\n" in question for question in questions),
            labels=tuple(sorted(set.intersection(*labels))),
            options=all(bool(seed.choices) and lettered(seed.choices) in question
                        for seed, question in zip(seeds, questions, strict=True)),
            stop=tuple(dict.fromkeys(m for m in marks if m and not any(m in question for question in questions))),
        )  # fmt: skip

    def fault_of(self, question: str) -> Fault | None:
        """Find `unparsable`: options or a labelled line are missing."""
        if missing := [label for label in self.labels if label not in _LABEL.findall(question)]:
            return "unparsable", f"no line begins with {missing[0]!r}"
        if not self.options:
            return None
        stem, choices = split_choices(question)
        distinct = {*map(str.casefold, choices)} - {""}
        if not stem.strip() or len(choices) < 2 or len(distinct) < len(choices):
            return "unparsable", f"{len(choices)} options, or two that are the same, or no question"
        return None


def question_prompt(task: Task, form: QuestionForm, tokenizer: Any, seeds: Sequence[str]) -> str:
    """Write a prompt that a model continues with a new question.

    A base model gets a list of questions in the task's own frame, without answers, that ends where the next begins.
    Each ends with a blank line or, where questions have blank lines of their own, with the rest of the frame. A chat
    model, known by its tokenizer's chat template, gets an instruction.
    """
    if not getattr(tokenizer, "chat_template", None):
        end = form.after.rstrip() if form.blank_lines else ""
        shown = "".join(f"{form.before}{seed}{end}\n\n" for seed in seeds)
        return shown + form.before.rstrip() if form.before.strip() else shown
    bare = replace(task, prompt=str, frame=None, shots=())
    return bare.for_model(tokenizer).prompt(_instruction(task.description, form, seeds))


def _instruction(description: str, form: QuestionForm, seeds: Sequence[str]) -> str:
    """Write the instruction to a chat model, as Self-MoE's prompts do: a role and numbered requirements."""
    shown = "\n\n".join(f"Problem {number}:\n{seed}" for number, seed in enumerate(seeds, 1))
    wanted = [
        "It is of the same kind as the problems below and about as long, but about something else.",
        "Its words, names and numbers are new; none of the problems is told again.",
        "It is realistic, and can be solved by reading alone, without pictures, links or tools.",
        "It is in the language of the problems below.",
        *(["It ends with its options, one a line, lettered as below; exactly one of them is right."] * form.options),
        "The problem stands alone: no number, no solution, no remarks.",
    ]
    rules = "\n".join(f"{number}. {text}" for number, text in enumerate(wanted, 1))
    return (
        f"You are an experienced author of exercises. They are for this task: {description}\n"
        f"Write one new problem.\n{rules}\n\n{shown}\n\nProblem {len(seeds) + 1}:"
    )


def read_question(text: str) -> str:
    """Return what a model wrote without spaces around it and without a heading that it repeated."""
    return _NUMBER.sub("", text.strip(), count=1).strip()


@dataclass
class Brainstorm:
    """Asks for new questions, batch by batch: `asked` so far, of which some are `accepted`, the others `rejected`."""

    task: Task
    tokenizer: Any
    seeds: Sequence[Example]
    options: SelfSpecializationOptions
    room: float
    seed: int
    novelty: Novelty
    asked: int = 0
    accepted: list[Question] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._questions = [self.task.question_of(seed) for seed in self.seeds]
        self._form, self._lengths = QuestionForm.of(self.task, self.seeds), Lengths.like(self._questions)
        self._known = {folded(question) for question in self._questions}
        chat = getattr(self.tokenizer, "chat_template", None)  # it ends its turn, and may have an empty line in it
        self._stop = tuple(mark for mark in self._form.stop if not (chat and mark == "\n\n"))

    @property
    def over(self) -> bool:
        """Whether as many were asked for as allowed."""
        return self.asked >= self.options.most_prompts

    def batch(self, writer: Writer) -> list[Question]:
        """Ask for a batch of questions and return those that are kept."""
        numbers = range(self.asked, min(self.asked + self.options.batch_size, self.options.most_prompts))
        search = Search(self.options.temperature, self.options.top_p, seed_of(self.seed, "questions", self.asked))
        found = writer.write([self._prompt(number) for number in numbers], search, self._stop)
        new = []
        for number, each in zip(numbers, found, strict=True):
            question = Question(number, self._in_form(read_question(each.text)))
            if fault := self.fault_of(Continuation(question.text, each.ended)):
                self.rejected.append(rejection(number, fault, question.text))
                continue
            self._known.add(folded(question.text))
            self.novelty.add(question.text)
            new.append(question)
        self.asked = numbers.stop
        self.accepted += new
        return new

    def _in_form(self, text: str) -> str:
        """Write a question as the task will write it when it reads the row."""
        return self.task.question_of(self.task.example(Example(text, "", ""))) if text else ""

    def fault_of(self, found: Continuation) -> Fault | None:
        """Find what is wrong with a question."""
        if not found.text:
            return "empty", ""
        if folded(found.text) in self._known:
            return "duplicate", "of a seed or of one before"
        if not self.options.filtered:
            return None
        if fault := text_fault(found, self._lengths) or self._form.fault_of(found.text):
            return fault
        similarity, nearest = self.novelty.nearest(found.text)
        return ("not_novel", f"{similarity:.2f} {nearest[:80]!r}") if similarity >= self.options.novelty else None

    def _prompt(self, number: int) -> str:
        """Write one prompt, with as many seeds as there is room for."""
        count = min(self.options.seeds_in_prompt, len(self.seeds))
        shown = Random(f"{self.seed} seeds {number}").sample(self._questions, count)
        ways = (question_prompt(self.task, self._form, self.tokenizer, shown[:n]) for n in range(count, 0, -1))
        prompt = first_fitting(ways, self.tokenizer, self.room)
        if prompt is None:
            raise InputError(f"the seed {shown[0][:60]!r} does not fit into the model's context beside "
                             f"{self.options.max_new_tokens} new tokens; lower max_new_tokens")  # fmt: skip
        return prompt


def rejection(number: int, fault: Fault, text: str = "") -> Rejection:
    """Reject a question by its number, with what was found and how the text begins."""
    detail = " ".join(f"{fault[1]} {text[:160]!r}".split()) if text else fault[1]
    return Rejection(f"{SOURCE}#{number}", fault[0], detail)


@dataclass(frozen=True)
class Writer:
    """A model whose texts are kept in `kept`, under its `name`: nothing is written twice."""

    model: Any
    tokenizer: Any
    name: str
    kept: KeptResults
    batch_size: int
    max_new_tokens: int

    def room(self) -> float:
        """Return how many tokens a prompt may have beside what is written after it."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return context - self.max_new_tokens if context else float("inf")

    def write(self, prompts: Sequence[str], search: Search, stop: Sequence[str]) -> list[Continuation]:
        """Continue prompts; each batch is on disk when the next begins."""
        size = self.batch_size
        asked = [tuple(prompts[start : start + size]) for start in range(0, len(prompts), size)]

        name = f"{self.name} {self.model.name_or_path} {self.model.dtype}"

        def key(batch: tuple[str, ...]) -> str:
            return digest([name, batch, asdict(search), list(stop), self.max_new_tokens])

        def compute(missing: list[tuple[str, ...]]) -> Batches[tuple[str, ...]]:
            for batch in missing:
                found = continuations(self.model, self.tokenizer, list(batch), max_new_tokens=self.max_new_tokens,
                                      batch_size=size, stop=stop, search=search)  # fmt: skip
                yield {batch: [[each.text, each.ended] for each in found]}

        return [Continuation(*each) for batch in self.kept.each(asked, key, compute) for each in batch]


def first_fitting(prompts: Iterable[str], tokenizer: Any, room: float) -> str | None:
    """Return the first prompt that is short enough; none where none is."""
    return next((text for text in prompts if len(encode(tokenizer, text, "", ended=False)[0]) <= room), None)


def seed_of(*what: object) -> int:
    """Make a seed for one thing, which does not depend on what else was drawn before."""
    return Random(" ".join(map(str, what))).getrandbits(62)
