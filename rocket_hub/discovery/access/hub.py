"""How everything here talks to the Hub: paced, again where the clients do not try again, and with what went wrong."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

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

# The library re-exports its HTTP client lazily, which mypy cannot see.
from huggingface_hub.utils import httpx, parse_ratelimit_headers  # type: ignore[attr-defined]

from rocket_hub.discovery.access.pacing import LONGEST_WAIT, watch
from rocket_hub.errors import HubError, HubUnreachableError, RocketError, StorageError

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 4
BACK_OFF = 1.0
"""Seconds before the second try; each further wait is twice as long."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_HOPELESS = (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.LocalProtocolError, httpx.InvalidURL)
_SECRETS = re.compile(r"(\bBearer\s+|\bhf_|\?)[^\s'\"]+")


class FileError(OSError):
    """A file that did arrive, and is not what it should be.

    Attributes:
        reason: One word that names the fault.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def call(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the Hub, again if it may help, and explain it if it does not.

    Args:
        what: What the call is about, usually a repository id; every message starts with it.
        function: A function of huggingface_hub.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        What the function returns.

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
    """Return the error of ours that says what one of the clients' errors means and what to do next."""
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
    """Say what an HTTP status means for the user."""
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
