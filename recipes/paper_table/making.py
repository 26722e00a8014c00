"""Facts that only the scripts in `recipes/demo` know: the experts' own problems, and worked steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parents[1] / "demo"
SEED = 77
# Experts that were made to be of no use: by how their names begin.
USELESS = ("blind", "opposites", "first-number", "names")


def is_useless(repo_id: str) -> bool:
    """Return whether an expert was made to be of no use."""
    return repo_id.rpartition("/")[2].startswith(USELESS)


def script(name: str) -> Any:
    """Import one of the scripts; they import each other by their bare names."""
    sys.path.insert(0, str(DEMO))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(DEMO))


def problems_of(experts: Sequence[str], count: int) -> dict[str, Any]:
    """Draw problems of each expert's own skill: expert -> (task, problems)."""
    from rocket_hub.tasks import get_task

    models, found = script("models"), {}
    skills = {skill.name: skill for skill in models.BANK}
    for repo_id in experts:
        if skill := skills.get(repo_id.rpartition("/")[2]):
            task = get_task(skill.task)
            found[repo_id] = task, models.examples(task, skill.draw, count, SEED)
    return found


def with_steps(task: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the worked steps to rows of an evaluation set that holds only answers, as the Hub's own K-shot files do.

    The benchmarks that it imitates have no column for them. Rows that have one, or that the scripts do not draw, are
    given back as they are.
    """
    if any(row.get("rationale") for row in rows):
        return list(rows)
    families = script("families")
    steps, taken = dict[str, str](), set[str]()
    for number, family in enumerate(families.FAMILIES):
        if family.task == task:
            for i, count in enumerate((families.TEST_ROWS, families.TRAIN_ROWS)):
                drawn = families.distinct((family.target,), count, 100 * (number + 1) + i, taken)
                steps.update((_name(families.native(row)), row.get("rationale", "")) for row in drawn)
    if not all(steps.get(_name(row)) for row in rows):
        return list(rows)
    return [row | {"rationale": steps[_name(row)]} for row in rows]


def _name(row: dict[str, Any]) -> str:
    """Name a row by its content."""
    return json.dumps(row, sort_keys=True)
