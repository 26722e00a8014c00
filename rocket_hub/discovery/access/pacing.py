"""Politeness: requests wait before the Hub's rate limit is used up, in all threads together.

The Hub counts requests in fixed windows, apart for files and for its API, and says in every answer how many are left
and when the window ends (`RateLimit`, `RateLimit-Policy`; https://huggingface.co/docs/hub/rate-limits). Who knows that
need never be refused. One `Pacer` watches the session that huggingface_hub shares between all its calls.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

LONGEST_WAIT = 310.0
"""Seconds; the Hub counts requests in windows of 300. Who is told to wait longer is not made to wait but refused."""
ROUNDING = 1.0
"""Seconds that the told end of a window, a whole number, may be too early."""

Key = tuple[str, int, str]


@dataclass
class _Window:
    """What is known of one rate limit.

    Attributes:
        free: Requests that may still be sent.
        flying: Requests that were sent and not answered; the Hub may not have counted them yet.
        limit: Requests per window; 0 = not told.
        length: Seconds of a window.
        ends: When the window is over for certain.
        closed: When the Hub wants to be asked again (`Retry-After`).
    """

    free: float = math.inf
    flying: int = 0
    limit: int = 0
    length: float = 300.0
    ends: float = 0.0
    closed: float = 0.0

    @property
    def spare(self) -> int:
        """Requests that are left unused: a count may be out of date by as many as there are threads."""
        return min(8, self.limit // 10)


class Pacer:
    """Lets requests pass as fast as the rate limits allow; one for all threads."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._windows: dict[Key, _Window] = {}
        self._names: dict[Key, str] = {}
        self._lock = threading.Lock()

    def wait(self, url: Any, token: str = "") -> None:
        """Wait until a request may be sent, and count it.

        Args:
            url: Where to (an `httpx.URL`).
            token: Its `Authorization`; each has limits of its own.
        """
        while (pause := self._take(_key(url, token))) > 0:
            self._sleep(pause)

    def learn(self, url: Any, token: str, status: int, headers: Mapping[str, str]) -> None:
        """Read what an answer says about the limits."""
        asked = _key(url, token)
        told = parse_ratelimit_headers(headers)
        after = headers.get("Retry-After", "").strip()
        with self._lock:
            if told is not None:
                self._names[asked] = told.resource_type
            window = self._window(asked)
            window.flying = max(0, window.flying - 1)
            now = self._clock()
            if told is not None:
                window.limit, window.length = told.limit or window.limit, told.window_seconds or window.length
                ends, left = now + told.reset_in_seconds + ROUNDING, told.remaining - window.flying - window.spare
                same = now < window.ends  # answers of one window come in any order: the most careful one counts
                window.free = min(window.free, left) if same else left
                window.ends = min(window.ends, ends) if same else ends
            if status in (429, 503) and after.isdecimal() and len(after) < 10:
                window.closed = max(window.closed, now + float(after))

    def limit_of(self, url: Any, token: str = "") -> tuple[int, float] | None:
        """Return the limit that was told for such a request, and the seconds of its window; None if none was."""
        with self._lock:
            window = self._window(_key(url, token))
            return (window.limit, window.length) if window.limit else None

    def _take(self, asked: Key) -> float:
        """Count a request and return 0, or return how long it has to wait first."""
        with self._lock:
            window, now = self._window(asked), self._clock()
            if 0 < window.closed - now <= LONGEST_WAIT:
                return window.closed - now
            if now >= window.ends and not window.limit:
                window.free = math.inf
            elif now >= window.ends:
                window.free = max(1.0, window.limit - window.spare - window.flying)
                window.ends = now + window.length + ROUNDING
                window.flying = 0  # a request that failed was never answered
            if window.free < 1 and window.ends - now <= LONGEST_WAIT:
                return window.ends - now
            window.free -= 1
            window.flying += 1
            return 0.0

    def _window(self, asked: Key) -> _Window:
        """Return the window that counts a request, by the name that the Hub gave it."""
        name = self._names.get(asked, asked[2])
        return self._windows.setdefault((asked[0], asked[1], name), _Window())


def _key(url: Any, token: str) -> Key:
    """Say which limit a request most likely falls under; the token itself is not kept."""
    path = url.path
    files = "/resolve/" in path or path.startswith("/api/resolve-cache/")
    kind = "resolvers" if files else "api" if path.startswith("/api/") else "pages"
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}", hash(token), kind


PACER = Pacer()
_watching = threading.Lock()


def watch(session: Any) -> None:
    """Let every request of a session be paced; again does nothing.

    Args:
        session: What `huggingface_hub.get_session` returns. It makes a new one when a connection fails.
    """
    with _watching:
        hooks = session.event_hooks
        if _before not in hooks["request"]:
            # Last, so that a request that must not be sent at all (offline) does not wait and is not counted.
            session.event_hooks = {
                "request": [*hooks["request"], _before],
                "response": [*hooks["response"], _after],
            }


def _before(request: Any) -> None:
    """Wait before a request is sent."""
    PACER.wait(request.url, request.headers.get("Authorization", ""))


def _after(response: Any) -> None:
    """Learn from an answer."""
    request = response.request
    PACER.learn(request.url, request.headers.get("Authorization", ""), response.status_code, response.headers)
