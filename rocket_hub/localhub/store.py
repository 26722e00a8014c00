"""The folder behind the hub.

    blobs/<first two digits>/<sha256>      the files
    repositories/<kind>s/<namespace>/<name>.json
    manifest.json                          what `hub.json` said, if the folder came with one

Several processes may use one store at once: blobs never change, a repository is read afresh when its file has changed,
and every change happens under one lock and ends with one `os.replace`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rocket_hub.localhub.errors import RefusedError
from rocket_hub.localhub.repository import KINDS, Entry, Repository, is_repository_id

LFS_THRESHOLD = 10 * 2**20
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".gguf", ".pt", ".arrow")
PIECE = 2**20


def travels_as_lfs(path: str, size: int) -> bool:
    """Return whether a file of this name and size is kept as an LFS object; empty files never are."""
    return size > 0 and (size > LFS_THRESHOLD or path.endswith(LFS_SUFFIXES))


def git_hash(data: bytes) -> str:
    """Return the hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_store(folder: Path) -> bool:
    """Return whether a folder is a store already."""
    return (folder / "blobs").is_dir() and (folder / "repositories").is_dir()


class Store:
    """Blobs and repositories in the folder `root`, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._cache: dict[Path, tuple[tuple[int, int, int], Repository]] = {}
        for name in ("blobs", "repositories", "incoming"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def blob(self, sha256: str) -> Path:
        """Return where a blob lies, or would lie."""
        return self.root / "blobs" / sha256[:2] / sha256

    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes."""
        return self.blob(entry.sha256).read_bytes()

    def receive(self, pieces: Iterable[bytes], expected: str | None = None) -> str:
        """Write a blob piece by piece, whole or not at all, and return its SHA-256."""
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self.root / "incoming")
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            sha256 = digest.hexdigest()
            if expected not in (None, sha256):
                raise RefusedError(400, f"the bytes have the SHA-256 {sha256}, not {expected}")
            self.blob(sha256).parent.mkdir(exist_ok=True)
            Path(name).replace(self.blob(sha256))
        finally:
            Path(name).unlink(missing_ok=True)
        return sha256

    def add_bytes(self, path: str, data: bytes) -> Entry:
        """Store a file that is in memory, and return its entry under `path`."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.blob(sha256).exists():
            self.receive([data], sha256)
        return self.entry(sha256, lfs=travels_as_lfs(path, len(data)))

    def add_file(self, path: str, file: Path) -> Entry:
        """Store a copy of a file on disk, and return its entry under `path`."""
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while piece := stream.read(PIECE):
                digest.update(piece)
            sha256 = digest.hexdigest()
            if not self.blob(sha256).exists():
                stream.seek(0)
                self.receive(iter(lambda: stream.read(PIECE), b""), sha256)
        return self.entry(sha256, lfs=travels_as_lfs(path, file.stat().st_size))

    def entry(self, sha256: str, *, lfs: bool) -> Entry:
        """Return the entry of a blob that is here."""
        blob = self.blob(sha256)
        size = blob.stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return Entry(size, git_hash(pointer if lfs else blob.read_bytes()), sha256, lfs)

    def all(self, kind: str) -> list[Repository]:
        """Return every repository of a kind, sorted by id."""
        files = sorted((self.root / "repositories" / f"{kind}s").glob("*/*.json"), key=str)
        found = (self._load(file) for file in files if is_repository_id(f"{file.parent.name}/{file.stem}"))
        return [repository for repository in found if repository]

    def find(self, kind: str, repo_id: str) -> Repository | None:
        """Return a repository as it stands, to look at, or None."""
        return self._load(self._file(kind, repo_id)) if is_repository_id(repo_id) else None

    def _load(self, file: Path) -> Repository | None:
        """Read a repository if its file is there and has changed since it was read last."""
        try:
            status = file.stat()
            mark = (status.st_mtime_ns, status.st_ino, status.st_size)
            cached = self._cache.get(file)
            if cached is None or cached[0] != mark:
                self._cache[file] = cached = (mark, Repository.from_json(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        return cached[1]

    def create(self, repository: Repository) -> None:
        """Write a new repository."""
        if not is_repository_id(repository.id) or repository.kind not in KINDS:
            raise RefusedError(400, f"{repository.id!r} is not an id of the form namespace/name")
        with self._locked():
            if self._file(repository.kind, repository.id).exists():
                raise RefusedError(409, f"You already created this {repository.kind} repo")
            self._write(repository)

    @contextmanager
    def change(self, kind: str, repo_id: str) -> Iterator[Repository]:
        """Lend a fresh copy to change; it is written if the block ends without an error, and dropped otherwise."""
        with self._locked():
            if self.find(kind, repo_id) is None:
                raise RefusedError(404, "Repository not found", code="RepoNotFound")
            repository = Repository.from_json(self._file(kind, repo_id).read_text(encoding="utf-8"))
            yield repository
            self._write(repository)

    def delete(self, repository: Repository) -> None:
        """Forget a repository; its blobs stay, others may share them."""
        with self._locked():
            self._file(repository.kind, repository.id).unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file beside the repositories, whole or not at all."""
        handle, temporary = tempfile.mkstemp(dir=self.root / "incoming")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        Path(temporary).replace(self.root / name)

    def _file(self, kind: str, repo_id: str) -> Path:
        return self.root / "repositories" / f"{kind}s" / f"{repo_id}.json"

    def _write(self, repository: Repository) -> None:
        file = self._file(repository.kind, repository.id)
        self.write_text(str(file.relative_to(self.root)), repository.to_json())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other thread and process from changing the store."""
        with (self.root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go by the system when the file is closed, however the process ends
            yield
