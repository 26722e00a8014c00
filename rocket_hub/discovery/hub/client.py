"""Calls to the Hub: in threads, within its rate limits, repeated where that helps, explained where it does not."""

from __future__ import annotations

import errno
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, parse_ratelimit_headers  # type: ignore[attr-defined]

from rocket_hub.errors import HubError, HubUnreachableError, RocketError, StorageError

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Key = tuple[str, int, str]
"""Origin, hash of the token and kind of request that a rate limit counts."""

LONGEST_WAIT = 310.0
"""Seconds; the Hub counts requests in windows of 300. A longer wait is an error."""
ROUNDING = 1.0
"""Seconds that the told end of a window, a whole number, may be too early."""
TRIES = 4
BACK_OFF = 1.0
"""Seconds before the second try; each further wait is twice as long."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_HOPELESS = (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.LocalProtocolError, httpx.InvalidURL)
_SECRETS = re.compile(r"(\bBearer\s+|\bhf_|\?)[^\s'\"]+")


def for_each(function: Callable[[T], R], items: Sequence[T], workers: int, receive: Callable[[int, R], object]) -> None:
    """Apply a function to each item in threads, and `receive` positions and results in the calling thread as they come.

    An error or Ctrl-C ends it at once: threads take no further item, and one that waits for the Hub is not waited for.
    They are daemons, unlike those of `ThreadPoolExecutor`, so the program can end too.
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


@dataclass
class _Window:
    """What is known of one rate limit."""

    free: float = math.inf  # requests that may still be sent
    flying: int = 0  # requests that were sent and not answered; the Hub may not have counted them yet
    limit: int = 0  # requests per window; 0 = not told
    length: float = 300.0  # seconds of a window
    ends: float = 0.0  # when the window is over for certain
    closed: float = 0.0  # when the Hub wants to be asked again (`Retry-After`)

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
        """Wait until a request to an `httpx.URL` may be sent, and count it; each token has limits of its own."""
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
    """Return which limit a request most likely falls under; the token itself is not kept."""
    path = url.path
    files = "/resolve/" in path or path.startswith("/api/resolve-cache/")
    kind = "resolvers" if files else "api" if path.startswith("/api/") else "pages"
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}", hash(token), kind


PACER = Pacer()
_watching = threading.Lock()


def watch(session: Any) -> None:
    """Pace every request of a session of `huggingface_hub.get_session`, which makes a new one after a failure."""
    with _watching:
        hooks = session.event_hooks
        if _before not in hooks["request"]:
            # Last, so that a request that must not be sent at all (offline) does not wait and is not counted.
            session.event_hooks = {"request": [*hooks["request"], _before], "response": [*hooks["response"], _after]}


def _before(request: Any) -> None:
    PACER.wait(request.url, request.headers.get("Authorization", ""))


def _after(response: Any) -> None:
    request = response.request
    PACER.learn(request.url, request.headers.get("Authorization", ""), response.status_code, response.headers)


class FileError(OSError):
    """A file that arrived, and is not what it should be; `reason` names the fault in one word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def call(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of huggingface_hub, again if that may help; every message starts with `what`, usually an id.

    Raises:
        HubUnreachableError: There was no answer in `TRIES` tries, or the Hub libraries are offline.
        HubError: The Hub refused, or failed `TRIES` times; `reason_of` names the fault.
        StorageError: The Hub cache cannot be written.
    """
    tried = 0
    while True:
        tried += 1
        watch(get_session())  # there may be a new one after a failure
        try:
            return function(*args, **kwargs)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, EntryNotFoundError, ValueError, RuntimeError) as raised:
            error = raised.__cause__ if isinstance(raised, RuntimeError) else raised  # uploads wrap what went wrong
            if not isinstance(error, (httpx.HTTPError, OSError, EntryNotFoundError, ValueError, httpx.InvalidURL)):
                raise
            wait = _wait(error, tried)
            if tried == TRIES or wait is None:
                raise explain(what, error) from error
        time.sleep(wait)


