"""Three-way merge of trees, file by file."""

from __future__ import annotations

from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.repository import Repository, Tree


def merge_trees(repository: Repository, ours: str, theirs: str) -> Tree:
    """Apply what one commit changed since the last common commit to another.

    Args:
        repository: The repository.
        ours: The commit to change.
        theirs: The commit whose changes are wanted.

    Returns:
        The merged tree.

    Raises:
        RefusedError: If both changed the same file in different ways (409).
    """
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
