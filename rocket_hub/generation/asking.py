"""Ask a teacher: within a budget, again where that may help, and nothing twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import sleep

from rocket_hub.errors import InputError
from rocket_hub.generation.teachers import AGAIN, Decoding, Reply, Teacher
from rocket_hub.runs import KeptResults, digest

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
    """What a teacher has cost.

    Attributes:
        calls: Attempts that were made.
        tokens_in: Prompt tokens, as the teacher told them.
        tokens_out: Answer tokens, as the teacher told them.
        unmetered: Attempts that told no tokens: they failed, or the teacher does not count.
        cached: Prompts that were answered from the cache, for nothing.
        faults: Attempts that failed, by fault.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    unmetered: int = 0
    cached: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def add(self, reply: Reply) -> None:
        """Note one attempt."""
        self.calls += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.unmetered += not reply.metered
        if reply.fault:
            self.faults[reply.fault] = self.faults.get(reply.fault, 0) + 1

    def room(self, budget: Budget) -> float:
        """Say how many more calls the budget allows."""
        if budget.tokens is not None and self.tokens_in + self.tokens_out >= budget.tokens:
            return 0
        return float("inf") if budget.calls is None else max(budget.calls - self.calls, 0)


class AnswerCache:
    """Answers by what was asked; see `KeptResults`."""

    def __init__(self, path: Path) -> None:
        self._kept = KeptResults(path)

    def get(self, key: str) -> Reply | None:
        """Return the answer to what has been asked before."""
        known = self._kept.known.get(key)
        return None if known is None else Reply(**known)

    def put(self, key: str, reply: Reply) -> None:
        """Keep an answer; it is on disk when this returns."""
        self._kept.add({key: asdict(reply)})


def ask(
    teacher: Teacher,
    prompts: Sequence[str],
    how: Decoding,
    *,
    cache: AnswerCache,
    bill: Bill,
    budget: Budget,
    progress: Callable[[int, int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Reply]:
    """Ask a teacher, and nothing twice: not an equal prompt, and not what an earlier run has an answer to.

    Args:
        teacher: Who is asked.
        prompts: What is asked.
        how: Longest answer, temperature and seed.
        cache: Answers so far; every new one is kept at once.
        bill: Added to.
        budget: What the bill may come to.
        progress: Called with (prompts settled, prompts in all).
        sleep: Waits; replaced in tests.

    Returns:
        One reply a prompt, in their order. Where there is a fault after `TRIES` attempts, it says which; `over_budget`
        where the budget did not allow an attempt.

    Raises:
        InputError: The teacher refuses the request itself, as it would every other (a wrong key or model).
        StorageError: The cache cannot be written.
    """
    asked = {"teacher": teacher.name, **asdict(how)}
    keys = [digest({**asked, "prompt": prompt}) for prompt in prompts]
    replies = {key: known for key in keys if (known := cache.get(key))}
    bill.cached += sum(key in replies for key in keys)
    prompt_of = dict(zip(keys, prompts, strict=True))
    waiting = [key for key in prompt_of if key not in replies]
    tries: Counter[str] = Counter()
    while waiting:
        batch = waiting[: int(min(teacher.at_once, bill.room(budget)))]
        if not batch:
            replies |= {key: Reply(fault="over_budget") for key in waiting}
            break
        waiting, pause = waiting[len(batch) :], 0.0
        for at, reply in _answers(teacher, [prompt_of[key] for key in batch], how):
            key = batch[at]
            bill.add(reply)
            tries[key] += 1
            if reply.fault in AGAIN and tries[key] < TRIES:
                waiting.append(key)
                pause = max(pause, reply.wait or float(2 ** (tries[key] - 1)))
            else:
                replies[key] = _kept(teacher, cache, key, reply)
        sleep(min(pause, LONGEST_WAIT))
        if progress:
            progress(len(keys) - len(waiting), len(keys))
    return [replies[key] for key in keys]


def _answers(teacher: Teacher, prompts: Sequence[str], how: Decoding) -> Iterator[tuple[int, Reply]]:
    """Yield each reply with its prompt's position as soon as it is there: what is kept then, a kill does not lose."""
    if not getattr(teacher, "apart", False):
        yield from enumerate(teacher.answer(prompts, how))
        return
    with ThreadPoolExecutor(len(prompts)) as pool:
        asked = {pool.submit(teacher.answer, [prompt], how): at for at, prompt in enumerate(prompts)}
        for done in as_completed(asked):
            yield asked[done], done.result()[0]


def _kept(teacher: Teacher, cache: AnswerCache, key: str, reply: Reply) -> Reply:
    """Cache what is an answer, or a lasting lack of one; an outage is neither, and a refusal is everybody's."""
    if reply.fault == "refused":
        raise InputError(f"teacher {teacher.name}: it refuses to answer ({reply.detail}); check its key and model")
    if reply.fault not in AGAIN:
        cache.put(key, reply)
    return reply


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
