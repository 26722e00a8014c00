"""Domain text in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rocket_hub.errors import InputError

SUFFIXES = (".txt", ".md", ".jsonl")
MAX_BYTES = 2**30


def read_documents(folder: Path) -> list[str]:
    """Read domain text: a file, or all files of a folder, that end in .txt, .md or .jsonl.

    Of a line of JSON all texts count; other kinds of file are left out.

    Returns:
        One text a file, or a line of a .jsonl file, in the order of their paths.

    Raises:
        InputError: There is no such file, a file is not UTF-8 or not JSON Lines, or nothing is in it.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.suffix.lower() in SUFFIXES]
    if (size := sum(path.stat().st_size for path in files)) > MAX_BYTES:
        raise InputError(f"{folder}: {size:,} bytes of documents; {MAX_BYTES:,} are held in memory at most")
    found = [text for path in files for text in _texts(path) if text.strip()]
    if not found:
        raise InputError(f"{folder}: no documents; expected a folder or a file with text in {', '.join(SUFFIXES)}")
    return found


def _texts(path: Path) -> list[str]:
    """Read one file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}; save it as UTF-8 or take it out") from error
    if path.suffix.lower() != ".jsonl":
        return [text]
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(text_of(json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number}: not JSON ({error}); expected one value a line") from error
    return found


def text_of(value: Any) -> str:
    """Join all texts of a row, one a line."""
    if isinstance(value, dict | list):
        parts = [text_of(each) for each in (value.values() if isinstance(value, dict) else value)]
        return "\n".join(part for part in parts if part)
    return value if isinstance(value, str) else ""
