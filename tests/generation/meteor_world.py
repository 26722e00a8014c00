"""A teacher that answers, judges and fails as it is told, and a weak model of 28 words."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rocket_hub.generation.meteor import Meteor, meteor
from rocket_hub.generation.teachers import Budget, EndpointTeacher
from rocket_hub.inference.models import load_base
from rocket_hub.options import MeteorOptions
from rocket_hub.tasks import GSM8K

QUESTIONS = [f"what is {a} plus {b} ?" for a in range(4) for b in range(4)]
OPTIONS = MeteorOptions(
    stages=("distilled", "refined"), max_new_tokens=8, max_guideline_tokens=6, max_judgement_tokens=50, beams=3, rank=8,
    learning_rate=1e-2, epochs=30, batch_size=16, collect=5, evolve_learning_rate=1e-3,
)  # fmt: skip
DISTILLED = replace(OPTIONS, stages=("distilled",))
RIGHT = '{"correct": true, "advice": ""}'
WRONG = '{"correct": false, "advice": "the answer is 5"}'


class Replies(dict[str, str]):
    """What the server answers, by what it is asked."""

    def __init__(self, say: Callable[[str], str]) -> None:
        super().__init__()
        self.say = say

    def get(self, prompt: str, default: Any = None) -> Any:
        return self.say(prompt)


def say(prompt: str) -> str:
    """Answer 5, whatever is asked, and find right what ends with it."""
    if prompt.startswith("Judge"):
        return RIGHT if answer_in(prompt).endswith("5") else WRONG
    return "the answer is #### 5"


def answer_in(prompt: str) -> str:
    """Return the answer that a judge is shown, without the marks of its quotation."""
    shown = prompt.partition("\nAnswer:\n")[2].removesuffix("\nVerdict:")
    return "\n".join(line[2:] for line in shown.splitlines())


class Faults(dict[str, list[str]]):
    """Faults of each prompt's first attempts, dealt in turn to prompts as they come."""

    def __init__(self, deal: list[list[str]]) -> None:
        super().__init__()
        self.deal = deal
        self.dealt: dict[str, list[str]] = {}

    def get(self, prompt: str, default: Any = None) -> Any:
        if prompt not in self:
            self.dealt[prompt] = self.deal[len(self) % len(self.deal)]
            self[prompt] = list(self.dealt[prompt])
        return self[prompt]


def run_meteor(
    url: str, model: Path, folder: Path, options: MeteorOptions = OPTIONS, questions: list[str] = QUESTIONS,
    at_once: int = 8, timeout: float = 60, **more: Any
) -> Meteor:  # fmt: skip
    teacher = EndpointTeacher(url, "wise", timeout=timeout)
    teacher.at_once = at_once
    base, tokenizer = load_base(str(model), None)
    given = {"budget": Budget(), "maker": "wise", "folder": folder} | more
    return meteor(base, tokenizer, GSM8K, questions, given.pop("adapter", None), teacher, options, **given)


if __name__ == "__main__":
    import sys

    run_meteor(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), at_once=int(sys.argv[4]))
