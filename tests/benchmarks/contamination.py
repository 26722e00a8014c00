"""Recall on planted contamination, and false alarms: `python -m tests.benchmarks.contamination`.

Questions of six benchmarks of ../shared/data are planted as they are and in changed forms; what is found in rows where
nothing was planted is a leak of the published data or a false alarm.
"""

import random
import re
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import pyarrow.parquet as pq

from rocket_hub.records import Example
from rocket_hub.selection.decontamination import EvaluationIndex, Hit, normalise
from tests.benchmarks.measuring import SHARED, Bars, benchmark, print_bars

# BoolQ's validation split is not there, so as many of its last training questions stand in for it.
EVALUATED = {"gsm8k": "test", "mbpp": "test", "arc_challenge": "test", "arc_easy": "test", "piqa": "validation"}
STAND_IN = 3270
LEAST_RECALL, MOST_FALSE = 0.99, 0.001
_OTHER_SIGNS = str.maketrans({
    ".": "!", ",": ";", "?": "??", "'": "’", '"': "”", "-": "–", ":": " -", "(": "[", ")": "]",
})  # fmt: skip
Splits = dict[str, tuple[list["Problem"], list["Problem"]]]  # benchmark -> (evaluated, trained on)


@dataclass(frozen=True)
class Problem:
    """A problem as the data have it; `gold` is its whole answer."""

    question: str
    gold: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A training row, taken for a question of the evaluation set."""

    row: Example
    hit: Hit
    same: bool  # it is that question, so it is a leak of the published data and no false alarm


def signs(question: str, turn: int) -> str:
    """Change the punctuation: all signs taken out, all made spaces, or others put in."""
    if turn % 3 == 2:
        return question.translate(_OTHER_SIGNS)
    return question.translate(dict.fromkeys(map(ord, string.punctuation), " " if turn % 3 else None))


def embedded(question: str, turn: int) -> str:
    """Put the question between paragraphs, between sentences, or into quotation marks."""
    before, after = "Here is one from the quiz we did at school last week.", "It took me a while to see how it goes."
    frame = (f"{before}\n\n{question}\n\n{after}", f"{before} {question} {after}", f'{before} "{question}" {after}')
    return frame[turn % 3]


def other_numbers(question: str, turn: int) -> str:
    """Draw every number anew, with as many digits or one fewer."""
    draw = random.Random(turn)
    return re.sub(r"\b\d+", lambda found: str(draw.randint(2, max(10 ** len(found[0]) - 1, 9))), question)


def other_characters(question: str, turn: int) -> str:
    """Write wide letters, hard and doubled spaces, or zero-width spaces after letters."""
    if turn % 3 == 0:
        return "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalnum() else c for c in question)
    return question.replace(" ", "\u00a0 ") if turn % 3 == 1 else question.replace("e", "e\u200b")


CHANGES: dict[str, Callable[[str, int], str]] = {
    "verbatim": lambda question, turn: question,
    "lower case": lambda question, turn: question.lower(),
    "punctuation": signs,
    "embedded": embedded,
    "characters": other_characters,
    "numbers": other_numbers,
}
BARRED = ("verbatim", "lower case", "punctuation", "embedded")


def read(folder: Path, task: str, split: str) -> list[Problem]:
    rows = benchmark(task, split, folder)
    golds = (f"{row['rationale']}\n#### {row['answer']}" if row["rationale"] else row["answer"] for row in rows)
    return [Problem(row["question"], gold, tuple(row["choices"])) for row, gold in zip(rows, golds, strict=True)]


def splits(folder: Path) -> Splits:
    found = {task: (read(folder, task, split), read(folder, task, "train")) for task, split in EVALUATED.items()}
    boolq = read(folder, "boolq", "train")
    return found | {"boolq": (boolq[-STAND_IN:], boolq[:-STAND_IN])}


def instruction_rows(folder: Path) -> list[Example]:
    rows = []
    for path in sorted((folder / "instructions").glob("*.parquet")):
        for index, row in enumerate(pq.read_table(path, columns=["instruction", "input", "output"]).to_pylist()):
            prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
            rows.append(Example(prompt, row["output"] or "", source=path.stem, index=index))
    return rows


def recall(index: EvaluationIndex, problems: list[Problem], change: Callable[[str, int], str]) -> tuple[int, int, int]:
    """Plant changed problems; returns how many were planted, found for certain, and found for review only."""
    changed = [(problem, change(problem.question, turn)) for turn, problem in enumerate(problems)]
    if change is other_numbers:
        changed = [(problem, text) for problem, text in changed if text != problem.question]
    planted = [Example(text, problem.gold, source="planted", index=at) for at, (problem, text) in enumerate(changed)]
    hits = [index.find(row) for row in planted]
    certain = sum(bool(hit and hit.certain) for hit in hits)
    return len(changed), certain, sum(hit is not None for hit in hits) - certain


def alarms(index: EvaluationIndex, rows: Iterable[Example], golds: dict[str, str]) -> tuple[list[Found], int]:
    """Find the rows that are taken for evaluation questions; returns them, and how many more are for review."""
    hits = [(row, hit) for row in rows if (hit := index.find(row))]
    certain = [Found(row, hit, _same(row, hit, golds[hit.question])) for row, hit in hits if hit.certain]
    return certain, len(hits) - len(certain)


def _same(row: Example, hit: Hit, gold: str) -> bool:
    """Judge, apart from the rule under test, whether a row is the evaluation question.

    It is if their words are the same, or if it holds them or most of them in the same order and has the same answer.
    """
    text, question = (normalise(text).split() for text in (getattr(row, hit.place), hit.question))
    alike = hit.kind in ("whole", "inside") or SequenceMatcher(None, text, question, autojunk=False).ratio() >= 0.8
    return text == question or (alike and normalise(row.completion) == normalise(gold))


def _recall_bar(name: str, problems: list[Problem], index: EvaluationIndex, *, barred: bool = True) -> Bars:
    """Measure the recall of each kind of change for one task; changed numbers are only ever found for review."""
    counts = {kind: recall(index, problems, change) for kind, change in CHANGES.items()}
    shares = {kind: certain / max(planted, 1) for kind, (planted, certain, _) in counts.items() if kind != "numbers"}
    planted, certain, review = counts["numbers"]
    line = f"{name:<20}{len(problems):>7}" + "".join(f"{share:>12.4f}" for share in shares.values())
    line += f"{(certain + review) / max(planted, 1):>12.4f} of {planted}"
    return [(all(shares[kind] >= LEAST_RECALL for kind in BARRED) if barred else None, line)]


def _recall_bars(data: Splits) -> Bars:
    """Measure the recall for all tasks; PIQA's goals of one or two words can only be told by their solutions."""
    bars: Bars = [(None, f"{'planted':<20}{'n':>7}" + "".join(f"{kind:>12}" for kind in CHANGES))]
    for task, (problems, _) in data.items():
        index = EvaluationIndex(problem.question for problem in problems)
        bars += _recall_bar(task, problems, index, barred=task != "piqa")
    piqa = data["piqa"][0]
    solutions = [choice for problem in piqa for choice in problem.choices if len(normalise(choice).split()) > 2]
    tiny = sum(len(normalise(problem.question).split()) < 3 for problem in piqa)
    index = EvaluationIndex([*(problem.question for problem in piqa), *solutions])
    return [*bars, (None, f"  ({tiny} goals of one or two words)"), *_recall_bar("piqa + solutions", piqa, index)]


