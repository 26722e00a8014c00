"""Cost of the routed layer against its alternatives: `python -m tests.benchmarks.routed_layer`.

All variants take turns in one process and one thread, in an order that rotates from round to round, and each ratio is
the median of the ratios within a round. The bare base, which no bar is about, and X-LoRA, the slowest by far, take part
in every fourth round only. Decoding adds one token to a cache of 64; X-LoRA refuses the cache and runs over all of
them. Saved activations and FLOPs (of forward + backward) are counted, not timed.
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.measuring import Bars, Ratio, print_bars, ratio
from tests.benchmarks.variants import Size, build

COLUMNS = {"forward": "forward", "train": "forward+backward", "decode": "decode", "saved": "saved", "flops": "FLOPs"}
NAMES = {
    "base": "base",
    "lora": "plain LoRA of the total rank",
    "rocket": "ROCKET_MOE dense",
    "rocket-top2": "ROCKET_MOE top-2",
    "arrow": "PEFT Arrow",
    "xlora": "PEFT X-LoRA",
    "loop": "naive loop",
}
OURS = ("rocket", "rocket-top2")
SELDOM = ("base", "xlora")
LIMITS = {
    "lora": {"forward": 1.06, "train": 1.03, "decode": 1.12, "saved": 1.10},
    "arrow": {"forward": 0.80, "train": 0.72, "decode": 0.70, "saved": 0.40},
    "xlora": {"forward": 0.42, "train": 0.60, "decode": 0.15},
    "loop": {"forward": 0.82, "train": 0.87, "decode": 0.70, "saved": 0.30},
}
DECODED = 4  # tokens per round; one for X-LoRA, which takes ten times as long for each

Costs = dict[str, dict[str, list[float | None]]]  # column -> variant -> one a round, None where it took no part
Ratios = dict[str, dict[str, dict[str, Ratio]]]  # our variant -> other variant -> column


def timed(work: Callable[[], object], device: str, clock: str) -> float:
    """Run `work` once and return its seconds.

    On `cuda` they are taken with events on the stream; on `cpu` by the `clock`: `cpu`, the time of this process, which
    other jobs on the machine hardly change, or `wall`.
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

    Returns the bytes that the forward pass saves for the backward pass, each storage once, weights and buffers left
    out; and the floating-point operations of the matrix products and attentions of both passes.
    """
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    # The storages themselves are held, because the address of a freed one is used again.
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            saved[storage.data_ptr()] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            result = loss()
        size = sum(storage.nbytes() for storage in saved.values())
        result.backward()
    return size, int(counter.get_total_flops())


class Workload:
    """A forward pass, a training step without its optimiser, and decoding, of one model."""

    def __init__(self, model: nn.Module, size: Size, device: str, cached: bool) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(1)
        draw = lambda *shape: torch.randint(size.vocabulary, shape, generator=generator).to(device)  # noqa: E731
        self.ids, self.prompt, self.next = draw(size.batch, size.tokens), draw(1, size.context), draw(1, 1)
        self.cache: Any = None
        self.decoded = DECODED if cached else 1
        if cached:
            with torch.no_grad():
                self.cache = model.eval()(input_ids=self.prompt, use_cache=True).past_key_values

    @torch.no_grad()
    def forward(self) -> None:
        self.model(input_ids=self.ids, use_cache=False)

    def loss(self) -> torch.Tensor:
        return self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss

    def train(self) -> None:
        self.loss().backward()

    @torch.no_grad()
    def decode(self) -> None:
        for _ in range(self.decoded):
            if self.cache is None:
                self.model(input_ids=torch.cat([self.prompt, self.next], 1), use_cache=False)
            else:
                self.model(input_ids=self.next, past_key_values=self.cache, use_cache=True)

    def measure(self, what: str, device: str, clock: str) -> float:
        """Time `forward`, `train` or one token of `decode`, and leave the model as it was."""
        self.model.train(what == "train")
        work: Callable[[], None] = getattr(self, what)
        seconds = timed(work, device, clock) / (self.decoded if what == "decode" else 1)
        self.model.zero_grad(set_to_none=True)
        if what == "decode" and self.cache is not None:
            self.cache.crop(-self.decoded)
        return seconds


def measure(workloads: dict[str, Workload], rounds: int, seldom: int, device: str, clock: str) -> Costs:
    """Time every variant in every round, some in every `seldom`th, and count what can be counted."""
    names = list(workloads)
    costs: Costs = {column: {name: [] for name in names} for column in COLUMNS}
    for name, work in workloads.items():
        work.model.train()
        saved, flops = count(work.model, work.loss)
        costs["saved"][name], costs["flops"][name] = [saved], [flops]
        work.measure("decode", device, clock)  # warms up what the counts did not
    gc.freeze()  # walking seven models would take the collector 0.2 s a round
    gc.disable()
    for turn in range(rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for what in ("forward", "train", "decode"):
            for name in order[:: 1 if turn % 2 else -1]:
                absent = name in SELDOM and turn % seldom
                costs[what][name].append(None if absent else workloads[name].measure(what, device, clock))
        gc.collect()
    gc.enable()
    gc.unfreeze()
    return costs


def ratios_of(costs: Costs) -> Ratios:
    others = [name for name in NAMES if name not in OURS]
    return {
        ours: {name: {column: ratio(costs[column][ours], costs[column][name]) for column in COLUMNS} for name in others}
        for ours in OURS
    }


def bars_of(ratios: Ratios) -> Bars:
    bars: Bars = []
    for ours, others in ratios.items():
        for other, limits in LIMITS.items():
            for column, limit in limits.items():
                found = others[other][column]
                note = " (the interval spans the bar)" if found.low <= limit < found.high else ""
                label = f"{NAMES[ours]} / {NAMES[other]}, {COLUMNS[column]}"
                bars.append((round(found.median, 2) <= limit, f"{label}: {found} <= {limit}{note}"))
    return bars


def print_tables(ratios: Ratios, costs: Costs) -> None:
    print(f"{'ratio':<48}" + "".join(f"{title:>20}" for title in COLUMNS.values()))
    for ours, others in ratios.items():
        for other, cells in others.items():
            label = f"{NAMES[ours]} / {NAMES[other]}"
            print(f"{label:<48}" + "".join(f"{cells[column]!s:>20}" for column in COLUMNS))
    print(f"\n{'':<30}" + "".join(f"{t:>14}" for t in ("forward s", "f+b s", "decode ms", "saved MiB", "GFLOP")))
    scales = dict(zip(COLUMNS, (1, 1, 1e3, 2**-20, 1e-9), strict=True))
    for name, label in NAMES.items():
        cells = [np.median([c for c in costs[column][name] if c]) * scale for column, scale in scales.items()]
        print(f"{label:<30}" + "".join(f"{cell:>14.4g}" for cell in cells))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.routed_layer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seldom", type=int, default=4, help="the base and X-LoRA take part in every Nth round")
    parser.add_argument("--experts", type=int, default=4, choices=(4, 8))
    parser.add_argument("--tokens", type=int, default=256, help="tokens per sequence, four sequences a batch")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: bf16, hidden size 4096")
    parser.add_argument(
        "--clock", default="cpu", choices=("cpu", "wall"), help="on the CPU: the process's time, or wall"
    )
    parser.add_argument("--json", type=Path, help="write every number here")
    return parser.parse_args()


def main() -> int:
    start, load, given = time.perf_counter(), os.getloadavg()[0], options()
    cuda = given.device == "cuda"
    size = Size(hidden=4096, intermediate=11008, heads=32) if cuda else Size()
    size = replace(size, experts=given.experts, tokens=given.tokens)
    with tempfile.TemporaryDirectory() as folder:
        models = build(size, Path(folder), given.device, torch.bfloat16 if cuda else torch.float32)
    workloads = {name: Workload(model, size, given.device, name != "xlora") for name, model in models.items()}
    costs = measure(workloads, given.rounds, given.seldom, given.device, given.clock)
    ratios = ratios_of(costs)
    bars = bars_of(ratios)
    rounds = f"{given.rounds} rounds ({', '.join(SELDOM)}: every {given.seldom})"
    print(f"{size}\n{given.device}, {rounds}, {given.clock} clock, load average {load:.1f} at the start\n")
    print_tables(ratios, costs)
    print()
    code = print_bars(bars)
    if given.json:
        found = {
            "machine": torch.cuda.get_device_name() if cuda else platform.platform(),
            "torch": torch.__version__,
            "load_average": load,
            "options": {key: str(value) for key, value in vars(given).items()},
            "size": asdict(size),
            "ratios": ratios,
            "bars": [text for _, text in bars],
            "costs": costs,
        }
        given.json.write_text(json.dumps(found, indent=1, default=asdict) + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return code


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.exit(main())
