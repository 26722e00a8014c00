"""Work shared between the processes of one launch (`torchrun`, `accelerate launch`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process's part of the work.

    Attributes:
        rank: Number of the process, from 0.
        world: How many there are.
        group: Their group for exchanging results; None for a single process.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    def mine(self, count: int) -> range:
        """List which of `count` equal pieces of work are this process's."""
        return range(self.rank, count, self.world)

    def gather(self, found: Mapping[int, T]) -> list[T]:
        """Put the pieces of all processes together; every process gets the same list, in the order of the pieces."""
        everyone: list[Mapping[int, T]] = [found]
        if self.world > 1:
            everyone = [{} for _ in range(self.world)]
            dist.all_gather_object(everyone, found, group=self.group)
        together = {piece: value for each in everyone for piece, value in each.items()}
        return [together[piece] for piece in sorted(together)]


@contextmanager
def share() -> Iterator[Share]:
    """Find out how many processes there are, and open a group between them.

    The default group is left to accelerate, as the training after this would make it; results are numbers in main
    memory and go through gloo, whatever that group uses.
    """
    if not dist.is_available() or (int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized()):
        yield Share()
        return
    if not dist.is_initialized():
        from accelerate import PartialState
        from torch import cuda

        PartialState(cpu=not cuda.is_available())
    group = dist.new_group(backend="gloo")
    try:
        yield Share(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)
