"""What a method is, and what methods are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rocket_hub.moe.expert import Expert
from rocket_hub.options import MergeOptions
from rocket_hub.records import Example, Pinned

Start = Callable[[float, Path], Path]  # (weight, folder to write) -> folder to start from
Open = Callable[[Any, Path, bool], AbstractContextManager[Any]]  # (base, folder, whether it is trained) -> the model


@dataclass(frozen=True)
class Method:
    """One way to a model for the task.

    Attributes:
        name: What tables call it.
        label: What it is, in a few words.
        start: Writes the folder it starts from; none = the bare base model.
        trained: Whether it is fine-tuned.
        weighted: Whether it has a weight to choose: the stack's, or the gates' start.
        schedule: What of a routed adapter is trained when; none = as the recipe says.
        rows: What it is trained on beside the K-shot: the `selected` rows, as many `random` ones of the pool, or
            `none`.
        experts: Repository ids of its experts, where they are not the chosen ones.
        open: Puts what is in a folder on the base model, which is the same as before when the block ends; none = PEFT's
            road for one adapter, plain or routed.
    """

    name: str
    label: str
    start: Start | None = None
    trained: bool = False
    weighted: bool = False
    schedule: str | None = None
    rows: str = "selected"
    experts: tuple[str, ...] = ()
    open: Open | None = None


@dataclass(frozen=True)
class Group:
    """Experts that are read when a method first asks for them.

    Attributes:
        pins: Their ids, commits and licences.
        read: Reads one of them.
    """

    pins: tuple[Pinned, ...]
    read: Callable[[Pinned], Expert]

    @property
    def names(self) -> tuple[str, ...]:
        """Their repository ids."""
        return tuple(pin.repo_id for pin in self.pins)

    @cached_property
    def experts(self) -> list[Expert]:
        """The experts, in the order of the pins."""
        return [self.read(pin) for pin in self.pins]


@dataclass(frozen=True)
class Parts:
    """What methods are made of; nothing is fetched before a method asks for it.

    Attributes:
        model: Gives the base model and its tokenizer.
        base: Its id and commit.
        shots: The K-shot in the task's form.
        chosen: The chosen experts.
        drawn: As many experts, drawn at random from all usable ones.
        ranked: As many experts, the first by rank alone.
        best: Gives the folder of the best single expert.
        merge: Gate form of routed adapters.
        seed: Seeds what is random.
    """

    model: Callable[[], tuple[Any, Any]]
    base: Pinned
    shots: Sequence[Example]
    chosen: Group
    drawn: Group
    ranked: Group
    best: Callable[[], Path]
    merge: MergeOptions
    seed: int = 0

    @property
    def pin(self) -> dict[str, Any]:
        """The base model, as adapter folders name it."""
        return {"base_model": self.base.repo_id, "base_revision": self.base.revision}
