"""What a task is: its prompt, how an answer is read out of text, its metric, and where its evaluation set is."""

from rocket_hub.tasks.choices import ARC_CHALLENGE, ARC_EASY, PIQA
from rocket_hub.tasks.code import MBPP
from rocket_hub.tasks.finding import get_task
from rocket_hub.tasks.numeric import GSM8K
from rocket_hub.tasks.scoring import load_metric, score
from rocket_hub.tasks.task import Task
from rocket_hub.tasks.yes_no import BOOLQ

__all__ = [
    "ARC_CHALLENGE", "ARC_EASY", "BOOLQ", "GSM8K", "MBPP", "PIQA", "Task", "get_task", "load_metric", "score",
]  # fmt: skip
