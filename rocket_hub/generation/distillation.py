"""METEOR, stage 1: the weak model says how a question is to be answered, the teacher answers, the weak model learns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rocket_hub.errors import NothingLeftError
from rocket_hub.generation.desk import Desk
from rocket_hub.generation.learned import Learned, fault_of
from rocket_hub.generation.prompts import answer_prompt, guideline_prompt
from rocket_hub.generation.teacher import Decoding
from rocket_hub.generation.weak import Weak, read_completion, tune, write
from rocket_hub.generation.writing import Question
from rocket_hub.records import Rejection, reasons_in_words


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
