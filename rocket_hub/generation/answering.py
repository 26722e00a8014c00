"""Answers to new questions: the model is shown solved seeds, and passages of domain text where there are some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from rocket_hub.generation.filters import Fault, Lengths, text_fault, vote_fault
from rocket_hub.generation.retrieval import Retriever
from rocket_hub.generation.writing import Question, Writer, first_fitting, seed_of
from rocket_hub.inference import GREEDY, Continuation, Search
from rocket_hub.options import SelfSpecializationOptions
from rocket_hub.records import Example
from rocket_hub.tasks import Task
from rocket_hub.tasks.lettering import LETTERS


@dataclass(frozen=True)
class Solved:
    """What came of a question: it in the task's form, or the fault."""

    question: Question
    example: Example
    fault: Fault | None = None


@dataclass(frozen=True)
class Answers:
    """How questions are answered.

    Attributes:
        task: The task, without shots and chat template.
        tokenizer: The model's.
        seeds: Solved examples in the task's form.
        options: Of the method.
        retriever: Finds passages; none = there are none.
        room: Tokens that a prompt may have.
        seed: Decides which seeds are shown, and the votes.
    """

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
            self.judged(question, None if prompt is None else next(texts))
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

    def judged(self, question: Question, found: Continuation | None) -> Solved:
        """Bring an answer into the task's form, and find what is wrong with it; none = there was no room to ask."""
        if found is None:
            return Solved(
                question, Example("", "", ""), ("too_long", "the prompt does not fit into the model's context")
            )
        text = found.text.strip()
        example = self.task.example(Example(question.text, text, "")) if text else Example("", "", "")
        if not self.options.filtered:
            return Solved(question, example, None if text else ("empty", "the answer"))
        fault = text_fault(found, Lengths.like([seed.completion for seed in self.seeds]))
        return Solved(question, example, fault or form_fault(example))

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
            solved[i] = replace(solved[i], fault=vote_fault(solved[i].example.answer, said))
        return solved


def below(question: str, passages: Sequence[str]) -> str:
    """Put passages before a question, one a line."""
    return "\n".join([*passages, question])


def form_fault(example: Example) -> Fault | None:
    """Find `unparsable`: no answer in the task's form, or one that is none of the options."""
    if not example.answer:
        return "unparsable", f"no answer in {example.completion.strip()[:80]!r}"
    known = (*LETTERS[: len(example.choices)], *example.choices)
    return ("unparsable", f"{example.answer!r:.40} is no option") if example.choices and example.answer not in known \
        else None  # fmt: skip
