"""Passages of domain text that stand before a question: found by words (BM25), by meaning (an encoder), or by both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi

from rocket_hub.discovery.data_files import file_sizes, read_rows, train_files, why_no_files
from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.licences import declared
from rocket_hub.errors import DatasetError, InputError
from rocket_hub.inference.models import Encoder
from rocket_hub.records import Pinned
from rocket_hub.rows.files import rows_of
from rocket_hub.rows.json_csv import BadLineError, json_lines
from rocket_hub.rows.values import Reading, first_text, lowered
from rocket_hub.runs import digest

SUFFIXES = (".txt", ".md", ".jsonl")
MAX_DOCUMENT_BYTES = 2**30


def read_documents(folder: Path) -> list[str]:
    """Read domain text: a file, or all files of a folder, that end in .txt, .md or .jsonl.

    Of a line of JSON all texts count; other kinds of file are left out.

    Returns:
        One text a file, or a line of a .jsonl file, in the order of their paths.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.suffix.lower() in SUFFIXES]
    if (size := sum(path.stat().st_size for path in files)) > MAX_DOCUMENT_BYTES:
        raise InputError(f"{folder}: {size:,} bytes of documents; {MAX_DOCUMENT_BYTES:,} are held in memory at most")
    found = [text for path in files for text in _texts(path) if text.strip()]
    if not found:
        raise InputError(f"{folder}: no documents; expected a folder or a file with text in {', '.join(SUFFIXES)}")
    return found


def _texts(path: Path) -> list[str]:
    try:
        if path.suffix.lower() != ".jsonl":
            return [path.read_text(encoding="utf-8-sig")]
        with path.open("rb") as file:
            reading = Reading(MAX_DOCUMENT_BYTES)
            return [text_of(value) for _, value in json_lines(file, reading, longest=MAX_DOCUMENT_BYTES)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}; save it as UTF-8 or take it out") from error
    except BadLineError as error:
        raise InputError(f"{path}:{error.line}: not JSON ({error.fault}); expected one value a line") from error


def text_of(value: Any) -> str:
    """Join all texts of a row, one a line."""
    if isinstance(value, dict | list):
        parts = [text_of(each) for each in (value.values() if isinstance(value, dict) else value)]
        return "\n".join(part for part in parts if part)
    return value if isinstance(value, str) else ""


PASSAGE_WORDS = 100
_FUSED = 60
"""The constant of reciprocal rank fusion (Cormack et al. 2009)."""
_DEEP = 50
"""Ranks of each list that are fused."""
_TOKEN = r"(?u)\b\w+\b"  # bm25s leaves out tokens of one sign, and numbers are what some questions are about


def cut(texts: Sequence[str], words: int = PASSAGE_WORDS) -> list[str]:
    """Cut texts into passages of at most so many words, at the ends of paragraphs, else of sentences, else anywhere.

    Returns:
        Passages, each on one line and only once; short paragraphs of one document stand together.
    """
    found: dict[str, None] = {}
    for text in texts:
        held: list[str] = []
        for part in _parts(text, words):
            if held and len(held) + len(part) > words:
                found[" ".join(held)] = None
                held = []
            held = [*held, *part]
        if held:
            found[" ".join(held)] = None
    return list(found)


def _parts(text: str, words: int) -> list[list[str]]:
    parts = []
    for paragraph in re.split(r"\n\s*\n", text):
        split = paragraph.split()
        sentences = [split] if len(split) <= words else [s.split() for s in re.split(r"(?<=[.!?])\s+", paragraph)]
        for sentence in sentences:
            parts += [sentence[at : at + words] for at in range(0, len(sentence), words)]
    return parts


class Retriever:
    """Finds the passages that belong to a question.

    Args:
        passages: What `cut` gives.
        kind: `bm25`, `dense` or `both`; all but `bm25` need an encoder.
        encoder: Compares meanings.

    Raises:
        InputError: There are no passages, or the encoder is missing.
    """

    def __init__(self, passages: Sequence[str], kind: str, encoder: Encoder | None = None) -> None:
        if not passages:
            raise InputError("there are no passages to find; give documents with text in them")
        if kind != "bm25" and encoder is None:
            raise InputError(f"retrieval {kind!r} needs an encoder; give one, or take 'bm25'")
        self._passages, self._kind, self._encoder = list(passages), kind, encoder
        self._index = _index(self._passages) if kind != "dense" else None
        self._vectors = encoder.encode(self._passages) if encoder and kind != "bm25" else None

    def find(self, questions: Sequence[str], count: int) -> list[list[str]]:
        """Find at most `count` passages for each question, the best first."""
        if not questions or not count:
            return [[] for _ in questions]
        ranks = []
        if self._index is not None:
            ranks.append([_words_ranked(self._index, question) for question in questions])
        if self._vectors is not None and self._encoder is not None:
            # [questions, d] @ [d, passages] -> [questions, passages]
            cosines = self._encoder.encode(questions) @ self._vectors.T
            ranks.append([_order(row) for row in cosines])
        found = [fused([ranked[i] for ranked in ranks])[:count] for i in range(len(questions))]
        return [[self._passages[i] for i in best] for best in found]


