"""The tokenised K-shot, and how an adapter is measured on it: likelihood of completions, and answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from rocket_hub.errors import InputError
from rocket_hub.inference.generation import continued, until
from rocket_hub.inference.likelihood import Question, choice_scores, encode_question, question_batches, row_nll, scored
from rocket_hub.inference.tokens import batches, encode, halving, prompt_ids
from rocket_hub.lora.attach import Pair, Swap
from rocket_hub.records import Example
from rocket_hub.tasks import Task

T = TypeVar("T")
Adapter = str | None  # its name; None = the bare base model


@dataclass(frozen=True)
class Choices:
    """The options of a multiple-choice shot."""

    options: tuple[str, ...]  # their texts as completions, each with the space that parts it from the prompt
    gold: int  # number of the right option, from 0
    prompt: str | None = None  # the text before the options; none = the shot's prompt


def choices_of(task: Task, shots: Sequence[Example]) -> list[Choices | None]:
    """List the options of each shot as the task compares their likelihoods; None where a shot has none."""
    found: list[Choices | None] = []
    for shot in shots:
        prompt, options = task.options(shot) if len(shot.choices) > 1 else ("", ())
        found.append(Choices(options, task.choice_index(shot), prompt) if options else None)
    return found


@dataclass(frozen=True)
class Answer:
    """A model's answer to one shot."""

    text: str  # the answer, read out of generated text, or the likeliest option
    correct: bool  # whether it is right
    tokens: int  # tokens that went through the model for it


@dataclass(frozen=True)
class Shots:
    """The K-shot, tokenised once for all adapters.

    Attributes:
        examples: K examples in the task's form.
        extract: Reads the answer out of generated text.
        rows: (token ids of prompt and completion, how many of them are the prompt), K of them.
        prompts: Token ids of the prompts, for generation.
        questions: The shots with options, by their number.
        choices: The same, with the right option.
        batch_size: Rows computed at once.
        mean: Of a completion's token probabilities, see `row_nll`.
        stop: Texts before which a generated answer ends.
    """

    examples: tuple[Example, ...]
    extract: Callable[[str], str]
    rows: tuple[tuple[list[int], int], ...]
    prompts: tuple[list[int], ...]
    questions: dict[int, Question]
    choices: dict[int, Choices]
    batch_size: int
    mean: str = "geometric"
    stop: tuple[str, ...] = ()

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each completion [K]."""
        return np.array([scored(ids, start) for ids, start in self.rows], dtype=np.int64)


def tokenised(
    tokenizer: Any,
    shots: Sequence[Example],
    *,
    extract: Callable[[str], str],
    batch_size: int,
    choices: Sequence[Choices | None] | None = None,
    mean: str = "geometric",
    stop: Sequence[str] = (),
) -> Shots:
    """Tokenise the K-shot."""
    if not shots:
        raise InputError("the K-shot is empty; adapters are scored on at least one example")
    rows = tuple(encode(tokenizer, shot.prompt, shot.completion) for shot in shots)
    for shot, (ids, start) in zip(shots, rows, strict=True):
        if not scored(ids, start):
            raise InputError(f"the completion {shot.completion!r} of {shot.prompt!r:.80} has no tokens to be scored")
    given = _numbered(shots, choices or [None] * len(shots))
    return Shots(
        examples=tuple(shots),
        extract=extract,
        rows=rows,
        prompts=tuple(prompt_ids(tokenizer, shot.prompt) for shot in shots),
        questions={
            i: encode_question(tokenizer, each.prompt or shots[i].prompt, each.options) for i, each in given.items()
        },
        choices=given,
        batch_size=batch_size,
        mean=mean,
        stop=tuple(stop),
    )


def _numbered(shots: Sequence[Example], choices: Sequence[Choices | None]) -> dict[int, Choices]:
    if len(choices) != len(shots):
        raise InputError(f"choices for {len(choices)} of {len(shots)} shots; give one a shot, None where it has none")
    for shot, each in zip(shots, choices, strict=True):
        if each and not 0 <= each.gold < len(each.options):
            raise InputError(f"{shot.prompt!r:.80}: the right option is {each.gold} of {len(each.options)}; from 0")
    return {i: each for i, each in enumerate(choices) if each}


@dataclass(frozen=True)
class Share:
    """This process's part of the work."""

    rank: int = 0  # number of the process, from 0
    world: int = 1  # number of processes
    group: Any = None  # their group for exchanging results; None for a single process

    def mine(self, count: int) -> range:
        """List which of `count` equal pieces of work are this process's."""
        return range(self.rank, count, self.world)

    def gather(self, found: Mapping[int, T]) -> list[T]:
        """Collect the pieces of all processes; every process gets the same list, in the order of the pieces."""
        everyone: list[Mapping[int, T]] = [found]
        if self.world > 1:
            everyone = [{} for _ in range(self.world)]
            dist.all_gather_object(everyone, found, group=self.group)
        together = {piece: value for each in everyone for piece, value in each.items()}
        return [together[piece] for piece in sorted(together)]


