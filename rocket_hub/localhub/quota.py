"""The rate limit: a fixed window per token and kind of request, in the headers that the Hub sends."""

from __future__ import annotations

import threading
import time

from rocket_hub.localhub.refusal import RefusedError

UNLIMITED = 10**6
"""The quota that is told when there is none; the headers are always sent, as on the Hub."""


class Quota:
    """Counts requests.

    Attributes:
        limit: Requests per window; None for no limit.
        window: Length of the window in seconds.
    """

    def __init__(self, limit: int | None, window: int) -> None:
        self.limit, self.window = limit, window
        self._lock = threading.Lock()
        self._used: dict[tuple[str, str], tuple[float, int]] = {}

    def spend(self, who: str, path: str) -> tuple[dict[str, str], RefusedError | None]:
        """Count one request.

        Args:
            who: The token, or anything that stands for nobody.
            path: The request's path; files are counted apart from the API.

        Returns:
            The headers of the answer, and the refusal (429) if the quota is spent.
        """
        kind = "resolvers" if "/resolve/" in path else "api"
        moment = time.monotonic()
        with self._lock:
            start, used = self._used.get((who, kind), (moment, 0))
            if moment - start >= self.window:
                start, used = moment, 0
            self._used[who, kind] = (start, used + 1)
        limit = self.limit if self.limit is not None else UNLIMITED
        left, wait = max(0, limit - used - 1), max(0, int(start + self.window - moment))
        headers = {
            "RateLimit": f'"{kind}";r={left};t={wait}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={limit};w={self.window}',
        }
        spent = self.limit is not None and used >= self.limit
        return headers, RefusedError(429, "Too many requests") if spent else None
