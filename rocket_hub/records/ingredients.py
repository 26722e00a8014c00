"""What is taken in: examples, rows, pinned repositories, and why something is not taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One human-verified example of the task.

    Attributes:
        prompt: What the model is given, already in the task's form.
        completion: What it should write: rationale, then answer, in the task's form.
        answer: The answer alone, as the task's metric compares it.
        rationale: The reasoning before the answer; empty where the example has none.
        choices: Texts of the options of a multiple-choice question, in the order of their letters.
        tests: Python statements that raise where a program is wrong; only for tasks whose answer is a program.
    """

    prompt: str
    completion: str
    answer: str
    rationale: str = ""
    choices: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row of instruction data, in TRL's column names.

    Attributes:
        prompt: The instruction with its input.
        completion: The response.
        source: Repository id of the data set.
        index: Position of the row in its data set, from 0.
    """

    prompt: str
    completion: str
    source: str
    index: int


@dataclass(frozen=True)
class Pinned:
    """A repository at one commit.

    Attributes:
        repo_id: `namespace/name`.
        revision: The 40-digit commit hash.
        kind: `model` or `dataset`.
        licence: What its card declares; empty when it declares nothing.
    """

    repo_id: str
    revision: str
    kind: str = "model"
    licence: str = ""


@dataclass(frozen=True)
class Rejection:
    """Something that was looked at and not taken.

    Attributes:
        item: Repository id, or `source#index` for a row.
        reason: One word that names the fault, for example `rank_mismatch`.
        detail: What was found.
    """

    item: str
    reason: str
    detail: str = ""


def count_reasons(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Count rejections per reason, most frequent first."""
    return dict(Counter(rejection.reason for rejection in rejected).most_common())


def reasons_in_words(rejected: Iterable[Rejection]) -> str:
    """Write the counts per reason for a table or a card, for example `2 gated, 1 dora`."""
    return ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items()) or "none"
