"""Verdicts, requests and time of a crawl: `python -m tests.benchmarks.crawl`.

A local Hub in a process of its own answers every request 30 ms late and counts them against a quota of a tenth of the
crawl. The naive loop, without any quota, is measured on a sample and scaled to all adapters.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from rocket_hub.discovery import discover_adapters
from rocket_hub.localhub import Fault, LocalHub
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import AdapterDiscovery
from tests.benchmarks.crawl_world import BASE, BY_HEADER, BY_LIST, COPY, plant
from tests.benchmarks.measuring import Bars, print_bars

ADAPTERS, SAMPLE, FASTER = 3_000, 150, 10.0
LATENCY, WINDOW, WINDOWS = 0.030, 2, 10  # seconds; the quota is the requests of the crawl / WINDOWS in each WINDOW
REFUSED = 3
NAIVE = """
import json, sys, time
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig
base, sample = sys.argv[1], int(sys.argv[2])
started = time.perf_counter()
listed = list(HfApi().list_models(filter=f"base_model:adapter:{base}"))
listing = time.perf_counter() - started
started, loaded = time.perf_counter(), 0
for info in listed[:: max(1, len(listed) // sample)][:sample]:
    try:
        hf_hub_download(info.id, "adapter_config.json")
        loaded += PeftConfig.from_pretrained(info.id).peft_type is not None
    except (HfHubHTTPError, OSError, ValueError, KeyError, TypeError):
        pass
print(json.dumps({"listed": len(listed), "listing": listing, "loop": time.perf_counter() - started,
                  "sample": min(sample, len(listed)), "loaded": loaded}))
"""
"""The loop that one would write first: list all adapters, and read the configurations of a sample one by one."""


@dataclass(frozen=True)
class Served:
    """A Hub in another process, so that its work does not slow down what is measured."""

    url: str
    pipe: Connection

    def call(self, function: Any, *values: Any) -> Any:
        """Call a function of this module with the Hub, in its process."""
        self.pipe.send((function.__name__, values))
        return self.pipe.recv()


@contextmanager
def serving(store: Path) -> Iterator[Served]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(store, there), daemon=True)
    process.start()
    there.close()
    try:
        yield Served(here.recv(), here)
    finally:
        here.close()
        process.join(10)


def serve(store: Path, pipe: Connection) -> None:
    """Serve until the other end of the pipe is closed."""
    with LocalHub(store, page=1_000) as hub:
        pipe.send(hub.url)
        while True:
            try:
                name, values = pipe.recv()
            except EOFError:
                return
            pipe.send(globals()[name](hub, *values))


def limit(hub: LocalHub, requests: int | None) -> None:
    """Set the quota, and begin a new window."""
    hub.quota.limit, hub.quota.window = requests, WINDOW
    hub.quota._used.clear()


def spoil(hub: LocalHub, faults: list[Fault]) -> None:
    hub.faults[:] = faults


def counts(hub: LocalHub) -> dict[str, Any]:
    """Count the requests since the last call, by kind; those that a fault of the kind `status` hit are apart."""
    kinds: Counter[str] = Counter()
    per_file: Counter[tuple[str, str]] = Counter()
    for record in hub.log:
        repo_id, _, rest = record.path.partition("/resolve/")
        file = rest.partition("/")[2]
        kind = file or ("list page" if record.path.startswith("/api/models?") else "model record")
        if record.fault == "status":
            kind = f"injected {record.status}"
        elif record.status == 429:
            kind = "429"
        elif file:
            per_file[repo_id, file] += 1
        kinds[kind] += 1
    hub.log.clear()
    return {"kinds": dict(kinds), "most per file": max(per_file.values(), default=0)}


@dataclass(frozen=True)
class Crawl:
    """What a crawl found, its seconds, and what the Hub was asked."""

    found: AdapterDiscovery
    seconds: float
    asked: dict[str, Any]

    def wrong(self, due: dict[str, str]) -> list[str]:
        """Name the verdicts that are not those that are due."""
        said = {item.repo_id: "usable" for item in self.found.selected}
        said |= {rejection.item: rejection.reason for rejection in self.found.rejected}
        return [f"{name}: {said.get(name)}, due {due.get(name)}" for name in sorted(due.keys() | said.keys())
                if due.get(name) != said.get(name)]  # fmt: skip


def crawl(hub: Served, home: Path) -> Crawl:
    constants.HF_HOME = str(home)
    hub.call(counts)
    options = DiscoverOptions(max_adapters=10**6, mirrors=(COPY,))
    started = time.perf_counter()
    found = discover_adapters(HfApi(endpoint=hub.url, token="hf_local"), BASE, options=options)
    return Crawl(found, time.perf_counter() - started, hub.call(counts))


def naive_seconds(hub: Served, home: Path, sample: int) -> float:
    """Time the naive loop; returns the seconds that it would need for all adapters."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_local", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", NAIVE, BASE, str(sample)]
    done = subprocess.run(command, env=kept | variables, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"naive loop: {told}, requests {hub.call(counts)['kinds']}")
    return told["listing"] + told["loop"] * told["listed"] / told["sample"]


def measure(folder: Path, adapters: int, sample: int) -> Bars:
    """Plant a Hub, crawl it twice, and time the naive loop on a sample (none if it is 0)."""
    due = Counter((planted := plant(folder / "hub", adapters)).values())
    configs = sum(number for reason, number in due.items() if reason not in BY_LIST)
    headers = sum(number for reason, number in due.items() if reason == "usable" or reason in BY_HEADER)
    quota = (configs + headers) // WINDOWS
    late = Fault("", "delay", times=-1, seconds=LATENCY)
    refused = Fault("adapter_config", "status", times=REFUSED, status=429, headers={"Retry-After": "1"})
    with serving(folder / "hub") as hub:
        hub.call(spoil, [refused, late])
        hub.call(limit, quota)
        crawls = [crawl(hub, folder / "home") for _ in range(2)]
        hub.call(limit, None)
        naive = naive_seconds(hub, folder / "naive", sample) if sample else 0.0
    for name, each in zip(("first", "second"), crawls, strict=True):
        print(f"{name} crawl: {each.seconds:.1f} s, {len(each.found.selected):,} usable, {each.asked}")
    first, (asked, again) = crawls[0], (each.asked["kinds"] for each in crawls)
    wrong = [text for each in crawls for text in each.wrong(planted)]
    more = {name: number for name, number in again.items() if name not in ("list page", "model record")}
    read, ranges = asked["adapter_config.json"], asked["adapter_model.safetensors"]
    bars: Bars = [
        (not wrong, f"verdicts: {len(wrong)} wrong of 2 x {adapters:,} ({'; '.join(wrong[:3]) or 'none'})"),
        (read <= configs, f"configs: {read:,} GETs for {configs:,} candidates"),
        (ranges <= headers, f"headers: {ranges:,} Range requests for {headers:,} survivors"),
        (first.asked["most per file"] == 1, "no file of an adapter was read twice"),
        (not more, f"second crawl: {again}, besides the list and one record of the base and its copy: {more}"),
        (not asked.get("429", 0) + again.get("429", 0), f"429: {asked.get('429', 0)} but {REFUSED} injected ones, "
         f"at {quota} requests in {WINDOW} s"),
    ]  # fmt: skip
    if naive:
        faster = naive / first.seconds
        bars.append((faster >= FASTER, f"time: {first.seconds:.1f} s, naive loop {naive:.0f} s (scaled): "
                     f"{faster:.1f}x faster, bar {FASTER:.0f}x"))  # fmt: skip
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="adapters that the naive loop reads; 0 = none")
    given = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        code = print_bars(measure(Path(folder), given.adapters, given.sample))
    print(f"{time.perf_counter() - started:.0f} s in all")
    return code


if __name__ == "__main__":
    sys.exit(main())
