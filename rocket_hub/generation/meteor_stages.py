"""METEOR's stages. Each asks the questions, trains `adapter` further in `folder` and returns what was learned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rocket_hub.errors import NothingLeftError
from rocket_hub.generation.asking import TeacherClient
from rocket_hub.generation.prompts import (
    Judgement,
    advice_prompt,
    answer_prompt,
    guideline_prompt,
    judge_prompt,
    read_judgement,
)
from rocket_hub.generation.questions import Question
from rocket_hub.generation.student import Pair, Student
from rocket_hub.generation.teachers import AGAIN, Decoding, Reply
from rocket_hub.inference import Search
from rocket_hub.records import Rejection, reasons_in_words

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
    counts: Counter[str] = field(default_factory=Counter)

    def drop(self, question: Question, reason: str, detail: str = "") -> None:
        """Note that nothing is learned from a question."""
        self.rejected[question] = (reason, detail[:DETAIL])

    def drop_unanswered(self, question: Question, reply: Reply) -> None:
        """Note why there is no answer: what another run may mend by its own name, what lasts as `no_answer`."""
        self.drop(question, *((reply.fault, reply.detail) if reply.fault in OPEN else ("no_answer", reply.fault)))


def distil(
    student: Student, teacher: TeacherClient, questions: Sequence[Question], adapter: Path, folder: Path
) -> Learned:
    """Train the student on the teacher's answers.

    Returns:
        The trained adapter; each question is either among its rows or rejected: `no_answer`, a fault of the teacher's,
        or what `Student.read_completion` finds.
    """
    options, learned = student.options, Learned(adapter)
    guidelines = _guidelines(student, questions, adapter) if options.guideline else [""] * len(questions)
    learned.counts["guidelines"] = sum(map(bool, guidelines))
    prompts = [answer_prompt(each.text, guideline) for each, guideline in zip(questions, guidelines, strict=True)]
    how = Decoding(options.max_new_tokens, seed=options.seed)
    replies = teacher.ask(prompts, how, partial(student.reporter.advance, "distilled: the teacher answers"))
    for question, reply in zip(questions, replies, strict=True):
        if reply.fault:
            learned.drop_unanswered(question, reply)
            continue
        learned.counts["answered"] += 1
        completion, reason = student.read_completion(question.text, reply.text)
        if reason:
            learned.drop(question, reason, reply.text)
        else:
            learned.rows[question] = completion
    if not learned.rows:
        lost = reasons_in_words(Rejection("", reason) for reason, _ in learned.rejected.values())
        raise NothingLeftError(
            f"no answer of {teacher.teacher.name} can be learned from: {lost}; give another teacher, a larger budget "
            "or other questions (what got no answer is asked again, and nothing else)"
        )
    learned.counts["rows"] = len(learned.rows)
    learned.adapter = student.train(learned.rows, options.epochs, adapter, folder / "training")
    return learned


def _guidelines(student: Student, questions: Sequence[Question], adapter: Path) -> list[str]:
    """Let the student write guidelines; one that has an answer in the task's own form is none, and is left out."""
    prompts = [student.framed(guideline_prompt(question.text)) for question in questions]
    texts = student.write(adapter, prompts, student.options.max_guideline_tokens)
    mark = student.task.mark
    parts = [each.text.strip().partition("\n\n")[0] for each in texts]
    return ["" if mark and mark in part else part for part in parts]


def refine(
    student: Student, teacher: TeacherClient, questions: Sequence[Question], adapter: Path, folder: Path
) -> Learned:
    """Train the student on its own answers that the teacher finds right, in short trainings as they arrive.

    Returns:
        The trained adapter; each question is either among its rows or rejected: `still_wrong` after all rounds,
        `no_judgement` (what the teacher said is none, which says nothing about the answer), `no_answer` (the teacher
        said nothing), `empty` (the model wrote nothing), a fault of the teacher's, or what `Student.read_completion`
        finds.
    """
    options, learned = student.options, Learned(adapter)
    waiting: dict[Question, str] = {}
    for start in range(0, len(questions), options.collect):
        waiting |= _settle(student, teacher, questions[start : start + options.collect], learned)
        done = min(start + options.collect, len(questions))
        while len(waiting) >= options.collect or (waiting and done == len(questions)):
            batch = dict(list(waiting.items())[: options.collect])
            waiting = {question: text for question, text in waiting.items() if question not in batch}
            place = folder / f"training-{learned.counts['trainings']:04d}"
            learned.adapter = student.train(batch, options.collect_epochs, learned.adapter, place)
            learned.counts["trainings"] += 1
        student.reporter.advance("refined: questions settled", done, len(questions))
    learned.counts["rows"] = len(learned.rows)
    return learned


