"""The state of one repository, without disk or HTTP: commits that hold whole trees, references, discussions."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from rocket_hub.localhub.errors import RefusedError

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
