from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, BinaryIO

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from rocket_hub.discovery.hub.answers import recall, remember
from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.hub.download import RangeFile, download, is_plain_path
from rocket_hub.errors import DatasetError
from rocket_hub.rows.files import Parser
from rocket_hub.rows.values import Reading

SMALL = 50 * 2**20
"""Bytes; a file up to this size is downloaded and verified, of a larger one only what is read is fetched."""
MAX_FILES = 200

# A repository that has the same data in several formats is read in the first of these.
SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".bz2", ".xz", ".7z", ".rar", ".lz4")

_HELD_OUT = re.compile(r"(?<![a-z])(test|valid|val(?![a-z])|eval|dev(?![a-z])|development|holdout|held[_-]?out)")
_NOT_DATA = (
    "dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json", "package.json", "config.json",
    "tokenizer.json", "tokenizer_config.json", "croissant.json",
)  # fmt: skip
_MOST_NAMES, _MOST_PATTERNS = 20_000, 50


def train_files(names: Iterable[str], card: Any) -> tuple[str, ...]:
    """Choose the data files of the train split; paths, sorted, at most `MAX_FILES`.

    What the card declares counts: its default configuration, else its first. Without that, every data file counts whose
    path does not say that it is held out. A repository that has the same data in several formats is read in one.
    """
    plain = _plain(names)
    patterns = _declared_patterns(card)
    files = [name for name in plain if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
    files = [name for name in files if not says_held_out(name)]
    for suffix in SUFFIXES:
        if chosen := sorted(name for name in files if name.lower().endswith(suffix)):
            return tuple(chosen[:MAX_FILES])
    return ()


def why_no_files(names: Sequence[str]) -> tuple[str, str]:
    """Say why a repository has no data files of a train split, as a reason and what was found."""
    data = [name for name in _plain(names) if name.lower().endswith(SUFFIXES)]
    scripts = [name for name in names if name.endswith(".py") and "/" not in name]
    packed = [name for name in names if name.lower().endswith(ARCHIVES)]
    if data:
        return "held_out", f"no train split, only {_some(data)}"
    if scripts:
        return "needs_code", f"its rows come out of {_some(scripts)}, and no code of a repository is run here"
    if packed:
        return "archive", f"only {_some(packed)}; archives are not opened"
    return "no_data_files", f"no Parquet, JSON or CSV file; {_some(names) or 'no file at all'}"


def says_held_out(path: str) -> bool:
    """Return whether a path, or the name of a split, names a test, validation or evaluation split."""
    return bool(_HELD_OUT.search(re.sub(r"([a-z])([A-Z])", r"\1_\2", path).lower()))


def _plain(names: Iterable[str]) -> list[str]:
    """Leave out what is no data, and paths that lead out of the repository."""
    last = ((name, name.rpartition("/")[2]) for name in names if is_plain_path(name))
    return [name for name, file in last if file not in _NOT_DATA and not file.startswith(".")][:_MOST_NAMES]


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _declared_patterns(card: Any) -> tuple[str, ...]:
    """Return the patterns of the train split that a card declares for its default configuration."""
    configs = card.get("configs") if card else None
    usable = [item for item in (configs if isinstance(configs, list) else ()) if isinstance(item, dict)]
    usable = [item for item in usable if item.get("data_files")]
    if not usable:
        return ()
    chosen = next((item for item in usable if item.get("default") is True), usable[0])["data_files"]
    if isinstance(chosen, list) and all(isinstance(item, dict) for item in chosen):
        paths = {str(item.get("split")): item.get("path") for item in reversed(chosen)}
        open_splits = [name for name in paths if not says_held_out(name)]
        trained = [name for name in open_splits if name.startswith("train")]
        split = "train" if "train" in paths else next(iter([*trained, *open_splits]), "")
        path = paths.get(split)
        # A card whose splits are all held out has nothing to learn from, so nothing may match.
        chosen = (path if isinstance(path, list) else [path]) if path else ["\0"]
    patterns = chosen if isinstance(chosen, list) else [chosen]
    plain = [item.removeprefix("./") for item in patterns if isinstance(item, str) and len(item) <= 512]
    return tuple(item.replace("**/", "*") for item in plain[:_MOST_PATTERNS])


def file_sizes(api: HfApi, repo_id: str, revision: str, files: Sequence[str]) -> list[int]:
    """Ask for the sizes of data files, in bytes; at the same commit again without a request."""
    name = ("dataset sizes 1", repo_id, revision, *files)
    if kept := recall(api, *name):
        return list(kept[1])
    found = call(repo_id, api.get_paths_info, repo_id, list(files), revision=revision, repo_type="dataset")
    known = {item.path: item.size for item in found if isinstance(item, RepoFile)}
    if missing := next((file for file in files if file not in known), None):
        raise DatasetError("unreadable", f"{repo_id}: {missing} is listed, but not there")
    sizes = [known[file] for file in files]
    remember(api, sizes, *name)
    return sizes


def read_rows(
    api: HfApi,
    repo_id: str,
    revision: str,
    files: Sequence[tuple[str, int]],
    *,
    reading: Reading | None = None,
    wanted: Callable[[str], bool] = lambda _: True,
) -> Iterator[dict[str, Any]]:
    """Read rows, file by file, and no file before its rows are due.

    Args:
        api: Where the Hub is, and who asks.
        repo_id: The data set.
        revision: Commit hash.
        files: Paths and their sizes in bytes.
        reading: The budget; None = no bound.
        wanted: Whether a column is of use; in Parquet files the others are not read.

    Yields:
        Column -> value.

    Raises:
        DatasetError: `unreadable`: a file is not what its name says, or more than may be unpacked.
        HubError: The Hub did not give the bytes.
    """
    reading = reading or Reading(2**62)
    with Parser() as parser:
        for path, size in files:
            if reading.spent:
                return
            with _opened(api, repo_id, revision, path, size, reading) as file:
                yield from parser.rows(file, path, reading, f"{repo_id}: {path}", wanted)


@contextmanager
def _opened(
    api: HfApi, repo_id: str, revision: str, path: str, size: int, reading: Reading
) -> Iterator[BinaryIO | RangeFile]:
    """Open a file: a copy in the cache if it is small, parts of it as they are due if not."""
    if size > min(SMALL, reading.max_bytes - reading.bytes):
        yield RangeFile(api, repo_id, revision, path)
        return
    with download(api, repo_id, revision, path, kind="dataset", max_bytes=SMALL).open("rb") as file:
        yield file
