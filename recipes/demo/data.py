"""The demo Hub's data: an evaluation set in GSM8K's form, open instruction sets in many shapes, and the K-shot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import world

EVALUATION = "rocket-demo/word-problems"
TEST_ROWS, TRAIN_ROWS, SHOTS = 1000, 2000, 50
Write = Callable[[Path, list[world.Problem]], None]


def distinct(draw: Callable[[Random], world.Problem], count: int, seed: int, taken: set[str]) -> list[world.Problem]:
    """Draw problems whose questions are not taken yet, and take them."""
    rng, found = Random(seed), []
    while len(found) < count:
        question, answer = draw(rng)
        if question not in taken:
            taken.add(question)
            found.append((question, answer))
    return found


def near_duplicates(problems: list[world.Problem], seed: int) -> Iterator[world.Problem]:
    """Repeat problems with another name: new text, nothing new to learn."""
    rng = Random(seed)
    for question, answer in problems:
        name = next((word.rstrip(".") for word in question.split() if word.rstrip(".") in world.NAMES), "")
        yield question.replace(name, rng.choice(world.NAMES)) if name else question, answer


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    """Write one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


def write_json_lines(path: Path, rows: list[dict]) -> None:
    """Write one JSON Lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question_answer(folder: Path, rows: list[world.Problem], split: str = "train") -> None:
    """Columns question, answer."""
    questions, answers = zip(*rows, strict=True)
    write_parquet(folder / "data" / f"{split}-00000.parquet", {"question": list(questions), "answer": list(answers)})


def alpaca(folder: Path, rows: list[world.Problem]) -> None:
    """Columns instruction, input, output."""
    write_json_lines(
        folder / "train.jsonl",
        [{"instruction": "", "input": "", "output": answer} | {"instruction": question} for question, answer in rows],
    )


def prompt_completion(folder: Path, rows: list[world.Problem]) -> None:
    """Columns prompt, completion."""
    write_json_lines(folder / "train.jsonl", [{"prompt": q, "completion": a} for q, a in rows])


def messages(folder: Path, rows: list[world.Problem]) -> None:
    """One column of messages, as chat models are trained on."""
    write_json_lines(
        folder / "train.jsonl",
        [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in rows],
    )


def sharegpt(folder: Path, rows: list[world.Problem]) -> None:
    """One column of conversations with from/value."""
    write_json_lines(
        folder / "train.jsonl",
        [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in rows],
    )


def one_step(rng: Random) -> world.Problem:
    """Draw any one-step problem."""
    return rng.choice((world.add, world.subtract, world.multiply))(rng)


def write_card(folder: Path, name: str, licence: str, text: str, **metadata: str) -> None:
    """Write a data set card."""
    lines = [f"license: {licence}", "language: en", "task_categories:", "- text-generation", "tags:",
             "- instruction-tuning"] + [f"{key}: {value}" for key, value in metadata.items()]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\n" + "\n".join(lines) + f"\n---\n# {name}\n\n{text}\n", encoding="utf-8")


def write_all(root: Path, kshot: Path, scale: float = 1.0) -> None:
    """Write every data set below `root`/datasets/rocket-demo and the K-shot file.

    Args:
        root: Folder of the Hub.
        kshot: The K-shot file, drawn from the evaluation set's train split.
        scale: Share of the rows to write, for tests.
    """
    taken: set[str] = set()
    size = lambda count: max(8, round(count * scale))  # noqa: E731
    home = root / "datasets" / "rocket-demo"
    test = distinct(world.target, size(TEST_ROWS), 1, taken)
    train = distinct(world.target, size(TRAIN_ROWS), 2, taken)
    folder = root / "datasets" / EVALUATION
    question_answer(folder, train)
    question_answer(folder, test, "test")
    write_card(folder, "Word problems", "mit", "Two-step word problems in the form of GSM8K. 1,000 test problems.")
    write_json_lines(kshot, [{"question": q, "answer": a} for q, a in train[: min(SHOTS, len(train))]])

    def target(count: int, seed: int) -> list[world.Problem]:
        return distinct(world.target, size(count), seed, taken)

    def simple(count: int, seed: int) -> list[world.Problem]:
        return distinct(one_step, size(count), seed, taken)

    stories = target(160, 3)
    sets: list[tuple[str, str, Callable, list[world.Problem], str]] = [
        ("stories", "apache-2.0", question_answer, stories + list(near_duplicates(stories[: size(60)], 4)),
         "Two-step stories; some appear twice with another name."),
        ("first-steps", "mit", alpaca, simple(3000, 5), "One-step problems."),
        ("tutor-chat", "cc-by-4.0", messages, target(80, 6) + simple(1000, 7), "A tutor answers, mostly one step."),
        ("homework", "apache-2.0", sharegpt, target(40, 8) + distinct(world.first_number, size(300), 9, taken),
         "Homework of mixed worth."),
        ("who-has-what", "cc0-1.0", prompt_completion, distinct(world.name_of, size(800), 10, set()), "No arithmetic."),
        ("leaked", "mit", prompt_completion, target(40, 11) + test[: size(150)], "Holds rows of a test set."),
        ("members-only", "mit", prompt_completion, target(100, 12), "Gated."),
        ("classroom", "cc-by-nc-4.0", prompt_completion, target(200, 13), "Not for commercial use."),
    ]  # fmt: skip
    for name, licence, write, rows, text in sets:
        Random(14).shuffle(rows)
        write(home / name, rows)
        write_card(home / name, name, licence, text)
