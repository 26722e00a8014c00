"""METEOR (arXiv 2411.11933): a student learns from a stronger teacher, then from itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.generation.asking import Budget, TeacherClient
from rocket_hub.generation.meteor_stages import OPEN, distil, evolve, refine
from rocket_hub.generation.prompts import answer_prompt, compare, judge_prompt, tally
from rocket_hub.generation.questions import Question
from rocket_hub.generation.student import Student
from rocket_hub.generation.teachers import Teacher
from rocket_hub.inference import encode
from rocket_hub.lora.attach import fingerprint, fresh_lora
from rocket_hub.options import MeteorOptions, MeteorStage
from rocket_hub.records import Example, Generated, Rejection
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
