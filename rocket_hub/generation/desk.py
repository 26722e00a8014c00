"""Where a teacher is asked, whatever the stage: one cache, one budget, and one bill that outlives a killed run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import sleep

from rocket_hub.generation.asking import AnswerCache, Bill, Budget, ask
from rocket_hub.generation.teacher import Decoding, Reply, Teacher
from rocket_hub.runs import KeptResults


class KeptBill(Bill):
    """A bill that goes on where an earlier run's stopped; `cached` alone is this run's.

    Args:
        path: File with a line for each attempt.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._kept = KeptResults(path)
        for entry in self._kept.known.values():
            super().add(Reply(**entry))

    def add(self, reply: Reply) -> None:
        """Note one attempt; it is on disk when this returns."""
        super().add(reply)
        self._kept.add({str(self.calls): asdict(replace(reply, text="", detail=""))})


@dataclass(frozen=True)
class Desk:
    """A teacher, what it may cost, and what it has said and cost so far."""

    teacher: Teacher
    cache: AnswerCache
    bill: KeptBill
    budget: Budget

    def ask(
        self, prompts: Sequence[str], how: Decoding, progress: Callable[[int, int], None] | None = None
    ) -> list[Reply]:
        """Ask within the budget and nothing twice; see `asking.ask`."""
        return ask(
            self.teacher, prompts, how, cache=self.cache, bill=self.bill, budget=self.budget, progress=progress,
            sleep=sleep,
        )  # fmt: skip


def open_desk(teacher: Teacher, folder: Path, budget: Budget) -> Desk:
    """Open the desk in a folder; what an earlier run left there is known and paid for.

    Raises:
        StorageError: What is there cannot be read.
    """
    return Desk(teacher, AnswerCache(folder / "answers.jsonl"), KeptBill(folder / "bill.jsonl"), budget)
