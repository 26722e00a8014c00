"""Find a task by its name, or make one from a file."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from rocket_hub.errors import TaskError
from rocket_hub.tasks.choices import ARC_CHALLENGE, ARC_EASY, PIQA
from rocket_hub.tasks.code import MBPP
from rocket_hub.tasks.custom import read_task
from rocket_hub.tasks.numeric import GSM8K
from rocket_hub.tasks.task import Task
from rocket_hub.tasks.yes_no import BOOLQ

TASKS = {task.name: task for task in (GSM8K, MBPP, ARC_CHALLENGE, ARC_EASY, PIQA, BOOLQ)}


def get_task(name: str) -> Task:
    """Find a task by name, or read a task of one's own from a YAML file.

    Args:
        name: A task's name, or the path of a `.yaml` file; see `rocket_hub.tasks.custom`.

    Raises:
        TaskError: There is no such task; the message names the nearest one and all that exist.
        RecipeError: The file is not in the form of a task; the message names file, key and what was meant.
    """
    if name.endswith((".yaml", ".yml")):
        return read_task(Path(name))
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        meant = f", did you mean '{near[0]}'?" if near else ""
        known = f"Known tasks: {', '.join(TASKS)}; or give the path of a .yaml file"
        raise TaskError(f"unknown task '{name}'{meant} {known}")
    return TASKS[name]
