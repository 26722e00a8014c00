"""What a task is: its prompt, how an answer is read out of text, and where its evaluation set is."""

from rocket_hub.tasks.finding import get_task
from rocket_hub.tasks.numeric import GSM8K
from rocket_hub.tasks.task import Task

__all__ = ["GSM8K", "Task", "get_task"]
