"""Memory of training and scoring at the sizes of real bases: `python -m tests.benchmarks.memory` (CPU, two minutes).

- One layer of Llama-3.1-8B's sizes under bf16 autocast: what a step keeps for its backward pass, routed (4 experts of
  rank 8 on all linear layers) against a LoRA of rank 32, and with activation checkpointing.
- The head at a vocabulary of 152k on 32 rows with 200 completion tokens each.
- Padding of training batches, as TRL draws them, on gsm8k and on mixed instruction sets.
"""

from __future__ import annotations

import argparse
import copy
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from rocket_hub.moe.merging import merge_experts
from tests.benchmarks.measuring import SHARED, Bars, print_bars
from tests.benchmarks.variants import Size, lora, write_experts

LAYER = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
BEFORE = 399  # KiB a token that the routed layer kept at commit 8824401
MIXED = ("gsm8k", "dolly_filtered", "commonsense_qa", "ni_story_ending", "svamp", "gpteacher_codegen")


def adapted(form: str, sizes: dict[str, int], layers: int = 1) -> PeftModel:
    """Make a base in bf16 with a LoRA of rank 32, or with four routed experts of rank 8, to be trained."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, num_hidden_layers=layers, max_position_embeddings=2048, **sizes)
    base = LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False)
    if form == "lora":
        model = get_peft_model(base, lora(32))
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = write_experts(lambda: copy.deepcopy(base), Size(experts=4, rank=8), folder)
            merge_experts(paths, folder / "routed", base_model="none")
            model = PeftModel.from_pretrained(base, folder / "routed", is_trainable=True)
    model.enable_input_require_grads()
    return model.train()


def kept(form: str, tokens: int, checkpointing: bool = False, sizes: dict[str, int] = LAYER) -> float:
    """Return KiB a token that one layer keeps for its backward pass under bf16 autocast."""
    model = adapted(form, sizes)
    if checkpointing:
        model.get_base_model().activation_checkpointing_enable()
    ids = torch.randint(64, (1, tokens), generator=torch.Generator().manual_seed(1))
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        held = model(input_ids=ids, labels=ids, use_cache=False).loss
    size = sum(storage.nbytes() for place, storage in saved.items() if place not in owned)
    del held
    return size / tokens / 1024


def layer() -> Bars:
    """Compare the routed layer with a LoRA of its rank."""
    tokens = 256
    lora, routed = kept("lora", tokens), kept("routed", tokens)
    checkpointed = kept("routed", tokens, True)
    return [
        (routed <= 1.05 * lora, f"kept a token and layer: routed {routed:.0f} KiB, LoRA {lora:.0f} KiB, "
                                f"{routed / lora:.3f}x (bar 1.05)"),
        (checkpointed < 0.1 * BEFORE, f"with checkpointing {checkpointed:.1f} KiB, {checkpointed / BEFORE:.1%} of "
                                      f"the {BEFORE} KiB at 8824401 (bar 10 %)"),
    ]  # fmt: skip


def head_peak() -> None:
    """Print the peak of main memory, in GB, that scoring takes beyond the model; in a process of its own."""
    from rocket_hub.inference.likelihood import row_nll
    from rocket_hub.inference.tokens import evaluating

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=152_064, num_hidden_layers=1, hidden_size=256, intermediate_size=256,
                         num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048)  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [(torch.randint(152_064, (260,)).tolist(), 60) for _ in range(32)]
    with evaluating(model):
        row_nll(model, [(ids[:70], 60) for ids, _ in rows[:1]])
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = memory("VmRSS")
        row_nll(model, rows)
    print((memory("VmHWM") - before) / 1e9)


def memory(kind: str) -> int:
    """Read the memory of this process in bytes: `VmRSS` now, `VmHWM` at most."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def head() -> Bars:
    """Measure the head where nothing else has taken memory before."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--head"]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [(peak <= 1.7, f"scoring 32 x 200 tokens at a vocabulary of 152,064: {peak:.2f} GB (bar 1.7)")]


def padding() -> Bars:
    """Count padded tokens of one pass over rows, in batches of 16 as a training draws them."""
    from transformers import AutoTokenizer

    from rocket_hub.training import row_order

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260K")
    bars: Bars = []
    for name, sets in (("gsm8k", ("gsm8k",)), ("mixed sets", MIXED)):
        lengths = [length for each in sets for length in lengths_of(each, tokenizer)]
        random.Random(0).shuffle(lengths)
        order = row_order(lengths, 16, len(lengths) // 16, seed=0)
        groups = [[lengths[i] for i in order[at : at + 16]] for at in range(0, len(order), 16)]
        waste = sum(max(group) * len(group) for group in groups) / sum(map(sum, groups))
        bars.append((waste <= 1.10, f"padding of {name}: {waste:.3f}x (bar 1.10)"))
    return bars


def lengths_of(name: str, tokenizer: object) -> list[int]:
    """List the tokens of the first rows of a set."""
    import pyarrow.parquet as pq

    task = name == "gsm8k"
    path = SHARED / ("benchmarks/gsm8k/train.parquet" if task else f"instructions/{name}.parquet")
    rows = pq.read_table(path).to_pylist()[:1000]
    texts = [
        f"{r['question']} {r['rationale']}" if task else f"{r['instruction']} {r['input']} {r['output']}" for r in rows
    ]
    return [len(ids) for ids in tokenizer(texts)["input_ids"]]  # type: ignore[operator]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().head:
        head_peak()
    else:
        sys.exit(print_bars([*layer(), *head(), *padding()]))
