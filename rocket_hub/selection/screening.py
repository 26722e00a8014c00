"""The rows that may not be taken, whatever they are like, each with its reason; all in one reading."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from rocket_hub.records import Example, Rejection
from rocket_hub.selection.decontamination import EvaluationIndex
from rocket_hub.selection.embeddings import KEYS, keys_of, text_key, text_of
from rocket_hub.selection.filters import ExactDuplicates, Limits, fault_of, too_long
from rocket_hub.selection.known import KnownSound, row_key

_BLOCK = 8192


@dataclass(frozen=True)
class Survey:
    """What was found when all rows were read.

    Attributes:
        faults: Position -> why this row may not be taken, ascending.
        doubts: Position -> what of a usable row a person should look at.
        usable: Positions of the rows without a fault, ascending.
        keys: The hashes of their texts, in the same order.
    """

    faults: dict[int, Rejection]
    doubts: dict[int, Rejection]
    usable: np.ndarray
    keys: np.ndarray
    _sources: tuple[str, ...]
    _owners: np.ndarray  # of each row, the position of its data set in `_sources`

    def counts(self, fates: np.ndarray) -> dict[str, dict[str, int]]:
        """Account for every row.

        Args:
            fates: What became of each usable row, in a word.

        Returns:
            Data set -> `read`, `chosen` and every reason -> rows; the numbers after `read` sum up to it.
        """
        counted = Counter(zip(self._owners[self.usable].tolist(), fates.tolist(), strict=True))
        counted.update((int(self._owners[position]), fault.reason) for position, fault in self.faults.items())
        read = np.bincount(self._owners, minlength=len(self._sources))
        table = {source: {"read": int(count)} for source, count in zip(self._sources, read, strict=True)}
        for (owner, fate), count in sorted(counted.items(), key=lambda entry: (entry[0][1] != "chosen", -entry[1])):
            table[self._sources[owner]][fate] = count
        return table


def survey(
    rows: Iterable[Example],
    shots: Sequence[Example],
    evaluation_questions: Collection[str] = (),
    *,
    refuse: Callable[[Example], str] | None = None,
    limits: Limits | None = None,
    folder: Path | None = None,
) -> Survey:
    """Find the rows that may not be taken.

    In this order: `too_long`; `contaminated`, the row holds an evaluation question; `duplicate_of_kshot`, it holds a
    shot's question word by word (one that is like it is welcome); what else `quality.fault_of` says; what `refuse`
    says; `duplicate_of`, it is there already, in whichever data set.

    Args:
        rows: Candidates from all data sets; read once.
        shots: The K-shot as read.
        evaluation_questions: Bare questions that no training row may hold.
        refuse: The caller's own gate: names the reason why a row may not be taken, or says nothing.
        limits: What rows have to keep to; none = the defaults.
        folder: Where the rows that are known to be sound are remembered; none = nowhere.

    Returns:
        The survey.
    """
    limits = limits or Limits()
    judge, rules = _judge(shots, evaluation_questions, replace(limits, max_tokens=None))
    sound, equal = KnownSound(folder, rules), ExactDuplicates()
    sources: dict[str, int] = {}
    owners, usable, keys = array("q"), array("q"), bytearray()
    faults: dict[int, Rejection] = {}
    doubts: dict[int, Rejection] = {}
    rest = iter(rows)
    while block := list(islice(rest, _BLOCK)):
        names = keys_of([row_key(row) for row in block])
        known = sound.among(names)
        passed = np.zeros(len(block), dtype=bool)
        for i, row in enumerate(block):
            fault, doubt = _too_long(row, limits), None
            if not fault and not known[i]:
                fault, doubt = judge(row)
                passed[i] = not (fault or doubt)
            fault = fault or _refused(row, refuse) or equal.fault_of(row)
            position = len(owners)
            owners.append(sources.setdefault(row.source, len(sources)))
            if fault:
                faults[position] = fault
                continue
            usable.append(position)
            keys += text_key(text_of(row))
            if doubt:
                doubts[position] = doubt
        sound.add(names[passed])
    sound.save()
    hashes = np.frombuffer(bytes(keys), KEYS)
    return Survey(faults, doubts, np.asarray(usable), hashes, tuple(sources), np.asarray(owners))


def row_name(row: Example) -> str:
    """Name a row as rejections do."""
    return f"{row.source}#{row.index}"


def _too_long(row: Example, limits: Limits) -> Rejection | None:
    """Ask this gate first, as the others read the whole row, and every time, as it may count tokens with anything."""
    detail = too_long(row, limits)
    return Rejection(row_name(row), "too_long", detail) if detail else None


def _refused(row: Example, refuse: Callable[[Example], str] | None) -> Rejection | None:
    """Ask the caller's gate; what it says cannot be remembered either."""
    reason = refuse(row) if refuse else ""
    return Rejection(row_name(row), reason) if reason else None


def _judge(
    shots: Sequence[Example], evaluation_questions: Collection[str], limits: Limits
) -> tuple[Callable[[Example], tuple[Rejection | None, Rejection | None]], list[str]]:
    """Return what says the fault of a row, or else the doubt about it; and what that depends on."""
    asked = dict.fromkeys(evaluation_questions, "contaminated")
    for shot in shots:
        asked.setdefault(shot.prompt, "duplicate_of_kshot")

    @cache
    def index(*reasons: str) -> EvaluationIndex:
        return EvaluationIndex(question for question, reason in asked.items() if reason in reasons)

    def judge(row: Example) -> tuple[Rejection | None, Rejection | None]:
        # One index for both: the words of a row are what takes time.
        hit = index("contaminated", "duplicate_of_kshot").find(row)
        if hit and asked[hit.question] == "duplicate_of_kshot" and hit.kind not in ("whole", "inside"):
            hit = index("contaminated").find(row)
        if hit and hit.certain:
            return Rejection(row_name(row), asked[hit.question], hit.question), None
        fault = fault_of(row, limits)
        return fault, Rejection(row_name(row), hit.kind, hit.question) if hit and not fault else None

    return judge, [*asked, *asked.values(), repr(limits.languages), str(limits.max_characters)]
