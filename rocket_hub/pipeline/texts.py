"""Texts that generation draws on, domain documents or questions: from a file, a folder or a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.hf_api import RepoFile

from rocket_hub.discovery.access.hub import call
from rocket_hub.discovery.data.cells import first_text, lowered
from rocket_hub.discovery.data.datafiles import named_faults, read_rows, rows_of, train_files, why_no_files
from rocket_hub.discovery.data.reading import Reading
from rocket_hub.discovery.licences import declared
from rocket_hub.errors import DatasetError
from rocket_hub.generation.documents import read_documents, text_of
from rocket_hub.records import Pinned
from rocket_hub.runs import digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

QUESTIONS = ("question", "prompt", "instruction", "query", "problem", "goal", "text")
"""Columns that may hold a question, the likeliest first."""
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Texts:
    """Texts and where they are from.

    Attributes:
        texts: In the order of the files, none of them empty.
        origin: The data set at its commit; of a file or folder its name and, instead of a commit, a digest of its
            texts, kind `file`.
    """

    texts: tuple[str, ...]
    origin: Pinned


def documents_of(api: HfApi, source: str, *, max_bytes: int = MAX_BYTES) -> Texts:
    """Read domain text: a folder or file, see `read_documents`, or a data set's id, of whose rows all texts count.

    Args:
        api: The Hub.
        source: Which.
        max_bytes: When so many bytes of a data set are read, nothing further is.

    Raises:
        InputError: There is no text in it, or it cannot be read.
        HubError: The Hub did not give the data set.
    """
    path = Path(source)
    if path.exists():
        return _of_file(path, read_documents(path))
    origin, rows = _rows(api, source, Reading(max_bytes))
    return _texts(source, map(text_of, rows), origin, "no text in it")


def questions_of(api: HfApi, source: str, *, max_bytes: int = MAX_BYTES) -> Texts:
    """Read bare questions: rows of a JSON Lines, JSON, CSV or Parquet file, or of a data set; see `documents_of`.

    Raises:
        DatasetError: No row has one of the columns `QUESTIONS`, or the file cannot be read.
        HubError: The Hub did not give the data set.
    """
    path, wanted = Path(source), f"none of the columns {', '.join(QUESTIONS)} in it"
    if path.is_file():
        with named_faults(source), path.open("rb") as file:
            found = [first_text(lowered(row), QUESTIONS) for row in rows_of(file, path.name, Reading(max_bytes))]
        return _texts(source, iter(found), _of_file(path, found).origin, wanted)
    origin, rows = _rows(api, source, Reading(max_bytes))
    return _texts(source, (first_text(lowered(row), QUESTIONS) for row in rows), origin, wanted)


def _of_file(path: Path, texts: list[str]) -> Texts:
    """Name texts of this machine by what is in them."""
    return Texts(tuple(texts), Pinned(path.resolve().name, digest(texts), "file"))


def _texts(source: str, found: Iterator[str], origin: Pinned, fault: str) -> Texts:
    """Leave out what is empty.

    Raises:
        DatasetError: Everything is.
    """
    if not (texts := tuple(text for each in found if (text := each.strip()))):
        raise DatasetError("unknown_columns", f"{source}: {fault}; give a file, a folder or another data set")
    return Texts(texts, origin)


def _rows(api: HfApi, repo_id: str, reading: Reading) -> tuple[Pinned, Iterator[dict[str, Any]]]:
    """Pin a data set and read the rows of its train split."""
    info = call(repo_id, api.dataset_info, repo_id)
    origin = Pinned(info.id, str(info.sha), "dataset", declared(info.card_data))
    names = [item.rfilename for item in info.siblings or ()]
    if not (files := train_files(names, info.card_data)):
        reason, found = why_no_files(names)
        raise DatasetError(reason, f"{repo_id}: {found}; give a file, a folder or another data set")
    listed = call(repo_id, api.get_paths_info, repo_id, list(files), revision=origin.revision, repo_type="dataset")
    sized = [(item.path, item.size) for item in listed if isinstance(item, RepoFile)]
    return origin, read_rows(api, repo_id, origin.revision, sized, reading=reading)