def _settle(
    student: Student, teacher: TeacherClient, questions: Sequence[Question], learned: Learned
) -> dict[Question, str]:
    """Let the student answer some questions until they are right or given up; return the right answers."""
    prompts = {question: student.task.prompt(question.text) for question in questions}
    advice: dict[Question, str] = {}
    right: dict[Question, str] = {}
    for _ in range(student.options.rounds):
        texts = student.write(learned.adapter, list(prompts.values()), student.options.max_new_tokens)
        answers = {question: each.text.strip() for question, each in zip(prompts, texts, strict=True)}
        prompts = {}
        for question, judgement in _judge(student, teacher, answers, learned).items():
            answer = answers[question]
            if not judgement.correct:
                prompts[question] = student.framed(advice_prompt(question.text, answer, judgement.advice))
                advice[question] = judgement.advice
                continue
            completion, reason = student.read_completion(question.text, answer)
            if reason:
                learned.drop(question, reason, answer)
                continue
            right[question] = completion
            learned.counts["right_after_advice" if question in advice else "right_at_once"] += 1
            learned.counts["advice_named_the_answer"] += _names(student, completion, advice.get(question, ""))
    for question in prompts:
        learned.drop(question, "still_wrong", advice[question])
    learned.rows |= right
    return right


def _judge(
    student: Student, teacher: TeacherClient, answers: Mapping[Question, str], learned: Learned
) -> dict[Question, Judgement]:
    """Ask the teacher about answers; one without a judgement is noted and left out."""
    for question in (question for question, text in answers.items() if not text):
        learned.drop(question, "empty")
    asked = {question: text for question, text in answers.items() if text}
    how = Decoding(student.options.max_judgement_tokens, seed=student.options.seed)
    prompts = [judge_prompt(question.text, text) for question, text in asked.items()]
    replies = teacher.ask(prompts, how, partial(student.reporter.advance, "refined: the teacher judges"))
    found: dict[Question, Judgement] = {}
    for question, reply in zip(asked, replies, strict=True):
        if reply.fault:
            learned.drop_unanswered(question, reply)
        elif judgement := read_judgement(reply.text):
            found[question] = judgement
        else:
            learned.drop(question, "no_judgement", reply.text)
    learned.counts["judged"] += len(found)
    return found


def _names(student: Student, completion: str, advice: str) -> bool:
    """Return whether advice holds the answer that it was to leave open."""
    answer = student.task.extract(completion)
    return bool(advice) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", advice) is not None


def evolve(student: Student, questions: Sequence[Question], adapter: Path, folder: Path) -> Learned:
    """Train the student to prefer its beam-search answer to its greedy answer, where they differ, by TRL's DPO.

    Nobody says which of them is right: whether this helps has to be measured.

    Returns:
        The trained adapter, the same where there is no pair; counts say how many answers were the same, did not come to
        an end or were not in the task's form.
    """
    options, learned = student.options, Learned(adapter)
    prompts = [student.task.prompt(question.text) for question in questions]
    greedy = student.write(adapter, prompts, options.max_new_tokens)
    beams = student.write(adapter, prompts, options.max_new_tokens, Search(beams=options.beams))
    pairs = []
    for question, prompt, plain, best in zip(questions, prompts, greedy, beams, strict=True):
        chosen, rejected = best.text.strip(), plain.text.strip()
        if chosen == rejected or not rejected:
            learned.counts["same" if rejected else "empty"] += 1
        elif not best.ended:  # it would be taught to end where it was cut
            learned.counts["unended"] += 1
        elif student.read_completion(question.text, chosen)[1]:
            learned.counts["not_in_form"] += 1
        else:
            pairs.append(Pair(prompt, student.task.delimiter + chosen, student.task.delimiter + rejected))
    learned.counts["pairs"] = len(pairs)
    if pairs:
        learned.adapter = student.prefer(pairs, adapter, folder / "training")
    return learned
