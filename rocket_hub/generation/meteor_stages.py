"""METEOR, stage 3: the model prefers what it finds by a beam search to what it writes greedily; there is no teacher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rocket_hub.errors import AdapterError, NothingLeftError
from rocket_hub.generation.asking import Desk
from rocket_hub.generation.prompts import (
    Judgement,
    advice_prompt,
    answer_prompt,
    guideline_prompt,
    judge_prompt,
    read_judgement,
)
from rocket_hub.generation.questions import Question
from rocket_hub.generation.student import Weak, once, read_completion, steps, tune, write
from rocket_hub.generation.teachers import AGAIN, Decoding, Reply
from rocket_hub.inference import Search
from rocket_hub.lora.attach import fingerprint, load_adapter
from rocket_hub.records import Rejection, reasons_in_words
from rocket_hub.runs import RunFolder, digest

OPEN = (*AGAIN, "over_budget")
"""Reasons that another run may mend: the teacher was away, or had no budget left."""
DETAIL = 200  # characters of a text that are quoted as a detail


@dataclass
class Learned:
    """What a stage leaves.

    Attributes:
        adapter: The adapter after it; the one before it, where there was nothing to learn.
        rows: Completions that it learned, in the task's form.
        rejected: Questions that it learned nothing from, each with (reason, detail).
        counts: How many there were at each step.
    """

    adapter: Path
    rows: dict[Question, str] = field(default_factory=dict)
    rejected: dict[Question, tuple[str, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def drop(self, question: Question, reason: str, detail: str = "") -> None:
        """Note that nothing is learned from a question."""
        self.rejected[question] = (reason, detail[:DETAIL])

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number


def fault_of(reply: Reply) -> tuple[str, str]:
    """Say why there is no answer: what another run may mend by its own name, what lasts as `no_answer`."""
    if reply.fault in OPEN:
        return reply.fault, reply.detail
    return "no_answer", reply.fault


def to_plain(learned: Learned, run: RunFolder) -> dict[str, Any]:
    """Turn a stage's result into what its `result.json` holds."""
    return {
        "adapter": run.relative(learned.adapter),
        "rows": [[question.number, text] for question, text in learned.rows.items()],
        "rejected": [[question.number, *why] for question, why in learned.rejected.items()],
        "counts": learned.counts,
    }


def is_open(plain: Mapping[str, Any] | None) -> bool:
    """Say whether another run may get more out of a finished stage."""
    return plain is not None and any(reason in OPEN for _, reason, _ in plain["result"]["rejected"])


def rejections(stage: str, plain: Mapping[str, Any]) -> list[Rejection]:
    """List what a stage learned nothing from."""
    return [Rejection(f"{stage}#{index}", reason, detail) for index, reason, detail in plain["rejected"]]


def distil(weak: Weak, desk: Desk, questions: Sequence[Question], adapter: Path, folder: Path) -> Learned:
    """Tune the weak model on the teacher's answers.

    Args:
        weak: The model, and how it learns.
        desk: The teacher.
        questions: What is asked.
        adapter: The adapter that writes guidelines and is gone on from.
        folder: The stage's.

    Returns:
        The tuned adapter; each question is either among its rows or rejected: `no_answer`, a fault of the teacher's, or
        what `read_completion` finds.

    Raises:
        NothingLeftError: There is no row to learn from.
        InputError: The teacher refuses the request itself.
    """
    options, learned = weak.options, Learned(adapter)
    guidelines = _guidelines(weak, questions, adapter) if options.guideline else [""] * len(questions)
    learned.count("guidelines", sum(map(bool, guidelines)))
    prompts = [answer_prompt(each.text, guideline) for each, guideline in zip(questions, guidelines, strict=True)]
    how = Decoding(options.max_new_tokens, seed=options.seed)
    replies = desk.ask(prompts, how, partial(weak.reporter.advance, "distilled: the teacher answers"))
    for question, reply in zip(questions, replies, strict=True):
        if reply.fault:
            learned.drop(question, *fault_of(reply))
            continue
        learned.count("answered")
        completion, reason = read_completion(weak, question.text, reply.text)
        if reason:
            learned.drop(question, reason, reply.text)
        else:
            learned.rows[question] = completion
    if not learned.rows:
        lost = reasons_in_words(Rejection("", reason) for reason, _ in learned.rejected.values())
        raise NothingLeftError(
            f"no answer of {desk.teacher.name} can be learned from: {lost}; give another teacher, a larger budget or "
            "other questions (what got no answer is asked again, and nothing else)"
        )
    learned.count("rows", len(learned.rows))
    learned.adapter = tune(weak, learned.rows, options.epochs, adapter, folder / "training")
    return learned