def _wait(error: Exception, tried: int) -> float | None:
    """Return how many seconds to wait before the next try; None if another try cannot help."""
    back_off = BACK_OFF * 2 ** (tried - 1)
    if isinstance(error, HfHubHTTPError):
        status, headers = error.response.status_code, error.response.headers
        if status not in (408, 429) and status < 500:
            return None
        limit = parse_ratelimit_headers(headers)
        told = headers.get("Retry-After", "").strip()
        if told.isdecimal() and len(told) < 10:
            wait = float(told)
        elif status == 429 and limit is not None and limit.remaining == 0:
            wait = limit.reset_in_seconds + 1.0
        else:
            wait = back_off
        return wait if wait <= LONGEST_WAIT else None
    if isinstance(error, FileError):
        return 0.0
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError, ValueError, *_HOPELESS)):
        return None  # the second one comes after the client's own tries
    if isinstance(error, OSError) and error.errno in _DISK:
        return None
    return back_off


def explain(what: str, error: Exception) -> RocketError:
    """Turn an error of huggingface_hub or httpx into one that says what it means and what to do next."""
    if isinstance(error, GatedRepoError):
        page = str(error.response.url).partition("/resolve/")[0]
        return HubError(f"{what}: gated; ask for access at {page}, then sign in (`hf auth login`, or set HF_TOKEN)")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"{what}: not found on the Hub; check the spelling, or sign in if it is private")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{what}: this revision does not exist; choose a branch, tag or commit of the repository")
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return HubUnreachableError(f"{what}: not in the cache, and the Hub cannot be asked: {_line(error)}")
    if isinstance(error, EntryNotFoundError):
        return HubError(f"{what}: the file is not in the repository; it may have been moved or deleted")
    if isinstance(error, HFValidationError):
        return HubError(f"{what}: not a repository id of the form namespace/name: {_line(error)}")
    if isinstance(error, HfHubHTTPError):
        return HubError(f"{what}: {_status(error)}")
    if isinstance(error, FileError):
        return HubError(f"{what}: {error}, {TRIES} times; the connection or the repository is damaged")
    if isinstance(error, OSError) and error.errno in _DISK:
        return StorageError(f"{what}: the Hub cache cannot be written: {error}; free some space, or set HF_HOME")
    if isinstance(error, (ValueError, *_HOPELESS)):
        return HubError(f"{what}: the Hub's answer cannot be read: {_line(error)}; check HF_ENDPOINT and HF_TOKEN")
    return HubUnreachableError(
        f"{what}: no whole answer from the Hub in {TRIES} tries ({type(error).__name__}: {_line(error)}); check the "
        "network and HF_ENDPOINT, then run it again"
    )


def _status(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 429:
        return "the Hub limits the rate of requests; wait a few minutes, and sign in for a higher limit"
    if status >= 500:
        return f"the Hub failed with status {status}, {TRIES} times; try again later"
    return f"the Hub refused with status {status}: {_line(error.server_message or error)}"


def _line(error: Exception | str) -> str:
    """Return the first line of a message: bounded, printable, without tokens or what a signed address ends with."""
    line = _SECRETS.sub(r"\1…", (str(error).strip().splitlines() or [""])[0])[:200]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def reason_of(error: HubError) -> str:
    """Name the fault behind an error of `call` in one word, for a rejection.

    Returns:
        `gated`, `not_found`, `rate_limited`, `not_cached` (offline), `unreachable`, `damaged` (a wrong hash),
        `unsafe_scan` (see `download`), or `hub_error` for whatever else the Hub answered.
    """
    cause = error.__cause__
    if isinstance(cause, GatedRepoError):
        return "gated"
    if isinstance(cause, OfflineModeIsEnabled):
        return "not_cached"
    if isinstance(cause, FileError):
        return cause.reason
    if isinstance(cause, LocalEntryNotFoundError):  # to the clients it is an EntryNotFoundError
        return "unreachable"
    if isinstance(cause, (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError)):
        return "not_found"
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code == 429:
        return "rate_limited"
    return "unreachable" if isinstance(error, HubUnreachableError) else "hub_error"
