"""What the routed layer costs against its alternatives: `python -m tests.benchmarks.routed_layer`.

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

import torch
from torch import nn

from tests.benchmarks.measuring import count, timed
from tests.benchmarks.reporting import COLUMNS, Costs, bars, compare, medians, table
from tests.benchmarks.variants import Size, build

SELDOM = ("base", "xlora")
DECODED = 4  # tokens per round; one for X-LoRA, which takes ten times as long for each


class Workload:
    """The three things that are timed, for one model."""

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
        """One forward pass of the batch."""
        self.model(input_ids=self.ids, use_cache=False)

    def loss(self) -> torch.Tensor:
        """The forward pass of a training step."""
        return self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss

    def train(self) -> None:
        """A training step without its optimiser."""
        self.loss().backward()

    @torch.no_grad()
    def decode(self) -> None:
        """The next `decoded` tokens."""
        for _ in range(self.decoded):
            if self.cache is None:
                self.model(input_ids=torch.cat([self.prompt, self.next], 1), use_cache=False)
            else:
                self.model(input_ids=self.next, past_key_values=self.cache, use_cache=True)

    def measure(self, what: str, device: str, clock: str) -> float:
        """Time one of the three, and leave the model as it was."""
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


def profile(workload: Workload, device: str) -> str:
    """Say where a training step of the dense routed model spends its time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with record(activities=activities) as recorded:
        workload.train()
    return str(recorded.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=15))


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.routed_layer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seldom", type=int, default=4, help="the base and X-LoRA take part in every Nth round")
    parser.add_argument("--experts", type=int, default=4, choices=(4, 8))
    parser.add_argument("--tokens", type=int, default=256, help="tokens per sequence, four sequences a batch")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: bf16, hidden size 4096")
    parser.add_argument(
        "--clock", default="cpu", choices=("cpu", "wall"), help="on the CPU: the process's own time, or wall"
    )
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument("--profile", action="store_true", help="also profile a training step")
    return parser.parse_args(arguments)


def report(given: argparse.Namespace, size: Size, costs: Costs, load: float) -> bool:
    """Print the tables, write the JSON, and say whether every bar is reached."""
    ratios = compare(costs)
    verdicts = bars(ratios)
    rounds = f"{given.rounds} rounds ({', '.join(SELDOM)}: every {given.seldom})"
    print(f"{size}\n{given.device}, {rounds}, {given.clock} clock, load average {load:.1f} at the start\n")
    print(*table(ratios), "", *medians(costs), "", *(line for _, line in verdicts), sep="\n")
    if given.json:
        found = {
            "machine": torch.cuda.get_device_name() if given.device == "cuda" else platform.platform(),
            "torch": torch.__version__,
            "load_average": load,
            "options": {key: str(value) for key, value in vars(given).items()},
            "size": asdict(size),
            "ratios": {
                o: {t: {c: asdict(r) for c, r in cs.items()} for t, cs in ts.items()} for o, ts in ratios.items()
            },
            "bars": [line for _, line in verdicts],
            "costs": costs,
        }
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return all(passed for passed, _ in verdicts)


def main(arguments: list[str] | None = None, size: Size | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed.

    Args:
        arguments: Command line; None = the process's own.
        size: Sizes in place of the device's.
    """
    start = time.perf_counter()
    given = options(arguments)
    size = size or (Size(hidden=4096, intermediate=11008, heads=32) if given.device == "cuda" else Size())
    size = replace(size, experts=given.experts, tokens=given.tokens)
    dtype = torch.bfloat16 if given.device == "cuda" else torch.float32
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        models = build(size, Path(folder), given.device, dtype)
    workloads = {name: Workload(model, size, given.device, name != "xlora") for name, model in models.items()}
    reached = report(given, size, measure(workloads, given.rounds, given.seldom, given.device, given.clock), load)
    if given.profile:
        print(profile(workloads["rocket"], given.device))
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return 0 if reached else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.exit(main())