def _guidelines(weak: Weak, questions: Sequence[Question], adapter: Path) -> list[str]:
    """Let the weak model write guidelines; one that has an answer in the task's own form is none, and is left out."""
    prompts = [weak.framed(guideline_prompt(question.text)) for question in questions]
    texts = write(weak, adapter, prompts, weak.options.max_guideline_tokens)
    mark = weak.task.mark
    parts = [each.text.strip().partition("\n\n")[0] for each in texts]
    return ["" if mark and mark in part else part for part in parts]


def refine(weak: Weak, desk: Desk, questions: Sequence[Question], adapter: Path, folder: Path) -> Learned:
    """Tune the model on its own answers that the teacher finds right, in short trainings as they arrive.

    Args:
        weak: The model, and how it learns.
        desk: The teacher, as judge.
        questions: What is asked; `options.collect` at a time, each time of the newest adapter.
        adapter: The adapter that is gone on from.
        folder: The stage's.

    Returns:
        The tuned adapter; each question is either among its rows or rejected: `still_wrong` after all rounds,
        `no_judgement` (what the teacher said is none, which says nothing about the answer), `no_answer` (the teacher
        said nothing), `empty` (the model wrote nothing), a fault of the teacher's, or what `read_completion` finds.

    Raises:
        InputError: The teacher refuses the request itself.
    """
    options, learned = weak.options, Learned(adapter)
    waiting: dict[Question, str] = {}
    for start in range(0, len(questions), options.collect):
        waiting |= _settle(weak, desk, questions[start : start + options.collect], learned)
        done = min(start + options.collect, len(questions))
        while len(waiting) >= options.collect or (waiting and done == len(questions)):
            batch = dict(list(waiting.items())[: options.collect])
            waiting = {question: text for question, text in waiting.items() if question not in batch}
            place = folder / f"training-{learned.counts.get('trainings', 0):04d}"
            learned.adapter = tune(weak, batch, options.collect_epochs, learned.adapter, place)
            learned.count("trainings")
        weak.reporter.advance("refined: questions settled", done, len(questions))
    learned.count("rows", len(learned.rows))
    return learned


def _settle(weak: Weak, desk: Desk, questions: Sequence[Question], learned: Learned) -> dict[Question, str]:
    """Let the model answer some questions until they are right or given up; returns the right answers."""
    open_ = {question: weak.task.prompt(question.text) for question in questions}
    advice: dict[Question, str] = {}
    right: dict[Question, str] = {}
    for _ in range(weak.options.rounds):
        texts = write(weak, learned.adapter, list(open_.values()), weak.options.max_new_tokens)
        answers = {question: each.text.strip() for question, each in zip(open_, texts, strict=True)}
        verdicts = _judge(weak, desk, answers, learned)
        open_ = {}
        for question, verdict in verdicts.items():
            if not verdict.correct:
                open_[question] = weak.framed(advice_prompt(question.text, answers[question], verdict.advice))
                advice[question] = verdict.advice
                continue
            completion, reason = read_completion(weak, question.text, answers[question])
            if reason:
                learned.drop(question, reason, answers[question])
                continue
            right[question] = completion
            learned.count("right_after_advice" if question in advice else "right_at_once")
            learned.count("advice_named_the_answer", _names(weak, completion, advice.get(question, "")))
    for question in open_:
        learned.drop(question, "still_wrong", advice[question])
    learned.rows |= right
    return right


def _judge(weak: Weak, desk: Desk, answers: Mapping[Question, str], learned: Learned) -> dict[Question, Judgement]:
    """Ask the teacher about answers; one without a judgement is noted and left out."""
    for question in (question for question, text in answers.items() if not text):
        learned.drop(question, "empty")
    said = {question: text for question, text in answers.items() if text}
    how = Decoding(weak.options.max_judgement_tokens, seed=weak.options.seed)
    prompts = [judge_prompt(question.text, text) for question, text in said.items()]
    replies = desk.ask(prompts, how, partial(weak.reporter.advance, "refined: the teacher judges"))
    found: dict[Question, Judgement] = {}
    for question, reply in zip(said, replies, strict=True):
        verdict = None if reply.fault else read_judgement(reply.text)
        if verdict:
            found[question] = verdict
        else:
            learned.drop(question, *(fault_of(reply) if reply.fault else ("no_judgement", reply.text)))
    learned.count("judged", len(found))
    return found


