"""Keep rows on disk, and reject those that may not be taken, each with a reason."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from rocket_hub.errors import StorageError
from rocket_hub.records import Example, Rejection
from rocket_hub.selection.decontamination import EvaluationIndex
from rocket_hub.selection.embeddings import KEYS, text_key, text_of
from rocket_hub.selection.filters import ExactDuplicates, Limits, fault_of, row_name, too_long

_ERRORS = "surrogatepass"  # half a surrogate pair, which JSON may hold, is kept as it is


class Pool(Sequence[Example]):
    """Rows in a temporary file, read again by position or from the start; 32 bytes of memory a row.

    The file has no name, so that nothing of it is left however the process ends. To be used in a `with` statement.

    Args:
        rows: Read once, to the end.
        folder: Where the file is; none = the system's folder for temporary files.

    Raises:
        StorageError: There is no room.
    """

    def __init__(self, rows: Iterable[Example], folder: Path | None = None) -> None:
        self._stops, self._middles = array("Q", [0]), array("Q")  # where a row ends, and where its completion begins
        self._sources: dict[str, int] = {}
        self._owners, self._indices = array("Q"), array("Q")
        with _room(folder):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115  closed by `__exit__`
        try:
            for row in rows:
                prompt, completion = row.prompt.encode("utf-8", _ERRORS), row.completion.encode("utf-8", _ERRORS)
                self._middles.append(self._stops[-1] + len(prompt))
                self._stops.append(self._middles[-1] + len(completion))
                self._owners.append(self._sources.setdefault(row.source, len(self._sources)))
                self._indices.append(row.index)
                with _room(folder):
                    self._file.write(prompt + completion)
            with _room(folder):
                self._file.flush()
        except BaseException:
            self.__exit__()
            raise
        self._names = list(self._sources)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk, which the write itself has reported
            self._file.close()

    def __len__(self) -> int:
        return len(self._middles)

    def __getitem__(self, position: Any) -> Any:
        place = range(len(self))[position]  # negative ones count from the end, others may be out of range
        start, middle, stop = self._stops[place], self._middles[place], self._stops[place + 1]
        data = os.pread(self._file.fileno(), stop - start, start)
        prompt, completion = data[: middle - start].decode("utf-8", _ERRORS), data[middle - start :]
        return Example(
            prompt,
            completion.decode("utf-8", _ERRORS),
            source=self._names[self._owners[place]],
            index=self._indices[place],
        )


@contextmanager
def _room(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = folder or "the folder for temporary files"
        raise StorageError(f"{where}: rows cannot be kept: {error.strerror or error}; free some space") from error


@dataclass(frozen=True)
class Survey:
    """The faults of all rows."""

    faults: dict[int, Rejection]  # position -> why this row is rejected, ascending
    doubts: dict[int, Rejection]  # position -> what a person should look at in a usable row
    usable: np.ndarray  # positions of the rows without a fault, ascending
    keys: np.ndarray  # the hashes of their texts, in the same order
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
) -> Survey:
    """Find the rows that may not be taken; arguments as of `select_instructions`, the rows are read once.

    In this order: `too_long`; `contaminated`, the row holds an evaluation question; `duplicate_of_kshot`, it holds a
    shot's question word by word (one that is like it is welcome); the other filters of `fault_of`; the reasons of
    `refuse`; `duplicate_of`, an equal row came before, in whichever data set. Without `limits` the defaults hold.
    """
    check, equal = _checker(shots, evaluation_questions, limits or Limits()), ExactDuplicates()
    sources: dict[str, int] = {}
    owners, usable, keys = array("q"), array("q"), bytearray()
    faults: dict[int, Rejection] = {}
    doubts: dict[int, Rejection] = {}
    for position, row in enumerate(rows):
        owners.append(sources.setdefault(row.source, len(sources)))
        fault, doubt = check(row)
        if not fault and refuse and (reason := refuse(row)):
            fault = Rejection(row_name(row), reason)
        if fault := fault or equal.fault_of(row):
            faults[position] = fault
            continue
        usable.append(position)
        keys += text_key(text_of(row))
        if doubt:
            doubts[position] = doubt
    hashes = np.frombuffer(bytes(keys), KEYS)
    return Survey(faults, doubts, np.asarray(usable), hashes, tuple(sources), np.asarray(owners))


def _checker(
    shots: Sequence[Example], evaluation_questions: Collection[str], limits: Limits
) -> Callable[[Example], tuple[Rejection | None, Rejection | None]]:
    """Return a function that finds the fault of a row, or else the doubt about it."""
    asked = dict.fromkeys(evaluation_questions, "contaminated")
    for shot in shots:
        asked.setdefault(shot.prompt, "duplicate_of_kshot")
    counted = replace(limits, max_tokens=None)  # tokens are counted once, before all else, as that is quick

    @cache
    def index(*reasons: str) -> EvaluationIndex:
        return EvaluationIndex(question for question, reason in asked.items() if reason in reasons)

    def check(row: Example) -> tuple[Rejection | None, Rejection | None]:
        if detail := too_long(row, limits):
            return Rejection(row_name(row), "too_long", detail), None
        # One index for both: the words of a row are what takes time.
        hit = index("contaminated", "duplicate_of_kshot").find(row)
        if hit and asked[hit.question] == "duplicate_of_kshot" and hit.kind not in ("whole", "inside"):
            hit = index("contaminated").find(row)
        if hit and hit.certain:
            return Rejection(row_name(row), asked[hit.question], hit.question), None
        fault = fault_of(row, counted)
        return fault, Rejection(row_name(row), hit.kind, hit.question) if hit and not fault else None

    return check
