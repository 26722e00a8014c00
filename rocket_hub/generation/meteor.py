"""METEOR (arXiv 2411.11933): a student learns from a stronger teacher, then from itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.generation.prompts import (
    Judgement,
    advice_prompt,
    answer_prompt,
    compare,
    guideline_prompt,
    judge_prompt,
    read_judgement,
    tally,
)
from rocket_hub.generation.questions import Question
from rocket_hub.generation.student import Pair, Student
from rocket_hub.generation.teachers import AGAIN, Budget, Decoding, Reply, Teacher, TeacherClient
from rocket_hub.inference import Search, encode
from rocket_hub.lora.attach import fingerprint, fresh_lora
from rocket_hub.options import MeteorOptions, MeteorStage
from rocket_hub.records import Example, Generated, Rejection, reasons_in_words
from rocket_hub.runs import KeptResults, Reporter, RunFolder, Silent, digest, read_json
from rocket_hub.serialization import check
from rocket_hub.tasks import Task

STAGES = get_args(MeteorStage)
SOURCE = "generated:meteor"
SHARED = ("max_new_tokens", "batch_size", "max_length", "seed")
USED = {
    "distilled": ("guideline", "max_guideline_tokens", "learning_rate", "epochs"),
    "refined": ("rounds", "collect", "max_judgement_tokens", "learning_rate", "collect_epochs"),
    "evolved": ("beams", "beta", "evolve_learning_rate", "evolve_epochs"),
}
"""Options that a stage depends on."""


@dataclass(frozen=True)
class Meteor:
    """What METEOR made.

    Attributes:
        generated: The rows that were learned: the teacher's answers and the model's own that it found right.
        adapters: Folder of the adapter after each stage that was run, by the stage's name.
        counts: How many there were at each step, by stage; `compared` is what the judge said.
        bill: What the teacher cost in this folder, all runs together; `cached` is this run's; `judge`: what the judge
            cost.
    """

    generated: Generated
    adapters: dict[str, str]
    counts: dict[str, dict[str, int]]
    bill: dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """What a teacher is asked at most, each call answered at the first attempt."""

    calls: int  # calls
    tokens: int  # tokens in and out, as the student's tokenizer counts them


def meteor(
    base: Any,
    tokenizer: Any,
    task: Task,
    questions: Sequence[str],
    adapter: Path | None,
    teacher: Teacher,
    options: MeteorOptions,
    *,
    folder: Path,
    budget: Budget,
    maker: str,
    judge: Teacher | None = None,
    progress: Reporter | None = None,
) -> Meteor:
    """Teach a model with a stronger one.

    What an earlier run in the same folder finished from the same inputs is kept, the teacher is asked nothing twice,
    and a stage that lost questions to an outage or to the budget is tried again.

    Args:
        base: The model that learns, without an adapter; given back unchanged.
        tokenizer: Its tokenizer.
        task: The task.
        questions: Bare questions, as the task's own data has them.
        adapter: LoRA to continue from; none = a fresh one.
        teacher: The stronger model.
        options: Stages and sizes.
        folder: Where everything is kept.
        budget: What the teacher may cost, all runs in this folder together.
        maker: Who wrote the rows, for the card.
        judge: Compares the answers after the last stage with those before the first, within as large a budget.
        progress: Receives progress; none = no output.

    Raises:
        RecipeError: An option means nothing.
        NothingLeftError: No question can be asked, or no answer be learned from.
        InputError: The teacher refuses the request itself, or is the judge.
        StorageError: The folder cannot be written.
    """
    check(options, "meteor")
    if judge and judge.name == teacher.name:
        raise InputError(f"the judge is the teacher, {judge.name}: it finds right what it taught; give another one")
    reporter, texts = progress or Silent(), KeptResults(folder / "texts.jsonl")
    student = Student(base, tokenizer, task.for_model(tokenizer), options, texts, reporter)
    kept, rejected = usable(student, questions)
    client, run = TeacherClient(teacher, folder, budget), RunFolder(folder, reporter)
    at = start = adapter or _start(run, student)
    results: dict[str, Any] = {}
    for name in (name for name in STAGES if name in options.stages):
        results[name] = _stage(run, name, student, client, kept, at)
        at = run.absolute(results[name]["adapter"])
    counts = {"questions": {"given": len(questions), "asked": len(kept)}}
    counts |= {name: found["counts"] for name, found in results.items()}
    bill = client.bill.to_plain()
    if judge:
        client = TeacherClient(judge, folder / "judge", budget)
        counts["compared"], bill["judge"] = _compared(student, client, kept, start, at), client.bill.to_plain()
    adapters = {name: str(run.absolute(found["adapter"])) for name, found in results.items()}
    return Meteor(_generated(maker, kept, rejected, results, counts, bill), adapters, counts, bill)


def cost(tokenizer: Any, questions: Sequence[str], options: MeteorOptions) -> Cost:
    """Return what a teacher will be asked at most; failed attempts come on top, and count in the budget."""
    answer, judgement = options.max_new_tokens, options.max_judgement_tokens
    guideline = options.max_guideline_tokens if options.guideline else 0
    asked = [len(encode(tokenizer, answer_prompt(text, "x"), "")[0]) + guideline + answer for text in questions]
    judged = [len(encode(tokenizer, judge_prompt(text, ""), "")[0]) + answer + judgement for text in questions]
    distilled, refined = "distilled" in options.stages, options.rounds * ("refined" in options.stages)
    return Cost(distilled * len(asked) + refined * len(judged), distilled * sum(asked) + refined * sum(judged))


def usable(student: Student, questions: Sequence[str]) -> tuple[list[Question], list[Rejection]]:
    """Take the questions that can be asked, and reject the others."""
    kept: dict[str, Question] = {}
    rejected = []
    for index, given in enumerate(questions):
        text = given.strip()
        reason = "empty" if not text else "duplicate" if text in kept else ""
        if not reason and student.has_control_tokens(text):
            reason = "control_tokens"
        elif not reason and not student.fits(student.task.prompt(text)):
            reason = "too_long"
        if reason:
            rejected.append(Rejection(f"questions#{index}", reason))
        else:
            kept[text] = Question(index, text)
    if not kept:
        raise NothingLeftError(f"none of {len(questions)} questions can be asked; give texts that are not empty")
    return list(kept.values()), rejected


def _start(run: RunFolder, student: Student) -> Path:
    """Write the fresh LoRA that is trained further."""
    options = student.options
    shape = {"rank": options.rank, "alpha": options.alpha, "targets": options.targets, "seed": options.seed}

    def make(place: Path) -> str:
        return run.relative(fresh_lora(student.base, place / "adapter", **shape))  # type: ignore[arg-type]

    return run.absolute(run.stage("start", shape, make))


def _stage(
    run: RunFolder, name: str, student: Student, teacher: TeacherClient, questions: Sequence[Question], start: Path
) -> dict[str, Any]:
    """Run one stage, unless an earlier run did and left nothing that another may mend."""
    done = read_json(run.path / name / "result.json")
    if done and any(reason in OPEN for _, reason, _ in done["result"]["rejected"]):
        (run.path / name / "result.json").unlink()
    learn = {"distilled": partial(distil, student, teacher), "refined": partial(refine, student, teacher),
             "evolved": partial(evolve, student)}[name]  # fmt: skip
    used = {key: value for key, value in asdict(student.options).items() if key in (*SHARED, *USED[name])}
    asked = {} if name == "evolved" else {"teacher": teacher.teacher.name}
    inputs = {"questions": digest([asdict(each) for each in questions]), "start": fingerprint(start), **asked,
              "base": student.base.name_or_path, "task": student.task.name, **used}  # fmt: skip

    def make(place: Path) -> dict[str, Any]:
        learned = learn(questions, start, place)
        return {
            "adapter": run.relative(learned.adapter),
            "rows": [[question.number, text] for question, text in learned.rows.items()],
            "rejected": [[question.number, *why] for question, why in learned.rejected.items()],
            "counts": learned.counts,
        }

    found: dict[str, Any] = run.stage(name, inputs, make)
    return found


def _compared(
    student: Student, judge: TeacherClient, questions: Sequence[Question], before: Path, after: Path
) -> dict[str, int]:
    """Let the judge compare the student's answers after all stages with those before; see `tally`."""
    prompts = [student.task.prompt(question.text) for question in questions]
    answers, others = ([each.text for each in student.write(adapter, prompts, student.options.max_new_tokens)]
                       for adapter in (after, before))  # fmt: skip
    return tally(compare(judge, [question.text for question in questions], answers, others))


def _generated(
    maker: str, questions: Sequence[Question], rejected: list[Rejection], results: dict[str, Any],
    counts: dict[str, dict[str, int]], bill: dict[str, Any],
) -> Generated:  # fmt: skip
    """Put the rows of the stages together, each once, and all rejections."""
    texts = {question.number: question.text for question in questions}
    found = dict.fromkeys((index, text) for result in results.values() for index, text in result["rows"])
    rows = tuple(Example(texts[index], text, source=SOURCE, index=at) for at, (index, text) in enumerate(found))
    for name, result in results.items():
        rejected += [Rejection(f"{name}#{index}", *why) for index, *why in result["rejected"]]
    flat = {f"{stage}_{name}": count for stage, part in counts.items() for name, count in part.items()}
    return Generated("meteor", maker, rows, tuple(rejected), flat, bill)


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
