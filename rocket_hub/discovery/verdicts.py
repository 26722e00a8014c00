"""Collects what was decided of each adapter, and tells the Hub's outages from faults of the adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rocket_hub.discovery.hub.client import for_each, reason_of
from rocket_hub.errors import AdapterError, HubError
from rocket_hub.records import Rejection

T = TypeVar("T")
R = TypeVar("R")

USABLE = "usable"
GIVE_UP = 8
"""Outages in a row after which the Hub is taken to be down."""
OUTAGES = ("unreachable", "rate_limited", "hub_error")


class Verdicts:
    """Collects rejections and tells whoever watches.

    Attributes:
        rejected: Repository id -> why it was not taken.
    """

    def __init__(
        self,
        total: int,
        progress: Callable[[int, int], None] | None = None,
        verdict: Callable[[str, str], None] | None = None,
    ) -> None:
        """Start to count.

        Args:
            total: How many adapters get a verdict.
            progress: Called with (adapters with a verdict, all).
            verdict: Called with (repository id, reason or `usable`).
        """
        self.rejected: dict[str, Rejection] = {}
        self._total, self._progress, self._verdict = total, progress, verdict
        self._told = self._in_a_row = 0

    def tell(self, repo_id: str, reason: str = USABLE) -> None:
        """Say that a verdict is final."""
        self._told += 1
        if self._verdict:
            self._verdict(repo_id, reason)
        if self._progress:
            self._progress(self._told, self._total)

    def reject(self, repo_id: str, error: AdapterError | HubError) -> None:
        """Reject an adapter."""
        reason = error.reason if isinstance(error, AdapterError) else reason_of(error)
        self._in_a_row = self._in_a_row + 1 if reason in OUTAGES else 0
        if self._in_a_row >= GIVE_UP:
            raise error
        self.rejected[repo_id] = Rejection(repo_id, reason, str(error))
        self.tell(repo_id, reason)

    def attempt(self, repo_id: str, function: Callable[[], R]) -> R | None:
        """Call a function; if it refuses, reject the adapter and return None."""
        try:
            return function()
        except AdapterError as error:
            self.reject(repo_id, error)
            return None

    def attempt_all(
        self, items: Sequence[T], name: Callable[[T], str], function: Callable[[T], R], workers: int
    ) -> list[R | None]:
        """Call a function on each item in threads; reject what it refuses.

        Args:
            items: Adapters.
            name: Tells an item's repository id.
            function: Called in the threads.
            workers: How many threads.

        Returns:
            The results in the order of the items, None for those that were rejected.
        """
        results: list[R | None] = [None] * len(items)

        def attempt(item: T) -> R | AdapterError | HubError:
            try:
                return function(item)
            except (AdapterError, HubError) as error:
                return error

        def receive(position: int, result: R | AdapterError | HubError) -> None:
            if isinstance(result, (AdapterError, HubError)):
                self.reject(name(items[position]), result)
            else:
                self._in_a_row = 0
                results[position] = result

        for_each(attempt, items, workers, receive)
        return results