@contextmanager
def share() -> Iterator[Share]:
    """Find this process's share, and open a group between the processes: gloo, as results are in main memory."""
    if not dist.is_available() or (int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized()):
        yield Share()
        return
    if not dist.is_initialized():
        from accelerate import PartialState

        PartialState(cpu=not torch.accelerator.is_available())
    group = dist.new_group(backend="gloo")
    try:
        yield Share(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)


@dataclass
class Meter:
    """Scores adapters and counts the tokens that takes.

    A piece of work is one adapter on one batch. Batches depend on the shots alone, so that any number of processes
    computes the same numbers.
    """

    base: Any  # the base model, inside `evaluating` with what `decoding` gives
    tokenizer: Any  # its tokenizer
    shots: Shots  # the K-shot
    swap: Swap  # puts an adapter on the base
    share: Share  # this process's part
    bank: Mapping[str, Mapping[str, Pair]]  # name -> module -> (A, B); an adapter is looked up when it is put on
    tokens: int = 0  # tokens that went through the model so far
    scored: Callable[[int], None] = lambda _: None  # called with the number of shots of each piece that is done

    def likelihoods(self, adapters: Sequence[Adapter], chosen: Sequence[int]) -> np.ndarray:
        """Sum the negative log-likelihoods of the chosen shots' completions [adapters, chosen], in nats."""
        lengths = [len(self.shots.rows[i][0]) for i in chosen]
        pieces = [[chosen[i] for i in batch] for batch in batches(lengths, self.shots.batch_size)]
        found = self._run(adapters, pieces, self._likelihoods)
        self.tokens += len(adapters) * sum(lengths)
        return np.array([[row[shot] for shot in chosen] for row in found]).reshape(len(adapters), len(chosen))

    def answers(self, adapters: Sequence[Adapter]) -> list[list[Answer]]:
        """Let each adapter answer all shots, [adapters][K].

        Where a shot has options the likeliest by character is the answer (lm-evaluation-harness' `acc_norm`), and
        nothing is generated.
        """
        shots, size, asked = self.shots, self.shots.batch_size, list(self.shots.questions)
        open_ended = [i for i in range(len(shots.examples)) if i not in shots.questions]
        pieces = [
            *([asked[i] for i in batch] for batch in question_batches([*shots.questions.values()], size)),
            *([open_ended[i] for i in batch] for batch in batches([len(shots.prompts[i]) for i in open_ended], size)),
        ]
        found = self._run(adapters, pieces, self._answer)
        self.tokens += sum(answer.tokens for row in found for answer in row.values())
        return [[row[shot] for shot in sorted(row)] for row in found]

    def slowest(self, seconds: float) -> float:
        """Return the largest of all processes' times, so that they decide alike."""
        return max(self.share.gather({self.share.rank: seconds}))

    def _likelihoods(self, batch: Sequence[int]) -> list[float]:
        return row_nll(self.base, [self.shots.rows[i] for i in batch], mean=self.shots.mean)

    def _answer(self, batch: Sequence[int]) -> list[Answer]:
        shots, found = self.shots, []
        if batch[0] in shots.questions:
            scores = choice_scores(self.base, [shots.questions[i] for i in batch])
            for i, likely in zip(batch, scores, strict=True):
                chosen, choices = likely.chosen("characters"), shots.choices[i]
                found.append(Answer(choices.options[chosen].strip(), chosen == choices.gold, shots.questions[i].tokens))
            return found
        written = continued(self.base, self.tokenizer, [shots.prompts[i] for i in batch], shots.stop)
        for i, (text, new) in zip(batch, written, strict=True):
            answer = shots.extract(until(text, shots.stop))
            right = bool(answer) and answer == shots.examples[i].answer
            found.append(Answer(answer, right, len(shots.prompts[i]) + new))
        return found

    def _run(
        self, adapters: Sequence[Adapter], batches: Sequence[list[int]], work: Callable[[Sequence[int]], list[T]]
    ) -> list[dict[int, T]]:
        """Do this process's pieces and collect everybody's: for each adapter, shot -> result of `work`."""
        pieces = [(adapter, batch) for adapter in range(len(adapters)) for batch in batches]
        done: dict[int, list[T]] = {}
        on: int | None = None
        for piece in self.share.mine(len(pieces)):
            adapter, batch = pieces[piece]
            if adapter != on:
                self.swap(self.bank[name] if (name := adapters[adapter]) else None)
                on = adapter
            done[piece] = halving(batch, work)
            self.scored(len(batch) * self.share.world)
        found: list[dict[int, T]] = [{} for _ in adapters]
        for (adapter, batch), values in zip(pieces, self.share.gather(done), strict=True):
            found[adapter].update(zip(batch, values, strict=True))
        return found
