"""Which data sets are a task's own: one matcher for what lists, cards and adapters say they were made from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_EXTRAS = frozenset({"main", "train", "full", "hf", "mirror", "dataset", "data"})


def own_data(names: Iterable[str], closed: Collection[str], *, copies: bool = False) -> dict[str, str]:
    """Find the names that mean one of a task's own data sets.

    Exactly, a name is an id in any letter case, or its last part alone: old cards leave out the namespace, but
    `someone/gsm8k` is somebody else's. With `copies`, `openai/gsm8k`, `GSM8K`, `someone/gsm8k-main` and a link to any
    of them are one data set: namespace, letter case, signs and words such as `main` or `train` are left out.
    `someone/gsm8k-cot` is another one either way.

    Args:
        names: Data sets as a list or card names them.
        closed: Ids of the task's own data sets.
        copies: Whether somebody else's copies count; a list can be read again, what an adapter has seen cannot.

    Returns:
        Those of `names` that are closed, as they were given, in their order -> the closed id.
    """
    known = {form: entry for entry in closed for form in (_forms(entry) if copies else [_last(entry)])}
    known |= {} if copies else {entry.lower(): entry for entry in closed}
    found = {}
    for name in names:
        forms = _forms(name) if copies else [name.lower()]
        if meant := next((known[form] for form in forms if form in known), ""):
            found[name] = meant
    return found


def _last(dataset: str) -> str:
    """Return an id without its namespace, in lower case."""
    return dataset.rpartition("/")[2].lower()


def _forms(dataset: str) -> list[str]:
    """Return the normal forms of a data set's id or address: without its namespace, and with it."""
    path = re.sub(r"^(?:https?://[^/]*/)?(?:datasets/)?", "", dataset.strip().casefold()).split("@")[0].split("?")[0]
    parts = [re.findall(r"[^\W_]+", part) for part in path.split("/")[:2]]
    named = ["".join(word for word in words if word not in _EXTRAS) or "".join(words) for words in parts]
    return [name for name in dict.fromkeys((named[-1], "".join(named))) if name]