def _names(weak: Weak, completion: str, advice: str) -> bool:
    """Say whether advice holds the answer that it was to leave open."""
    answer = weak.task.extract(completion)
    return bool(advice) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", advice) is not None


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, with what stands between prompt and completion."""

    prompt: str
    chosen: str
    rejected: str


def evolve(weak: Weak, questions: Sequence[Question], adapter: Path, folder: Path) -> Learned:
    """Tune the model to prefer its beam-search answer to its greedy answer, where they differ, by TRL's DPO.

    Nobody says which of them is right: whether this helps has to be measured.

    Args:
        weak: The model, and how it learns.
        questions: What is asked.
        adapter: The adapter that is gone on from, and the reference of DPO.
        folder: The stage's.

    Returns:
        The tuned adapter, the same where there is no pair; counts say how many answers were the same, did not come to
        an end or were not in the task's form.
    """
    options, learned = weak.options, Learned(adapter)
    prompts = [weak.task.prompt(question.text) for question in questions]
    greedy = write(weak, adapter, prompts, options.max_new_tokens)
    beams = write(weak, adapter, prompts, options.max_new_tokens, Search(beams=options.beams))
    pairs = []
    for question, prompt, plain, best in zip(questions, prompts, greedy, beams, strict=True):
        chosen, rejected = best.text.strip(), plain.text.strip()
        if chosen == rejected or not rejected:
            learned.count("same" if rejected else "empty")
        elif not best.ended:  # it would be taught to end where it was cut
            learned.count("unended")
        elif read_completion(weak, question.text, chosen)[1]:
            learned.count("not_in_form")
        else:
            pairs.append(Pair(prompt, weak.task.delimiter + chosen, weak.task.delimiter + rejected))
    learned.count("pairs", len(pairs))
    if pairs:
        inputs = {"pairs": digest([(each.prompt, each.chosen, each.rejected) for each in pairs]), "seed": options.seed,
                  "start": fingerprint(adapter)}  # fmt: skip
        learned.adapter = once(
            folder / "training", inputs, lambda place: prefer(weak, pairs, adapter, place / "adapter")
        )
    return learned


def prefer(weak: Weak, pairs: Sequence[Pair], adapter: Path, output: Path) -> str:
    """Run TRL's DPO over a LoRA, whose reference is a frozen copy that TRL makes of the adapter as it was.

    Args:
        weak: The model; its base is given back unchanged.
        pairs: What is preferred to what.
        adapter: The adapter before.
        output: Folder for the adapter after.

    Returns:
        The name of that folder.

    Raises:
        AdapterError: The adapter is no plain LoRA.
    """
    from peft import PeftType

    mode, use_cache = weak.base.training, weak.base.config.use_cache
    model: Any = load_adapter(weak.base, adapter, trained=True)
    try:
        if model.peft_config["default"].peft_type != PeftType.LORA:
            raise AdapterError("not_lora", f"{adapter}: 'evolved' tunes a plain LoRA; collapse this one first")
        trainer = _trainer(weak, model, pairs, output)
        trainer.train()
        # without the frozen copy, which TRL added under the name "ref"
        model.save_pretrained(str(output), selected_adapters=["default"])
    finally:
        model.unload()
        weak.base.train(mode)
        weak.base.config.use_cache = use_cache
    return output.name


def _trainer(weak: Weak, model: Any, pairs: Sequence[Pair], output: Path) -> Any:
    """Set up TRL's trainer; one reference pass a step, no checkpoints: it is one pass over few pairs."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    options, on_gpu = weak.options, torch.cuda.is_available()
    batch_size = min(options.batch_size, len(pairs))
    arguments = DPOConfig(
        output_dir=str(output),
        max_steps=steps(len(pairs), options.evolve_epochs, batch_size),
        per_device_train_batch_size=batch_size,
        learning_rate=options.evolve_learning_rate,
        lr_scheduler_type="cosine",
        beta=options.beta,
        max_length=options.max_length,
        activation_checkpointing=False,
        bf16=on_gpu and str(weak.base.dtype) == "torch.bfloat16",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    rows = Dataset.from_list(
        [{"prompt": each.prompt, "chosen": each.chosen, "rejected": each.rejected} for each in pairs]
    )
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=weak.tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer
