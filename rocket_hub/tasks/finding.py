"""Find a task by its name."""

from __future__ import annotations

from difflib import get_close_matches

from rocket_hub.errors import TaskError
from rocket_hub.tasks.numeric import GSM8K
from rocket_hub.tasks.task import Task


def get_task(name: str) -> Task:
    """Find a task by name.

    Raises:
        TaskError: There is no such task; the message names the nearest one and all that exist.
    """
    known = {task.name: task for task in (GSM8K,)}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        meant = f", did you mean '{near[0]}'?" if near else ""
        raise TaskError(f"unknown task '{name}'{meant} Known tasks: {', '.join(known)}")
    return known[name]
