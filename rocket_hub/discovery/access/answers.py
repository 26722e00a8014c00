"""What the Hub's API says, as plain JSON: bounded, paced, and the last answer where the Hub must not be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]

from rocket_hub.discovery.access.cache import recall, remember
from rocket_hub.discovery.access.files import TIMEOUT, read_answer
from rocket_hub.discovery.access.hub import call

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_ANSWER = 64 * 2**20
"""Bytes of one answer, unpacked."""
MAX_PAGES = 2_000


def model_record(api: HfApi, repo_id: str) -> tuple[dict[str, Any], float]:
    """Ask for the record of a model with the hashes of its files; follows a repository that was renamed.

    Returns:
        The record (`id`, `sha`, `cardData`, `siblings`); and 0, or when it was asked if the Hub libraries are offline.

    Raises:
        HubError: There is no such model, or the Hub does not answer.
    """

    def ask() -> dict[str, Any]:
        call(f"base model {repo_id}", validate_repo_id, repo_id)
        path = f"/api/models/{quote(repo_id)}"
        record, _ = call(f"base model {repo_id}", _get, api, path, "blobs=true", dict)
        return {key: record.get(key) for key in ("id", "sha", "cardData", "siblings")}

    return or_last(api, ask, "model", repo_id)


def pages(api: HfApi, what: str, path: str, query: Sequence[tuple[str, str]]) -> Iterator[list[Any]]:
    """List something page by page; each page is tried again by itself.

    Only the query of the link to the next page is used: whatever its host, the token goes to no other than `api`'s.

    Args:
        api: Where the Hub is, and who asks.
        what: What the list is about, for messages.
        path: For example `/api/models`.
        query: Keys and values; a key may be there several times.

    Yields:
        The items of each page.

    Raises:
        HubError: As `call`.
    """
    text: str | None = urlencode(query)
    asked: set[str] = set()
    while text is not None and text not in asked and len(asked) < MAX_PAGES:
        asked.add(text)
        items, text = call(what, _get, api, path, text, list)
        yield items


def _get(api: HfApi, path: str, query: str, expected: type) -> tuple[Any, str | None]:
    """Send one GET; returns the parsed answer and the query of the next page."""
    with get_session().stream(
        "GET", f"{api.endpoint}{path}?{query}", headers=build_hf_headers(token=api.token), timeout=TIMEOUT
    ) as response:
        value = read_answer(response, expected, MAX_ANSWER)
        link = response.links.get("next", {}).get("url")
    return value, urlsplit(link).query if link else None


def or_last(api: HfApi, ask: Callable[[], Any], *name: str) -> tuple[Any, float]:
    """Ask, and remember the answer; offline, return the last one.

    Args:
        api: Where the Hub is.
        ask: Asks the Hub; returns JSON data.
        *name: What to remember the answer under.

    Returns:
        The answer; and 0 if it is new, otherwise when it was given (seconds since 1970).

    Raises:
        HubUnreachableError: Offline, and there is no last answer.
        HubError: What `ask` raises.
    """
    kept = recall(api, *name) if constants.is_offline_mode() else None
    if kept is not None:
        return kept[1], kept[0]
    value = ask()
    remember(api, value, *name)
    return value, 0.0


def files_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a model's record: path -> SHA-256 of an LFS file, git's SHA-1 of another, empty if untold."""
    files: dict[str, str] = {}
    siblings = record.get("siblings")
    for entry in siblings if isinstance(siblings, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("rfilename"), str):
            lfs = entry.get("lfs")
            told = lfs.get("sha256") if isinstance(lfs, dict) else entry.get("blobId")
            files[entry["rfilename"]] = told if isinstance(told, str) else ""
    return files
