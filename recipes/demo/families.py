"""The demo Hub's other task families: an evaluation set in each benchmark's own columns, open sets, and a K-shot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import data
import forms
import prices
import world
from data import question_answer, write_card, write_json_lines, write_parquet

from rocket_hub.records import Example
from rocket_hub.tasks import get_task

TEST_ROWS, TRAIN_ROWS, SHOTS = 1000, 300, 50
TARGET_ROWS, SIMPLE_ROWS = 160, 1200  # in an open set


@dataclass(frozen=True)
class Family:
    """One task of the demo Hub.

    Attributes:
        task: Name of the task.
        evaluation: Name of its evaluation set.
        target: Draws its problems.
        simple: Draws what its open sets mostly hold.
        text: One sentence for the cards.
    """

    task: str
    evaluation: str
    target: forms.Draw
    simple: tuple[forms.Draw, ...]
    text: str


def _options(*problems: Callable[[Random], world.Problem]) -> tuple[forms.Draw, ...]:
    return tuple(forms.options(problem) for problem in problems)


FAMILIES = (
    Family("arc_easy", "options-easy", forms.easy, (forms.pick, *_options(world.add)),
           "One step, four options, in the form of ARC."),
    Family("arc_challenge", "options-hard", forms.hard, _options(world.add, world.subtract, world.multiply),
           "Two steps, four options, in the form of ARC."),
    Family("piqa", "two-ways", forms.ways, (forms.climb,), "A goal and two ways, in the form of PIQA."),
    Family("boolq", "who-has-more", forms.compared, (forms.compare,), "A passage, yes or no, in the form of BoolQ."),
    Family("mbpp", "small-programs", forms.two_step_program, tuple(map(forms.one_step_program, "+-*")),
           "Functions of two steps with tests, in the form of MBPP."),
)  # fmt: skip


def native(row: forms.Row) -> dict[str, Any]:
    """Bring a row into the columns of the benchmark that it imitates."""
    if "code" in row:
        return {"text": row["text"], "code": row["code"], "test_list": row["test_list"], "test_setup_code": ""}
    if "passage" in row:
        return {"passage": row["passage"], "question": row["question"], "answer": row["answer"]}
    if len(row["options"]) == 2:
        first, second = row["options"]
        return {"goal": row["question"], "sol1": first, "sol2": second, "label": row["answer"]}
    labels = list(forms.LETTERS)
    return {"question": row["question"], "choices": {"text": row["options"], "label": labels},
            "answerKey": labels[row["answer"]]}  # fmt: skip


def distinct(draws: tuple[forms.Draw, ...], count: int, seed: int, taken: set[str]) -> list[forms.Row]:
    """Draw rows that are not taken yet, and take them."""
    rng, found = Random(seed), []
    while len(found) < count:
        row = rng.choice(draws)(rng)
        if (key := str(native(row))) not in taken:
            taken.add(key)
            found.append(row)
    return found


def solved(task: str, row: forms.Row) -> dict[str, str]:
    """Write a row as a question and its worked answer, options included."""
    form = get_task(task)
    example: Example = form.example(forms.raw(row))
    before, _, after = form.prompt("\0").partition("\0")
    return {
        "prompt": example.prompt.removeprefix(before).removesuffix(after),
        "completion": example.completion.removesuffix("[DONE]").strip(),
    }


def write_families(root: Path, kshots: Path, scale: float = 1.0) -> None:
    """Write evaluation sets, open sets and K-shot files of all families.

    Args:
        root: Folder of the Hub.
        kshots: Folder of the K-shot files, drawn from the evaluation sets' train splits.
        scale: Share of the rows to write, for tests.
    """
    home = root / "datasets" / "rocket-demo"
    size = lambda count: max(8, round(count * scale))  # noqa: E731
    for number, family in enumerate(FAMILIES):
        taken: set[str] = set()
        seed = 100 * (number + 1)
        test, train = (
            distinct((family.target,), size(n), seed + i, taken) for i, n in enumerate((TEST_ROWS, TRAIN_ROWS))
        )
        for split, rows in (("test", test), ("train", train)):
            table = [native(row) for row in rows]
            write_parquet(home / family.evaluation / "data" / f"{split}-00000.parquet",
                          {column: [row[column] for row in table] for column in table[0]})  # fmt: skip
        write_card(home / family.evaluation, family.evaluation, "mit", family.text)
        write_json_lines(kshots / f"kshot_{family.task}.jsonl", [solved(family.task, row) for row in train[:SHOTS]])
        rows = distinct((family.target,), size(TARGET_ROWS), seed + 2, taken)
        rows += distinct(family.simple, size(SIMPLE_ROWS), seed + 3, taken)
        Random(seed).shuffle(rows)
        name = f"{family.evaluation}-practice"
        write_json_lines(home / name / "train.jsonl", [solved(family.task, row) for row in rows])
        write_card(home / name, name, "apache-2.0", f"Practice: {family.text} Mostly easier.")
    _write_prices(home, kshots, size)


def _write_prices(home: Path, kshots: Path, size: Callable[[int], int]) -> None:
    """Write the family that has seeds and pages, but no open set."""
    taken: set[str] = set()
    test, train = (data.distinct(prices.problem, size(n), 90 + i, taken) for i, n in enumerate((TEST_ROWS, TRAIN_ROWS)))
    question_answer(home / "shop-prices", test, "test")
    question_answer(home / "shop-prices", train)
    write_card(home / "shop-prices", "shop-prices", "mit", "What goods cost; the shop's pages tell.")
    write_json_lines(kshots / "kshot_prices.jsonl", [{"question": q, "answer": a} for q, a in train[:SHOTS]])
    write_json_lines(home / "shop-pages" / "train.jsonl", [{"text": page} for page in prices.pages()])
    write_card(home / "shop-pages", "shop-pages", "cc0-1.0", "The pages of a shop: plain text, no instructions.")
