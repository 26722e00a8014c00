"""METEOR, stage 2: the model answers, the teacher judges and advises, and what is right is learned as it arrives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rocket_hub.generation.desk import Desk
from rocket_hub.generation.judging import Judgement, read_judgement
from rocket_hub.generation.learned import Learned, fault_of
from rocket_hub.generation.prompts import advice_prompt, judge_prompt
from rocket_hub.generation.teacher import Decoding
from rocket_hub.generation.weak import Weak, read_completion, tune, write
from rocket_hub.generation.writing import Question


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
