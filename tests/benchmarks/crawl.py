"""How right, polite and fast a crawl is: `python -m tests.benchmarks.crawl`.

A local Hub in a process of its own answers every request 30 ms late and counts them against a quota of a tenth of the
crawl. The naive loop, without any quota, is measured on a sample and scaled to all adapters.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from rocket_hub.discovery import discover_adapters
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import AdapterDiscovery
from tests.benchmarks.crawl_hub import Served, serving
from tests.benchmarks.crawl_world import BASE, BY_HEADER, BY_LIST, COPY, plant

ADAPTERS, LATENCY, WINDOW, SAMPLE, FASTER = 3_000, 0.030, 2, 150, 10.0
REFUSED = 3


@dataclass(frozen=True)
class Crawl:
    """One crawl: what was found, the seconds it took, and what the Hub was asked."""

    found: AdapterDiscovery
    seconds: float
    asked: dict[str, Any]

    def wrong(self, due: dict[str, str]) -> list[str]:
        """Say which verdicts are not those that are due."""
        said = {item.repo_id: "usable" for item in self.found.selected}
        said |= {rejection.item: rejection.reason for rejection in self.found.rejected}
        return [f"{name}: {said.get(name)}, due {due.get(name)}" for name in sorted(due.keys() | said.keys())
                if due.get(name) != said.get(name)]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Two crawls of one Hub, and the seconds that the naive loop would need; 0 = not measured."""

    due: dict[str, str]
    first: Crawl
    second: Crawl
    naive: float
    quota: int

    def bars(self) -> list[tuple[bool, str]]:
        """Hold the crawl against its bars."""
        asked, again = self.first.asked["kinds"], self.second.asked["kinds"]
        usable = sum(reason == "usable" for reason in self.due.values())
        configs = sum(reason not in BY_LIST for reason in self.due.values())
        headers = usable + sum(reason in BY_HEADER for reason in self.due.values())
        wrong = self.first.wrong(self.due) + self.second.wrong(self.due)
        told = {name: number for name, number in again.items() if name not in ("list page", "model record")}
        bars = [
            (not wrong, f"verdicts: {len(wrong)} wrong of 2 x {len(self.due):,} ({'; '.join(wrong[:3]) or 'none'})"),
            (asked["adapter_config.json"] <= configs, f"configs: {asked['adapter_config.json']:,} GETs for {configs:,} "
             "candidates"),
            (asked["adapter_model.safetensors"] <= headers, f"headers: {asked['adapter_model.safetensors']:,} Range "
             f"requests for {headers:,} survivors"),
            (self.first.asked["most per file"] == 1, "no file of an adapter was read twice"),
            (not told, f"second crawl: {again}, besides the list and one record of the base and its copy: {told}"),
            (not asked.get("429", 0) + again.get("429", 0), f"429: {asked.get('429', 0)} but {REFUSED} injected ones, "
             f"at {self.quota} requests in {WINDOW} s"),
        ]  # fmt: skip
        if self.naive:
            ratio = self.naive / self.first.seconds
            bars.append((ratio >= FASTER, f"time: {self.first.seconds:.1f} s, naive loop {self.naive:.0f} s (scaled): "
                         f"{ratio:.1f}x faster, bar {FASTER:.0f}x"))  # fmt: skip
        return bars


def measure(folder: Path, adapters: int, sample: int, latency: float = LATENCY, windows: int = 10) -> Measured:
    """Plant a Hub, crawl it twice, and time the naive loop on a sample (none if it is 0).

    The quota is the requests of the crawl, divided by `windows`.
    """
    due = plant(folder / "hub", adapters)
    late = Fault("", "delay", times=-1, seconds=latency)
    refused = Fault("adapter_config", "status", times=REFUSED, status=429, headers={"Retry-After": "1"})
    with serving(folder / "hub", page=1_000) as hub:
        hub.ask("faults", [refused, late])
        requests = sum(reason not in BY_LIST for reason in due.values())
        requests += sum(reason == "usable" or reason in BY_HEADER for reason in due.values())
        hub.ask("limit", requests // windows, WINDOW)
        first, second = (_crawl(hub, folder / "home") for _ in range(2))
        hub.ask("limit", None, WINDOW)
        naive = _naive(hub, folder / "naive", sample) if sample else 0.0
    return Measured(due, first, second, naive, requests // windows)


def _crawl(hub: Served, home: Path) -> Crawl:
    """Crawl once."""
    constants.HF_HOME = str(home)
    hub.ask("counts")
    options = DiscoverOptions(max_adapters=10**6, mirrors=(COPY,))
    started = time.perf_counter()
    found = discover_adapters(HfApi(endpoint=hub.url, token="hf_local"), BASE, options=options)
    return Crawl(found, time.perf_counter() - started, hub.ask("counts"))


def _naive(hub: Served, home: Path, sample: int) -> float:
    """Time the naive loop; returns the seconds that it would need for all adapters."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_local", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.crawl_naive", BASE, str(sample)]
    done = subprocess.run(command, env=kept | variables, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"naive loop: {told}, requests {hub.ask('counts')['kinds']}")
    return told["listing"] + told["loop"] * told["listed"] / told["sample"]


def main() -> None:
    """Print what was asked, and each bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="adapters that the naive loop reads; 0 = none")
    given = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), given.adapters, given.sample)
    for name, crawl in (("first", measured.first), ("second", measured.second)):
        print(f"{name} crawl: {crawl.seconds:.1f} s, {len(crawl.found.selected):,} usable, {crawl.asked}")
    bars = measured.bars()
    for passed, text in bars:
        print(f"{'pass' if passed else 'FAIL'}  {text}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    sys.exit(0 if all(passed for passed, _ in bars) else 1)


if __name__ == "__main__":
    main()