def _alarm_bar(name: str, rows: list[Example], found: list[Found], review: int, *, barred: bool = True) -> Bars:
    wrong = sum(not entry.same for entry in found)
    rate = wrong / len(rows)
    line = f"{name:<20}{len(rows):>9,}{len(found) - wrong:>9}{wrong:>9}{rate:>12.5f}{review:>9}"
    return [(rate <= MOST_FALSE if barred else None, line)]


def _hit(entry: Found) -> list[str]:
    """Show a hit that is not simply the same text."""
    text = getattr(entry.row, entry.hit.place)
    if normalise(text) == normalise(entry.hit.question):
        return []
    mark = "same question" if entry.same else "FALSE"
    ends = (("row     ", text), ("question", entry.hit.question))
    return [f"  {entry.row.source}#{entry.row.index} {entry.hit.kind} {entry.hit.overlap:.2f}: {mark}",
            *(f"      {name}  ...{' '.join(each.split())[-110:]}" for name, each in ends)]  # fmt: skip


def _alarm_bars(data: Splits, rows: list[Example]) -> Bars:
    """Search the train splits for their own evaluation questions, and the instruction sets for all."""
    heads = f"{'rows':>9}{'leaks':>9}{'false':>9}{'false/rows':>12}{'review':>9}"
    bars: Bars = [(None, ""), (None, f"{'nothing planted':<20}{heads}")]
    every: list[Found] = []
    trained: list[Example] = []
    reviews = 0
    for task, (problems, training) in data.items():
        golds = {problem.question: problem.gold for problem in problems}
        split = [Example(each.question, each.gold, source=f"{task} train", index=i) for i, each in enumerate(training)]
        found, review = alarms(EvaluationIndex(golds), split, golds)
        bars += _alarm_bar(f"{task} train", split, found, review, barred=False)
        every, trained, reviews = every + found, trained + split, reviews + review
    bars += _alarm_bar("all train splits", trained, every, reviews)
    golds = {problem.question: problem.gold for problems, _ in data.values() for problem in problems}
    before = time.process_time()
    found, review = alarms(EvaluationIndex(golds), rows, golds)
    seconds = time.process_time() - before
    bars += _alarm_bar("instruction sets", rows, found, review)
    leaks = dict(Counter(entry.row.source for entry in found if entry.same))
    lines = [f"leaks in the instruction sets: {leaks}", "", "hits that are not the same text", ""]
    lines += [line for entry in [*every, *found] for line in _hit(entry)]
    lines += ["", f"{len(rows):,} rows against {len(golds):,} questions: {seconds:.1f} s of processor time"]
    return [*bars, *((None, line) for line in lines)]


def report(folder: Path = SHARED) -> Bars:
    """Measure recall and false alarms; lines without a bar are for reading."""
    start = time.process_time()
    data = splits(folder)
    bars = _recall_bars(data) + _alarm_bars(data, instruction_rows(folder))
    return [*bars, (None, f"all of this: {time.process_time() - start:.1f} s")]


if __name__ == "__main__":
    sys.exit(print_bars(report()))
