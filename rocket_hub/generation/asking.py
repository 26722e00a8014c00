"""Ask a teacher within a budget. Answers and costs are kept on disk, and nothing is asked twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import sleep
from typing import Any

from rocket_hub.errors import InputError
from rocket_hub.generation.teachers import AGAIN, Decoding, Reply, Teacher
from rocket_hub.runs import Batches, KeptResults, digest

TRIES = 4
LONGEST_WAIT = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Budget:
    """What a teacher may cost.

    Attributes:
        calls: At most this many attempts, those that fail included; none = no limit.
        tokens: At most this many tokens, in and out; what a call will use is known only after it, so the last calls
            may go over it; none = no limit.
    """

    calls: int | None = None
    tokens: int | None = None


@dataclass
class Bill:
    """What a teacher has cost."""

    calls: int = 0  # attempts that were made
    tokens_in: int = 0  # prompt tokens, as the teacher told them
    tokens_out: int = 0  # answer tokens, as the teacher told them
    unmetered: int = 0  # attempts that told no tokens: they failed, or the teacher does not count
    cached: int = 0  # prompts that were answered from the cache, for nothing
    faults: dict[str, int] = field(default_factory=dict)  # attempts that failed, by fault

    def add(self, reply: Reply) -> None:
        """Count one attempt."""
        self.calls += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.unmetered += not reply.metered
        if reply.fault:
            self.faults[reply.fault] = self.faults.get(reply.fault, 0) + 1

    def to_plain(self) -> dict[str, Any]:
        """Return what is not zero."""
        return {name: value for name, value in asdict(self).items() if value}

    def calls_left(self, budget: Budget) -> float:
        """Return how many more calls the budget allows."""
        if budget.tokens is not None and self.tokens_in + self.tokens_out >= budget.tokens:
            return 0
        return float("inf") if budget.calls is None else max(budget.calls - self.calls, 0)


class TeacherClient:
    """Asks a teacher, retries what may pass, and keeps answers and costs.

    Args:
        teacher: Who is asked.
        folder: Where answers and costs are; those of earlier runs count.
        budget: What the teacher may cost, all runs in the folder together.

    Attributes:
        teacher: Who is asked.
        bill: What it has cost, all runs in the folder together; `cached` is this run's.

    Raises:
        StorageError: What is in the folder cannot be read.
    """

    def __init__(self, teacher: Teacher, folder: Path, budget: Budget) -> None:
        self.teacher, self.bill, self._budget = teacher, Bill(), budget
        self._answers, self._costs = KeptResults(folder / "answers.jsonl"), KeptResults(folder / "bill.jsonl")
        for attempt in self._costs.known.values():
            self.bill.add(Reply(**attempt))

    def ask(
        self, prompts: Sequence[str], how: Decoding, progress: Callable[[int, int], None] | None = None
    ) -> list[Reply]:
        """Ask, but no equal prompt twice, and none that an earlier run has an answer to.

        Args:
            prompts: What is asked.
            how: Longest answer, temperature and seed.
            progress: Called with (prompts settled, prompts in all).

        Returns:
            One reply a prompt, in their order. Where there is a fault after `TRIES` attempts, it says which;
            `over_budget` where the budget did not allow an attempt.
        """
        asked = {"teacher": self.teacher.name, **asdict(how)}
        lost: dict[str, Reply] = {}

        def compute(missing: list[str]) -> Batches[str]:
            waiting = set(missing)
            self.bill.cached += sum(prompt not in waiting for prompt in prompts)
            for prompt, reply in self._settled(missing, how, len(prompts), progress):
                if reply.fault in (*AGAIN, "over_budget"):
                    lost[prompt] = reply
                else:  # an answer, or a lasting lack of one
                    yield {prompt: asdict(reply)}

        found = self._answers.each(prompts, lambda prompt: digest({**asked, "prompt": prompt}), compute)
        return [Reply(**each) if each else lost[prompt] for prompt, each in zip(prompts, found, strict=True)]

    def _settled(
        self, prompts: list[str], how: Decoding, total: int, progress: Callable[[int, int], None] | None
    ) -> Iterator[tuple[str, Reply]]:
        """Yield each prompt with its last reply."""
        waiting, tries = prompts, Counter[str]()
        while waiting:
            batch = waiting[: int(min(self.teacher.at_once, self.bill.calls_left(self._budget)))]
            if not batch:
                yield from ((prompt, Reply(fault="over_budget")) for prompt in waiting)
                return
            waiting, pause = waiting[len(batch) :], 0.0
            for prompt, reply in _replies(self.teacher, batch, how):
                self._pay(reply)
                tries[prompt] += 1
                if reply.fault in AGAIN and tries[prompt] < TRIES:
                    waiting.append(prompt)
                    pause = max(pause, reply.wait or float(2 ** (tries[prompt] - 1)))
                else:
                    yield prompt, reply
            sleep(min(pause, LONGEST_WAIT))
            if progress:
                progress(total - len(waiting), total)

    def _pay(self, reply: Reply) -> None:
        """Keep what an attempt cost; raise where every other would be refused like it."""
        self.bill.add(reply)
        self._costs.add({str(self.bill.calls): asdict(replace(reply, text="", detail=""))})
        if reply.fault == "refused":
            name = self.teacher.name
            raise InputError(f"teacher {name}: it refuses to answer ({reply.detail}); check its key and model")


def _replies(teacher: Teacher, prompts: Sequence[str], how: Decoding) -> Iterator[tuple[str, Reply]]:
    """Yield each reply as soon as it is there, so that a kill loses none that has arrived."""
    if not getattr(teacher, "apart", False):
        yield from zip(prompts, teacher.answer(prompts, how), strict=True)
        return
    with ThreadPoolExecutor(len(prompts)) as pool:
        asked = {pool.submit(teacher.answer, [prompt], how): prompt for prompt in prompts}
        for done in as_completed(asked):
            yield asked[done], done.result()[0]
