"""What was never measured here: speed and memory on an accelerator, in at most eight minutes: `make gpu-check`.

Layers of Llama-3.1-8B's sizes in bf16: tokens a second and peak memory of training (a LoRA of rank 32 against four
routed experts of rank 8, with and without activation checkpointing) and of scoring at a vocabulary of 128k; the layer
benchmark against LoRA, Arrow and X-LoRA at width 4,096; and a whole build on the demo Hub. `--device cpu --small` tries
the script.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rocket_hub.inference.likelihood import row_nll
from rocket_hub.inference.tokens import evaluating
from tests.benchmarks.measuring import ROOT
from tests.benchmarks.memory import LAYER, adapted

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def timed(work: Callable[[], object], device: torch.device, repeats: int = 5) -> tuple[float, float]:
    """Run some work; returns (median seconds, peak GiB of the accelerator)."""
    accelerator = device.type != "cpu"
    work()
    if accelerator:
        torch.accelerator.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if accelerator:
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.accelerator.max_memory_allocated() / 2**30 if accelerator else float("nan")
    return sorted(seconds)[repeats // 2], peak


def training(device: torch.device, sizes: dict[str, int], layers: int, rows: int, tokens: int) -> None:
    """Print tokens a second and peak memory of a training step."""
    for form in ("lora", "routed"):
        for checkpointing in (False, True):
            model = adapted(form, sizes, layers).to(device)
            if checkpointing:
                model.get_base_model().activation_checkpointing_enable()
            ids = torch.randint(64, (rows, tokens), device=device)

            def step(model: torch.nn.Module = model, ids: torch.Tensor = ids) -> None:
                with torch.autocast(device.type, torch.bfloat16):
                    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
                model.zero_grad()

            seconds, peak = timed(step, device)
            label = f"training, {form}{', checkpointing' * checkpointing}"
            print(f"{label:32} {rows * tokens / seconds:12,.0f} tokens/s {peak:8.2f} GiB ({layers} layers)", flush=True)
            del model, step
            if device.type != "cpu":
                torch.accelerator.empty_cache()


def scoring(device: torch.device, sizes: dict[str, int], layers: int, vocabulary: int) -> None:
    """Print tokens a second and peak memory of scoring."""
    config = LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, max_position_embeddings=2048, **sizes)
    model = LlamaForCausalLM(config).to(device, torch.bfloat16).eval()
    rows = [(torch.randint(vocabulary, (260,)).tolist(), 60) for _ in range(32)]
    with evaluating(model):
        seconds, peak = timed(lambda: row_nll(model, rows), device)
    print(f"{'scoring':32} {32 * 260 / seconds:12,.0f} tokens/s {peak:8.2f} GiB ({layers} layers)", flush=True)


def build(device: torch.device, small: bool) -> None:
    """Print the time of a build on the demo Hub, and where it went."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "rocket_hub", "build", "--hub", "demo", "--task", "gsm8k", "--kshot",
            str(ROOT / "recipes" / "demo" / "kshot.jsonl"), "--dtype", "bfloat16", "--device", device.type,
            "--out", folder,
            *(["--max-steps", "2", "--eval-rows", "20", "-o", "discover.max_adapters=3"] if small else []),
        ]  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        outcome = f"{time.perf_counter() - started:.0f} s" if done.returncode == 0 else f"failed: {done.stderr[-600:]}"
    print(f"{'a build on the demo Hub':32} {outcome}", flush=True)


def main() -> None:
    """Print everything, one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "xpu", "mps", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes: only whether it runs")
    given = parser.parse_args()
    device, sizes = torch.device(given.device), SMALL if given.small else LAYER
    if device.type != "cpu" and not torch.accelerator.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no accelerator here")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else device}")
    training(device, sizes, 2, 2 if given.small else 8, 64 if given.small else 512)
    scoring(device, sizes, 2, 512 if given.small else 128_256)
    build(device, given.small)
    if device.type == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            report = str(Path(folder) / "layer.json")
            subprocess.run([sys.executable, "-m", "tests.benchmarks.routed_layer", "--device", "cuda", "--rounds", "5",
                            "--json", report], cwd=ROOT, check=False)  # fmt: skip


if __name__ == "__main__":
    main()
