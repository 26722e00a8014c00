"""A bounded number of threads over a list, for work that mostly waits for the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def for_each(function: Callable[[T], R], items: Sequence[T], workers: int, receive: Callable[[int, R], object]) -> None:
    """Apply a function to each item in threads, and hand the results to the calling thread as they come.

    Ctrl-C, and whatever else ends it early, ends it at once: threads take no further item, and one that waits for the
    Hub is not waited for. They are daemons, unlike those of `ThreadPoolExecutor`, so the program can end too.

    Args:
        function: Called in the threads; an error of it is raised here.
        items: Its arguments; taken in this order.
        workers: How many threads.
        receive: Called with an item's position and its result, in any order of positions.
    """
    done: SimpleQueue[tuple[int, Future[R]]] = SimpleQueue()
    todo, lock, stop = iter(enumerate(items)), threading.Lock(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                position, item = next(todo, (-1, None))
            if position < 0:
                return
            future: Future[R] = Future()
            try:
                future.set_result(function(item))  # type: ignore[arg-type]
            except BaseException as error:  # it belongs to the caller's thread, which raises it below
                future.set_exception(error)
            done.put((position, future))

    try:
        for _ in range(min(max(1, workers), len(items))):
            threading.Thread(target=work, daemon=True, name="rocket-hub-discovery").start()
        for _ in items:
            position, future = done.get()
            receive(position, future.result())
    finally:
        stop.set()


def collect(function: Callable[[T], R], items: Sequence[T], workers: int) -> list[R]:
    """Apply a function to each item in threads; return the results in the order of the items."""
    results: dict[int, R] = {}
    for_each(function, items, workers, results.__setitem__)
    return [results[position] for position in range(len(items))]
