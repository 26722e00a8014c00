"""The model that learns: it writes with one of its adapters, an adapter is tuned, and neither is done twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rocket_hub.generation.questions import Question
from rocket_hub.inference import GREEDY, Continuation, Search, continuations, encode
from rocket_hub.inference.generation import until
from rocket_hub.lora.attach import WEIGHTS, adapted, fingerprint
from rocket_hub.options import MeteorOptions, TrainOptions
from rocket_hub.records import Example
from rocket_hub.runs import KeptResults, Reporter, RunFolder, Silent, digest
from rocket_hub.tasks import Task

TOGETHER = 64  # prompts whose texts are kept together: a killed run writes at most so many again


@dataclass(frozen=True)
class Weak:
    """A model that learns.

    Attributes:
        base: The base model, without an adapter.
        tokenizer: Its tokenizer.
        task: The task as this model is asked, see `Task.for_model`.
        options: How it learns.
        texts: What it has written, by adapter and prompt.
        reporter: Told how far it is.
    """

    base: Any
    tokenizer: Any
    task: Task
    options: MeteorOptions
    texts: KeptResults
    reporter: Reporter

    def framed(self, prompt: str) -> str:
        """Put a prompt that is none of the task's into the model's chat template, if it has one."""
        return self.task.chat(prompt) if self.task.chat else prompt

    def has_control_tokens(self, text: str) -> bool:
        """Say whether a text holds what the tokenizer reads as the end of a turn, or the like."""
        return any(token in text for token in self.tokenizer.all_special_tokens)

    def room(self) -> int:
        """Return how many tokens a prompt and its completion may have."""
        context = getattr(self.base.config, "max_position_embeddings", None) or self.options.max_length
        return min(int(context), self.options.max_length)


def write(
    weak: Weak, adapter: Path, prompts: Sequence[str], max_tokens: int, search: Search = GREEDY
) -> list[Continuation]:
    """Let the model write with an adapter on; what it has written before, with equal weights, is not written again.

    Args:
        weak: The model.
        adapter: Folder of its adapter.
        prompts: In the form that it is asked in.
        max_tokens: Longest continuation.
        search: How the next token is chosen.

    Returns:
        One a prompt, in their order; nothing where the prompt is longer than the model reads.
    """
    fixed = [weak.base.name_or_path, fingerprint(adapter), max_tokens, asdict(search), weak.task.stop]
    keys = [digest([*fixed, prompt]) for prompt in prompts]
    new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in weak.texts.known}
    fits = {key: prompt for key, prompt in new.items() if len(encode(weak.tokenizer, prompt, "")[0]) < weak.room()}
    waiting = list(fits)
    if waiting:
        with adapted(weak.base, adapter) as model:
            for start in range(0, len(waiting), TOGETHER):
                part = waiting[start : start + TOGETHER]
                found = continuations(model, weak.tokenizer, [fits[key] for key in part], max_new_tokens=max_tokens,
                                      stop=weak.task.stop, search=search)  # fmt: skip
                weak.texts.add({key: asdict(each) for key, each in zip(part, found, strict=True)})
                weak.reporter.advance("the model writes", min(start + TOGETHER, len(waiting)), len(waiting))
    nothing = asdict(Continuation("", False))
    return [Continuation(**weak.texts.known.get(key, nothing)) for key in keys]


def read_completion(weak: Weak, question: str, text: str) -> tuple[str, str]:
    """Bring an answer, the teacher's or the model's own, into the task's form.

    Args:
        weak: The model that is to learn it.
        question: The bare question.
        text: What was answered.

    Returns:
        (completion, reason): either is empty. The reason is `control_tokens` (it holds text that the tokenizer reads as
        the end of a turn), `no_answer_in_form` or `too_long`.
    """
    text = until(text, weak.task.stop).strip()
    if weak.has_control_tokens(text):
        return "", "control_tokens"
    raw = Example(question, text, "")
    example = weak.task.example(raw) if text else raw
    if text and not example.answer and (answer := weak.task.read_answer(text, raw)):
        text = weak.task.completion(text, answer)
        example = weak.task.example(Example(question, text, ""))
    if not text or not example.answer:
        return "", "no_answer_in_form"
    if len(encode(weak.tokenizer, example.prompt, example.completion)[0]) > weak.room():
        return "", "too_long"
    return text, ""


def steps(rows: int, epochs: float, batch_size: int) -> int:
    """Return the optimiser steps of some passes over rows."""
    return max(1, math.ceil(rows * epochs / batch_size))


def tune(weak: Weak, rows: Mapping[Question, str], epochs: float, start: Path, folder: Path) -> Path:
    """Tune an adapter on rows, or give back what an earlier run made of the same.

    Args:
        weak: The model.
        rows: Completions in the task's form.
        epochs: Passes over them.
        start: Adapter that is gone on from.
        folder: Gets the new one; an unfinished training there goes on.

    Returns:
        Folder of the trained adapter.
    """
    examples = [weak.task.example(Example(question.text, text, "")) for question, text in rows.items()]
    options = weak.options
    batch_size = min(options.batch_size, len(examples))
    train = TrainOptions(
        learning_rate=(options.learning_rate,),
        max_steps=steps(len(examples), epochs, batch_size),
        batch_size=batch_size,
        max_length=options.max_length,
        dtype="bfloat16" if str(weak.base.dtype) == "torch.bfloat16" else "float32",
    )
    inputs = {"rows": digest([(each.prompt, each.completion) for each in examples]), "start": fingerprint(start),
              "train": asdict(train), "seed": options.seed}  # fmt: skip

    def make(place: Path) -> str:
        from rocket_hub.training import train_expert

        told = partial(_told, weak.reporter, f"{folder.parent.name}: training on {len(examples)} rows")
        train_expert(weak.base, weak.tokenizer, start, examples, train, place / "adapter", seed=options.seed,
                     progress=told)  # fmt: skip
        return "adapter"

    return once(folder, inputs, make)


def _told(reporter: Reporter, what: str, done: int, total: int, _: float) -> None:
    """Pass on how far a training is."""
    reporter.advance(what, done, total)


def once(folder: Path, inputs: Mapping[str, Any], make: Any) -> Path:
    """Make an adapter in a folder, unless an earlier run made it there from the same inputs."""
    if not (folder / "adapter" / WEIGHTS).is_file():
        (folder / "result.json").unlink(missing_ok=True)
    return folder / str(RunFolder(folder.parent, Silent()).stage(folder.name, inputs, make))
