"""Clocks, exact counts, and ratios with their intervals."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Ratio:
    """A ratio of two costs with its 95 % interval; exact counts have an interval of no width."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None], resamples: int = 4000) -> Ratio:
    """Compare costs measured in the same rounds.

    Args:
        ours: One cost per round; None where it did not take part.
        theirs: The same of the other variant, in the same order.
        resamples: Bootstrap resamples of the rounds.

    Returns:
        Median of the rounds' ratios, with the 2.5 and 97.5 percentiles of the resampled medians.
    """
    ratios = np.array([one / other for one, other in zip(ours, theirs, strict=True) if one and other])
    drawn = np.random.default_rng(0).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def timed(work: Callable[[], object], device: str, clock: str) -> float:
    """Run `work` once and return what it cost in seconds.

    Args:
        work: What to run.
        device: `cpu`, or `cuda`, which is timed with events on its stream.
        clock: On the CPU: `cpu`, the process's own time, which other jobs on the machine hardly change; or `wall`.
    """
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    now = time.process_time if clock == "cpu" else time.perf_counter
    before = now()
    work()
    return now() - before


def count(model: nn.Module, loss: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Run one training step and count what does not depend on the machine.

    Args:
        model: The model, for its weights and buffers: they are there anyway and do not count as saved.
        loss: Forward pass.

    Returns:
        Bytes that the forward pass keeps for the backward pass, each storage once; and floating-point operations of
        the matrix products and attentions of both passes.
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    # The storages are kept, because the address of a freed one is used again.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = loss()
        saved = sum(storage.nbytes() for storage in kept.values())
        result.backward()
    return saved, int(counter.get_total_flops())
