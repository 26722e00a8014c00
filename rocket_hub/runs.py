"""The run folder: one folder a stage, each with a `result.json` that is written last and means "done"."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from rocket_hub.errors import RecipeError, StorageError
from rocket_hub.serialization import from_dict

T = TypeVar("T")
Item = TypeVar("Item", bound=Hashable)
Batches = Generator[Mapping[Item, Any], None, None]
"""Yields results by item, a batch at a time."""


class Reporter:
    """Told what happens; the command line draws it, the library is silent by default."""

    def stage(self, name: str, note: str) -> None:
        """Say that a stage starts, or is taken from an earlier run."""

    def advance(self, what: str, done: int, total: int) -> None:
        """Say how far a long piece of work is."""

    def say(self, text: str) -> None:
        """Say one line."""


class Silent(Reporter):
    """A reporter that says nothing."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: It cannot be written; the message says why, and nothing half-written is left under its name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; free some space or choose another "
                           "folder with --out, then run the same command again") from error  # fmt: skip


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all; see `write_text`."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that an earlier run wrote; none where there is nothing, or nothing whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def plain(data: Any) -> Any:
    """Turn records, and plain data with records in it, into what JSON gives back."""
    return json.loads(json.dumps(data, default=asdict))


def digest(data: Any) -> str:
    """Name records or plain data by their content: 16 hexadecimal digits of the SHA-256 of their JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=asdict).encode()).hexdigest()[:16]


def once(path: Path, compute: Callable[[], Any]) -> Any:
    """Return the plain data in a JSON file; where there is none, compute it and write it there.

    Raises:
        StorageError: The file cannot be written.
    """
    if (known := read_json(path)) is None:
        known = plain(compute())
        write_json(path, known)
    return known


class KeptResults:
    """Results by name in one file, a JSON line each, appended; a line that a kill cut short is not read.

    Attributes:
        known: Name -> result, as plain data.
    """

    def __init__(self, path: Path | None) -> None:
        """Read what an earlier run kept; None: nothing outlives this object.

        Raises:
            StorageError: The file cannot be read.
        """
        self._path, self.known = path, dict[str, Any]()
        try:
            data = path.read_bytes() if path and path.exists() else b""
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error}; delete it or choose another folder") from error
        self._torn = bool(data) and not data.endswith(b"\n")
        for line in data.splitlines():
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                self.known[str(entry["problem"])] = entry["result"]

    def each(
        self, items: Sequence[Item], key: Callable[[Item], str], compute: Callable[[list[Item]], Batches[Item]]
    ) -> list[Any]:
        """Return the result of each item: the kept one, or what `compute` finds.

        Args:
            items: Of two with the same key one is computed.
            key: Names all that an item's result depends on.
            compute: Is given the items without a result and yields results by item, one batch after the other; a batch
                is on disk when the next is asked for. An item that it leaves out has no result this time.

        Returns:
            One result an item, in their order; None where there is none.
        """
        names = [key(item) for item in items]
        missing = {name: item for name, item in zip(names, items, strict=True) if name not in self.known}
        with closing(compute(list(missing.values()))) as batches:
            for found in batches:
                self.add({key(item): result for item, result in found.items()})
        return [self.known.get(name) for name in names]

    def add(self, found: Mapping[str, Any]) -> None:
        """Keep results, in one write; they are on disk when this returns.

        Raises:
            StorageError: The file cannot be written.
        """
        self.known.update(found)
        if self._path is None:
            return
        lines = [json.dumps({"problem": name, "result": result}) for name, result in found.items()]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in ([""] if self._torn else []) + lines))
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error.strerror or error}; free some space and run "
                               "the same command again") from error  # fmt: skip
        self._torn = False


class RunFolder:
    """Stages on disk: what is done and matches is kept, what changed is made again.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.path = path
        self._reporter = reporter

    def stage(
        self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], Any], into: type[T] = dict,  # type: ignore[assignment]
    ) -> T:  # fmt: skip
        """Run a stage, or give back what an earlier run of it left.

        Args:
            name: Folder of the stage, for example `4-merge`.
            inputs: Everything that the result depends on, records or plain data, by name.
            make: Makes the result in the stage's folder; what an interrupted run left there is still there, if its
                inputs were the same.
            into: The record that it makes: what is on disk is read strictly back into it. `dict` = plain data.

        Returns:
            The result, as it was read back from disk.

        Raises:
            StorageError: The folder cannot be written, or holds a result of another version.
        """
        folder = self.path / name
        before, done = read_json(folder / "inputs.json"), read_json(folder / "result.json")
        inputs = plain(inputs)
        if before == inputs and isinstance(done, dict) and "result" in done:
            self._reporter.stage(name, "done earlier")
            return _read(into, done["result"], folder / "result.json")
        self._reporter.stage(name, self._why(before, inputs))
        if before != inputs:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "inputs.json", inputs)
        started = time.monotonic()
        result = plain(make(folder))
        write_json(folder / "result.json", {"seconds": round(time.monotonic() - started, 1), "result": result})
        return _read(into, result, folder / "result.json")

    def _why(self, before: Any, inputs: Mapping[str, Any]) -> str:
        """Say why a stage runs."""
        if before is None:
            return ""
        if before == inputs:
            return "goes on where it was stopped"
        keys = [key for key in {**before, **inputs} if before.get(key) != inputs.get(key)]
        return f"again, because of {', '.join(keys)}"

    def relative(self, path: Path) -> str:
        """Name a path for a result: below the run folder without it, so that the folder can be moved."""
        inside = path.resolve().is_relative_to(self.path.resolve())
        return str(path.resolve().relative_to(self.path.resolve())) if inside else str(path.resolve())

    def absolute(self, name: str) -> Path:
        """Find the path that `relative` named."""
        return self.path / name

    def seconds(self) -> dict[str, float]:
        """Return the seconds that each finished stage took."""
        results = {path.parent.name: read_json(path) for path in sorted(self.path.glob("*/result.json"))}
        return {name: done["seconds"] for name, done in results.items() if done}


def _read(into: type[T], data: Any, path: Path) -> T:
    """Read a stage's result strictly back into its record."""
    if not is_dataclass(into):
        return cast(T, data)
    try:
        return cast(T, from_dict(into, data, str(path)))
    except RecipeError as error:
        raise StorageError(
            f"{error}; this run folder is of another version of rocket_hub: choose another folder with --out, or "
            f"delete {path.parent}"
        ) from error
