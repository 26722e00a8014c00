"""The K-shot in tokens, and the two signals on it: likelihood of completions, and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rocket_hub.errors import InputError
from rocket_hub.inference.generation import continued
from rocket_hub.inference.likelihood import Question, choice_scores, encode_question, question_batches, row_nll, scored
from rocket_hub.inference.tokens import batches, encode, prompt_ids
from rocket_hub.records import Example
from rocket_hub.tasks import Task


@dataclass(frozen=True)
class Choices:
    """The options of a multiple-choice shot.

    Attributes:
        options: Their texts as completions, each with the space that parts it from the prompt.
        gold: Which one is right, from 0.
        prompt: What stands before the options; none = the shot's prompt.
    """

    options: tuple[str, ...]
    gold: int
    prompt: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a model answered to one shot.

    Attributes:
        text: The answer, read out of generated text, or the likeliest option.
        correct: Whether it is the right one.
        tokens: Tokens that went through the model for it.
    """

    text: str
    correct: bool
    tokens: int


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
    """

    examples: tuple[Example, ...]
    extract: Callable[[str], str]
    rows: tuple[tuple[list[int], int], ...]
    prompts: tuple[list[int], ...]
    questions: dict[int, Question]
    choices: dict[int, Choices]
    batch_size: int
    mean: str = "geometric"

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each completion [K]."""
        return np.array([scored(ids, start) for ids, start in self.rows], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each prompt with its completion [K]."""
        return np.array([len(ids) for ids, _ in self.rows], dtype=np.int64)


def tokenised(
    tokenizer: Any,
    shots: Sequence[Example],
    *,
    extract: Callable[[str], str],
    batch_size: int,
    choices: Sequence[Choices | None] | None = None,
    mean: str = "geometric",
) -> Shots:
    """Tokenise the K-shot.

    Raises:
        InputError: There are no shots, a prompt or completion has no tokens, or the choices do not fit.
    """
    if not shots:
        raise InputError("the K-shot is empty; adapters are scored on at least one example")
    rows = tuple(encode(tokenizer, shot.prompt, shot.completion) for shot in shots)
    for shot, (ids, start) in zip(shots, rows, strict=True):
        if not scored(ids, start):
            raise InputError(f"the completion {shot.completion!r} of {shot.prompt!r:.80} has no tokens to be scored")
    given = _checked(shots, choices or [None] * len(shots))
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
    )


def _checked(shots: Sequence[Example], choices: Sequence[Choices | None]) -> dict[int, Choices]:
    """Number the shots that have options."""
    if len(choices) != len(shots):
        raise InputError(f"choices for {len(choices)} of {len(shots)} shots; give one a shot, None where it has none")
    for shot, each in zip(shots, choices, strict=True):
        if each and not 0 <= each.gold < len(each.options):
            raise InputError(f"{shot.prompt!r:.80}: the right option is {each.gold} of {len(each.options)}; from 0")
    return {i: each for i, each in enumerate(choices) if each}


def choices_of(task: Task, shots: Sequence[Example]) -> list[Choices | None]:
    """List the options of each shot as the task compares their likelihoods; None where a shot has none."""
    found: list[Choices | None] = []
    for shot in shots:
        prompt, options = task.options(shot) if len(shot.choices) > 1 else ("", ())
        found.append(Choices(options, task.choice_index(shot), prompt) if options else None)
    return found


def likelihood_batches(shots: Shots, chosen: Sequence[int]) -> list[list[int]]:
    """List the shots of each batch for `likelihoods`; the same for every adapter and any number of processes."""
    return [[chosen[i] for i in batch] for batch in batches([len(shots.rows[i][0]) for i in chosen], shots.batch_size)]


def answer_batches(shots: Shots) -> list[list[int]]:
    """List the shots of each batch for `answers`: questions with options, then those that are generated."""
    asked = list(shots.questions)
    open_ended = [i for i in range(len(shots.examples)) if i not in shots.questions]
    return [
        *([asked[i] for i in batch] for batch in question_batches([*shots.questions.values()], shots.batch_size)),
        *([open_ended[i] for i in b] for b in batches([len(shots.prompts[i]) for i in open_ended], shots.batch_size)),
    ]


def likelihoods(base: Any, shots: Shots, batch: Sequence[int]) -> list[float]:
    """Sum the negative log-likelihood of each completion of a batch, in nats; call it inside `evaluating`."""
    return row_nll(base, [shots.rows[i] for i in batch], mean=shots.mean)


def answers(base: Any, tokenizer: Any, shots: Shots, batch: Sequence[int]) -> list[Answer]:
    """Let a model answer a batch of shots; call it inside `evaluating` with what `greedy` gives.

    Where there are options the likeliest by character is the answer (lm-evaluation-harness' `acc_norm`), and nothing
    is generated.
    """
    if batch[0] in shots.questions:
        questions = [shots.questions[i] for i in batch]
        found = []
        for i, scores in zip(batch, choice_scores(base, questions), strict=True):
            chosen, choices = scores.chosen("characters"), shots.choices[i]
            found.append(Answer(choices.options[chosen].strip(), chosen == choices.gold, shots.questions[i].tokens))
        return found
    found = []
    for i, (text, new) in zip(batch, continued(base, tokenizer, [shots.prompts[i] for i in batch]), strict=True):
        answer = shots.extract(text)
        right = bool(answer) and answer == shots.examples[i].answer
        found.append(Answer(answer, right, len(shots.prompts[i]) + new))
    return found
