"""The data files of a repository: which are the train split's, and the rows that are in them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from rocket_hub.discovery.files import download, is_plain_path
from rocket_hub.discovery.hub import explain
from rocket_hub.errors import DatasetError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SMALL = 50 * 2**20
"""Bytes; a file up to this size is downloaded and verified, a larger one is streamed."""

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
_HELD_OUT = re.compile(r"(?<![a-z])(test|valid|val(?![a-z])|eval|dev(?![a-z])|holdout|held[_-]?out)")
_NOT_DATA = ("dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json", "package.json")


def train_files(names: Iterable[str], card: Any) -> tuple[str, ...]:
    """Choose the data files of the train split.

    What the card declares counts: its default configuration, else its first. Without that, every data file counts whose
    path does not say that it is held out. A repository that has the same data in several formats is read in one.

    Args:
        names: Paths of the repository's files.
        card: Card data of huggingface_hub, or None.

    Returns:
        Paths, sorted; empty if there are none.
    """
    plain = [name for name in names if is_plain_path(name) and name.rpartition("/")[2] not in _NOT_DATA]
    patterns = _declared_patterns(card)
    files = [name for name in plain if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
    files = [name for name in files if not _says_held_out(name) and not name.rpartition("/")[2].startswith(".")]
    for suffix in BUILDERS:
        if chosen := tuple(sorted(name for name in files if name.lower().endswith(suffix))):
            return chosen
    return ()


def _says_held_out(path: str) -> bool:
    """Return whether a path names a test, validation or evaluation split."""
    return bool(_HELD_OUT.search(re.sub(r"([a-z])([A-Z])", r"\1_\2", path).lower()))


def _declared_patterns(card: Any) -> tuple[str, ...]:
    """Return the patterns of the train split that a card declares for its default configuration."""
    configs = card.get("configs") if card else None
    usable = [item for item in (configs if isinstance(configs, list) else ()) if isinstance(item, dict)]
    usable = [item for item in usable if item.get("data_files")]
    if not usable:
        return ()
    chosen = next((item for item in usable if item.get("default") is True), usable[0])["data_files"]
    if isinstance(chosen, list) and all(isinstance(item, dict) for item in chosen):
        chosen = [item.get("path") for item in chosen if item.get("split") == "train"]
        chosen = [path for paths in chosen for path in (paths if isinstance(paths, list) else [paths])]
        # A card without a train split has nothing to learn from, so nothing may match.
        chosen = chosen or ["\0"]
    patterns = chosen if isinstance(chosen, list) else [chosen]
    return tuple(item.removeprefix("./") for item in patterns if isinstance(item, str) and len(item) <= 512)


def read_rows(api: HfApi, repo_id: str, revision: str, files: Sequence[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Read rows, file by file, and no file before its rows are due.

    Args:
        api: Where the Hub is, and who asks.
        repo_id: The data set.
        revision: Commit hash.
        files: Paths and their sizes in bytes.

    Yields:
        Column -> value.

    Raises:
        DatasetError: `unreadable`: a file is not what its name says.
        HubError: The Hub did not give the bytes.
    """
    import datasets
    import pyarrow

    for path, size in files:
        where = f"{repo_id}: {path}"
        source, known = f"hf://datasets/{repo_id}@{revision}/{path}", {"endpoint": api.endpoint, "token": api.token}
        if size <= SMALL:
            source, known = str(download(api, repo_id, revision, path, kind="dataset", max_bytes=SMALL)), {}
        builder = next(name for suffix, name in BUILDERS.items() if path.lower().endswith(suffix))
        options = {"delimiter": "\t"} if path.lower().endswith(".tsv") else {}
        try:
            yield from datasets.load_dataset(
                builder,
                data_files=[source],
                split="train",
                streaming=True,
                storage_options={"hf": known} if known else None,
                **options,
            )
        except (HfHubHTTPError, httpx.TransportError) as error:
            raise explain(where, error) from error
        except (
            OSError, ValueError, KeyError, TypeError, RuntimeError, NotImplementedError, RecursionError, csv.Error,
            pyarrow.ArrowException, datasets.exceptions.DatasetsError,
        ) as error:  # fmt: skip
            first = (str(error).splitlines() or [""])[0][:200]
            detail = f"{where}: cannot be read as {builder} ({type(error).__name__}: {first})"
            raise DatasetError("unreadable", detail) from error
