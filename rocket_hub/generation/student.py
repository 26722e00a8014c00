from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rocket_hub.errors import AdapterError
from rocket_hub.generation.questions import Question
from rocket_hub.inference import GREEDY, Continuation, Search, continuations, encode
from rocket_hub.inference.generation import until
from rocket_hub.lora.attach import WEIGHTS, adapted, fingerprint
from rocket_hub.options import MeteorOptions, TrainOptions
from rocket_hub.records import Example
from rocket_hub.runs import Batches, KeptResults, Reporter, RunFolder, Silent, digest
from rocket_hub.tasks import Task

TOGETHER = 64  # prompts whose texts are kept together: a killed run writes at most so many again


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, with what stands between prompt and completion."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Student:
    """A model that learns."""

    base: Any  # the base model, without an adapter; it is given back unchanged
    tokenizer: Any  # its tokenizer
    task: Task  # the task as this model is asked, see `Task.for_model`
    options: MeteorOptions  # how it learns
    texts: KeptResults  # what it has written, by adapter and prompt
    reporter: Reporter  # told how far it is

    def framed(self, prompt: str) -> str:
        """Put a prompt that is none of the task's into the model's chat template, if it has one."""
        return self.task.chat(prompt) if self.task.chat else prompt

    def has_control_tokens(self, text: str) -> bool:
        """Return whether a text holds what the tokenizer reads as the end of a turn, or the like."""
        return any(token in text for token in self.tokenizer.all_special_tokens)

    def room(self) -> int:
        """Return how many tokens a prompt and its completion may have."""
        context = getattr(self.base.config, "max_position_embeddings", None) or self.options.max_length
        return min(int(context), self.options.max_length)

    def fits(self, prompt: str) -> bool:
        """Return whether there is room for a prompt and at least one token more."""
        return len(encode(self.tokenizer, prompt, "")[0]) < self.room()

    def write(
        self, adapter: Path, prompts: Sequence[str], max_tokens: int, search: Search = GREEDY
    ) -> list[Continuation]:
        """Write with an adapter on; what was written before with equal weights is not written again.

        Returns:
            One a prompt, in their order; nothing where the prompt, in the form that the model is asked in, is longer
            than it reads.
        """
        fixed = [self.base.name_or_path, fingerprint(adapter), max_tokens, asdict(search), self.task.stop]

        def compute(missing: list[str]) -> Batches[str]:
            waiting = list(filter(self.fits, missing))
            if not waiting:
                return
            with adapted(self.base, adapter) as model:
                for start in range(0, len(waiting), TOGETHER):
                    part = waiting[start : start + TOGETHER]
                    found = continuations(model, self.tokenizer, part, max_new_tokens=max_tokens, stop=self.task.stop,
                                          search=search)  # fmt: skip
                    yield {prompt: asdict(each) for prompt, each in zip(part, found, strict=True)}
                    self.reporter.advance("the model writes", start + len(part), len(waiting))

        found = self.texts.each(prompts, lambda prompt: digest([*fixed, prompt]), compute)
        return [Continuation(**each) if each else Continuation("", False) for each in found]

    def read_completion(self, question: str, text: str) -> tuple[str, str]:
        """Bring an answer to a bare question, the teacher's or the student's own, into the task's form.

        Returns:
            (completion, reason): either is empty. The reason is `control_tokens` (it holds text that the tokenizer
            reads as the end of a turn), `no_answer_in_form` or `too_long`.
        """
        text = until(text, self.task.stop).strip()
        if self.has_control_tokens(text):
            return "", "control_tokens"
        raw = Example(question, text, "")
        example = self.task.example(raw) if text else raw
        if text and not example.answer and (answer := self.task.read_answer(text, raw)):
            text = self.task.completion(text, answer)
            example = self.task.example(Example(question, text, ""))
        if not text or not example.answer:
            return "", "no_answer_in_form"
        if len(encode(self.tokenizer, example.prompt, example.completion)[0]) > self.room():
            return "", "too_long"
        return text, ""

    def train(self, rows: Mapping[Question, str], epochs: float, start: Path, folder: Path) -> Path:
        """Train the adapter `start` on completions in `folder`, or return what an earlier run made of the same."""
        from rocket_hub.training import train_expert

        examples = [self.task.example(Example(question.text, text, "")) for question, text in rows.items()]
        options, batch_size = self.options, min(self.options.batch_size, len(examples))
        train = TrainOptions(
            learning_rate=(options.learning_rate,),
            max_steps=steps(len(examples), epochs, batch_size),
            batch_size=batch_size,
            max_length=options.max_length,
        )
        inputs = {"rows": digest([(each.prompt, each.completion) for each in examples]), "start": fingerprint(start),
                  "train": asdict(train), "seed": options.seed}  # fmt: skip
        what = f"{folder.parent.name}: training on {len(examples)} rows"
        return trained_once(folder, inputs, lambda output: train_expert(
            self.base, self.tokenizer, start, examples, train, output, seed=options.seed,
            progress=lambda done, total, _: self.reporter.advance(what, done, total),
        ))  # fmt: skip

    def prefer(self, pairs: Sequence[Pair], start: Path, folder: Path) -> Path:
        """Train the adapter `start` on preferences in `folder`, or return what an earlier run made of the same."""
        inputs = {"pairs": digest([(each.prompt, each.chosen, each.rejected) for each in pairs]),
                  "seed": self.options.seed, "start": fingerprint(start)}  # fmt: skip
        return trained_once(folder, inputs, partial(dpo, self, pairs, start))