def fused(ranked: Sequence[Sequence[int]]) -> list[int]:
    """Fuse lists of passages, best first, by the sum of 1 / (60 + rank); one list stays as it is."""
    scores: dict[int, float] = {}
    for one in ranked:
        for rank, passage in enumerate(one[:_DEEP], 1):
            scores[passage] = scores.get(passage, 0.0) + 1 / (_FUSED + rank)
    return sorted(scores, key=lambda passage: (-scores[passage], passage))


def _index(passages: Sequence[str]) -> Any:
    import bm25s

    index = bm25s.BM25()
    index.index(_tokens(passages), show_progress=False)
    return index


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    tokens: list[list[str]] = bm25s.tokenize(
        list(texts), token_pattern=_TOKEN, stopwords=None, return_ids=False, show_progress=False
    )
    return tokens


def _words_ranked(index: Any, question: str) -> list[int]:
    words = sorted(set(_tokens([question])[0]) & set(index.vocab_dict))
    if not words:
        return []
    scores = np.asarray(index.get_scores(words))
    return [i for i in _order(scores) if scores[i] > 0]


def _order(scores: np.ndarray) -> list[int]:
    best: list[int] = np.argsort(-scores, kind="stable")[:_DEEP].tolist()
    return best


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

    When `max_bytes` of a data set are read, nothing further is.

    Raises:
        InputError: There is no text in it, or it cannot be read.
        HubError: The Hub did not give the data set.
    """
    path = Path(source)
    if path.exists():
        return _of_file(path, read_documents(path))
    origin, rows = _rows(api, source, Reading(max_bytes))
    return _all_texts(source, map(text_of, rows), origin, "no text in it")


def questions_of(api: HfApi, source: str, *, max_bytes: int = MAX_BYTES) -> Texts:
    """Read bare questions: rows of a JSON Lines, JSON, CSV or Parquet file, or of a data set; see `documents_of`.

    Raises:
        DatasetError: No row has one of the columns `QUESTIONS`, or the file cannot be read.
        HubError: The Hub did not give the data set.
    """
    path, wanted = Path(source), f"none of the columns {', '.join(QUESTIONS)} in it"
    if path.is_file():
        with path.open("rb") as file:
            rows = rows_of(file, path.name, Reading(max_bytes), source)
            found = [first_text(lowered(row), QUESTIONS) for row in rows]
        return _all_texts(source, iter(found), _of_file(path, found).origin, wanted)
    origin, rows = _rows(api, source, Reading(max_bytes))
    return _all_texts(source, (first_text(lowered(row), QUESTIONS) for row in rows), origin, wanted)


def _of_file(path: Path, texts: list[str]) -> Texts:
    return Texts(tuple(texts), Pinned(path.resolve().name, digest(texts), "file"))


def _all_texts(source: str, found: Iterator[str], origin: Pinned, fault: str) -> Texts:
    """Leave out what is empty; raises `DatasetError` if everything is."""
    if not (texts := tuple(text for each in found if (text := each.strip()))):
        raise DatasetError("unknown_columns", f"{source}: {fault}; give a file, a folder or another data set")
    return Texts(texts, origin)


def _rows(api: HfApi, repo_id: str, reading: Reading) -> tuple[Pinned, Iterator[dict[str, Any]]]:
    info = call(repo_id, api.dataset_info, repo_id)
    origin = Pinned(info.id, str(info.sha), "dataset", declared(info.card_data))
    names = [item.rfilename for item in info.siblings or ()]
    if not (files := train_files(names, info.card_data)):
        reason, found = why_no_files(names)
        raise DatasetError(reason, f"{repo_id}: {found}; give a file, a folder or another data set")
    sizes = file_sizes(api, repo_id, origin.revision, files)
    return origin, read_rows(api, repo_id, origin.revision, list(zip(files, sizes, strict=True)), reading=reading)
