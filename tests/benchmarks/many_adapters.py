"""Memory and time of `rocket-hub select experts` on banks of growing size: `python -m tests.benchmarks.many_adapters`.

The bank is the demo Hub's own adapters and copies of some with noise; what is printed is the peak memory of the
command, with the Hub that it serves, and its time, for 50, 400 and 2,400 adapters (about twenty minutes on two cores).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.benchmarks.measuring import ROOT, print_bars

DEMO = ROOT / "rocket_hub" / "localhub" / "demo"
COPIED = ("addition", "subtraction", "packs", "climb", "compare", "shrink", "pick", "names", "opposites", "code-plus")
RUN = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); " \
      "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # fmt: skip


def plant(hub: Path, count: int) -> None:
    """Copy the demo Hub, with noisy copies of its plain LoRAs until there are about `count` of them."""
    shutil.copytree(DEMO, hub)
    known = len(list((hub / "models").rglob("adapter_model.safetensors")))
    sources = [hub / "models" / "rocket-demo" / name for name in COPIED]
    for number in range(count - known):
        source = sources[number % len(sources)]
        target = hub / "models" / "copies" / f"{source.name}-{number:05}"
        shutil.copytree(source, target)
        generator = torch.Generator().manual_seed(number)
        tensors = load_file(source / "adapter_model.safetensors")
        noisy = {name: one + 0.1 * one.float().std().nan_to_num() * torch.randn(one.shape, generator=generator).to(one)
                 if one.is_floating_point() and one.numel() > 1 else one for name, one in tensors.items()}  # fmt: skip
        save_file(noisy, target / "adapter_model.safetensors", metadata={"format": "pt"})


def measure(count: int) -> tuple[float, float]:
    """Run the command on a Hub of about `count` adapters; returns (peak memory in MiB, seconds)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(folder / "hub", count)
        command = [
            sys.executable, "-m", "rocket_hub", "select", "experts", "--hub", str(folder / "hub"), "--task", "gsm8k",
            "--kshot", str(ROOT / "recipes" / "demo" / "kshot.jsonl"), "--out", str(folder / "run"),
            "-o", f"discover.max_adapters={count}", "-o", "experts.selector=rocket", "-o", "experts.budget=40%",
            "-o", "experts.perplexity=geometric",
        ]  # fmt: skip
        variables = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", RUN, *command], capture_output=True, text=True, env=variables,
                              check=False)  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return float(done.stdout.split()[-1]) / 1024, time.monotonic() - started


def main() -> int:
    """Measure the sizes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[50, 400, 2400])
    sizes, found = parser.parse_args().sizes, {}
    for count in sizes:
        found[count] = measure(count)
        print(f"{count:6} adapters: {found[count][0]:7.0f} MiB, {found[count][1] / 60:5.1f} min", flush=True)
    first, last = found[sizes[0]], found[sizes[-1]]
    grown = last[0] / first[0]
    return print_bars([(grown <= 1.2, f"memory at {sizes[-1]} adapters: {grown:.2f}x of that at {sizes[0]} (bar 1.2)")])


if __name__ == "__main__":
    sys.exit(main())