def steps(rows: int, epochs: float, batch_size: int) -> int:
    """Return the optimiser steps of some passes over rows."""
    return max(1, math.ceil(rows * epochs / batch_size))


def trained_once(folder: Path, inputs: Mapping[str, Any], train: Callable[[Path], Any]) -> Path:
    """Train an adapter into `folder`/adapter, unless an earlier run did so from the same inputs; return its folder."""

    def make(place: Path) -> str:
        train(place / "adapter")
        return "adapter"

    if not (folder / "adapter" / WEIGHTS).is_file():
        (folder / "result.json").unlink(missing_ok=True)
    return folder / str(RunFolder(folder.parent, Silent()).stage(folder.name, inputs, make))


def dpo(student: Student, pairs: Sequence[Pair], start: Path, output: Path) -> None:
    """Run TRL's DPO over a LoRA, whose reference is a frozen copy that TRL makes of the adapter as it was."""
    from peft import PeftType

    from rocket_hub.training import trainable

    with trainable(student.base, start) as model:
        if model.peft_config["default"].peft_type != PeftType.LORA:
            raise AdapterError("not_lora", f"{start}: 'evolved' tunes a plain LoRA; collapse this one first")
        dpo_trainer(student, model, pairs, output).train()
        # without the frozen copy, which TRL added under the name "ref"
        model.save_pretrained(str(output), selected_adapters=["default"])


def dpo_trainer(student: Student, model: Any, pairs: Sequence[Pair], output: Path) -> Any:
    """Set up TRL's trainer; one reference pass a step, no checkpoints: it is one pass over few pairs."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from rocket_hub.training import keep_to_one_device, shared_arguments

    options, batch_size = student.options, min(student.options.batch_size, len(pairs))
    arguments = DPOConfig(
        max_steps=steps(len(pairs), options.evolve_epochs, batch_size),
        per_device_train_batch_size=batch_size,
        learning_rate=options.evolve_learning_rate,
        beta=options.beta,
        max_length=options.max_length,
        save_strategy="no",
        logging_strategy="no",
        **shared_arguments(output, model, options.seed),
    )
    keep_to_one_device(arguments)
    rows = Dataset.from_list([asdict(pair) for pair in pairs])
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=student.tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer
