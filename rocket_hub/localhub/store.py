"""Repositories (commits that hold whole trees, references, discussions), and the folder that holds them.

    blobs/<first two digits>/<sha256>      the files
    repositories/<kind>s/<namespace>/<name>.json
    manifest.json                          what `hub.json` said, if the folder came with one

Several processes may use one store at once: blobs never change, a repository is read afresh when its file has changed,
and every change happens under one lock and ends with one `os.replace`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rocket_hub.errors import HubError, InputError


class RefusedError(HubError):
    """A request that this hub turns down.

    Attributes:
        status: The HTTP status.
        code: The Hub's own word for it (`RepoNotFound`, `GatedRepo`, ...), sent as `X-Error-Code`.
        body: The JSON body; `{"error": message}` unless something else is given.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.body = body if body is not None else {"error": message}
        self.headers = dict(headers or {})


EPOCH = "2024-01-01T00:00:00.000Z"
"""The date of everything that has no date of its own: the same files then give the same commit hash everywhere."""

KINDS = ("model", "dataset", "space")
DEFAULT_SETTINGS: dict[str, Any] = {
    "private": False,
    "gated": False,
    "downloads": 0,
    "likes": 0,
    "createdAt": EPOCH,
    "trendingScore": 0,
    "allowed": [],  # users who may read the files although the repository is gated or private
    "unsafe_files": {},  # what a security scan would say: path -> level
}

_PART = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}\w)?", re.ASCII)
_OTHER_REF = re.compile(r"refs/(?:convert|pr)/[\w-]+", re.ASCII)


def checked_settings(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Refuse settings that a repository does not have."""
    for key, value in settings.items():
        if key not in DEFAULT_SETTINGS:
            raise InputError(f"{where}: unknown setting {key!r}; known: {', '.join(DEFAULT_SETTINGS)}")
        kinds = {"gated": (bool, str), "trendingScore": (int, float)}.get(key, type(DEFAULT_SETTINGS[key]))
        if not isinstance(value, kinds):
            raise InputError(f"{where}: {key} cannot be {value!r}")
    return dict(settings)


def is_repository_id(text: str) -> bool:
    """Return whether `text` is `namespace/name` by the Hub's rules; such an id is also a safe path."""
    parts = text.split("/")
    if len(parts) != 2 or "--" in text or ".." in text or text.endswith(".git"):
        return False
    return all(_PART.fullmatch(part) for part in parts)


def now() -> str:
    """Return this moment the way the Hub writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True)
class Entry:
    """One file of a tree."""

    size: int  # bytes
    oid: str  # git's hash of the file, or of its LFS pointer
    sha256: str  # the name of its blob
    lfs: bool  # whether git would keep only a pointer

    @property
    def etag(self) -> str:
        """The hash that a client gets to see."""
        return self.sha256 if self.lfs else self.oid


Tree = dict[str, Entry]


@dataclass(frozen=True)
class Commit:
    """One commit; `id` is the SHA-1 of all the rest, so equal content gives equal ids."""

    id: str
    tree: Tree
    parents: list[str]
    title: str
    message: str
    author: str
    date: str


@dataclass(eq=False)
class Repository:
    """One repository. The store hands out copies: change one only inside `Store.change`."""

    kind: str
    id: str
    settings: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    other_refs: dict[str, str] = field(default_factory=dict)
    discussions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = {**DEFAULT_SETTINGS, **self.settings}

    @property
    def namespace(self) -> str:
        """The user or organisation that owns it."""
        return self.id.split("/")[0]

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, tag, reference or (shortened) hash names."""
        for table in (self.branches, self.tags, self.other_refs):
            if revision in table:
                return table[revision]
        branch = revision.removeprefix("refs/heads/")
        if branch in self.branches:
            return self.branches[branch]
        matches = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(matches) != 1:
            raise RefusedError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return matches[0]

    def tree(self, revision: str) -> Tree:
        """Return the files at a revision, by path."""
        return self.commits[self.resolve(revision)].tree

    def point(self, ref: str, sha: str) -> None:
        """Let a branch, or a full `refs/pr/..` or `refs/convert/..` name, point to a commit."""
        (self.other_refs if _OTHER_REF.fullmatch(ref) else self.branches)[ref] = sha

    def add_commit(
        self, ref: str, tree: Tree, *, title: str, message: str = "", author: str, date: str, parents: list[str]
    ) -> str:
        """Add a commit, let `ref` point to it, and return its hash."""
        commit = Commit("", tree, parents, title, message, author, date)
        content = asdict(commit)
        del content["id"]
        sha = hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.commits[sha] = replace(commit, id=sha)
        self.point(ref, sha)
        return sha

    def history(self, sha: str) -> list[Commit]:
        """Return a commit and its first parents, newest first."""
        commits = [self.commits[sha]]
        while commits[-1].parents:
            commits.append(self.commits[commits[-1].parents[0]])
        return commits

    def to_json(self) -> str:
        """Return the whole state as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Repository:
        """Read what `to_json` wrote."""
        state = json.loads(text)
        for sha, commit in state["commits"].items():
            tree = {path: Entry(**entry) for path, entry in commit["tree"].items()}
            state["commits"][sha] = Commit(**(commit | {"tree": tree}))
        return Repository(**state)


def merge_trees(repository: Repository, ours: str, theirs: str) -> Tree:
    """Return the tree of commit `ours` with what commit `theirs` changed since their last common commit."""
    base: Tree = repository.commits[_common(repository, ours, theirs)].tree
    mine, other = repository.commits[ours].tree, repository.commits[theirs].tree
    merged = dict(mine)
    for path in base.keys() | other.keys():
        before, after = base.get(path), other.get(path)
        if before == after or mine.get(path) == after:
            continue
        if mine.get(path) != before:
            raise RefusedError(409, f"this pull request has a conflict with main in {path}")
        if after is None:
            del merged[path]
        else:
            merged[path] = after
    return merged


def _common(repository: Repository, ours: str, theirs: str) -> str:
    """Return the newest commit of `theirs`' history that `ours` has, too."""
    known, queue = set(), [ours]
    while queue:
        sha = queue.pop()
        if sha not in known:
            known.add(sha)
            queue += repository.commits[sha].parents
    for commit in repository.history(theirs):
        if commit.id in known:
            return commit.id
    raise RefusedError(409, "this pull request has no commit in common with main")


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
