"""Run by `test_halving.py` under torchrun, in two gloo processes: adapters are scored together.

Each process writes what it got, without the seconds.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rocket_hub.options import ExpertOptions
from rocket_hub.records import Example
from rocket_hub.selection.scoring import Choices, ShotScores, score_adapters

SHOTS = [Example(f"what is {i % 9} plus {i // 9} ?", f" the answer #### {i % 7}", str(i % 7)) for i in range(20)]
CHOICES = [Choices((" 1", " 2 3"), 0) if i % 4 == 0 else None for i in range(20)]


def scored(base: str, bank: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]) -> ShotScores:
    """Score adapters within a budget."""
    return score_adapters(
        LlamaForCausalLM.from_pretrained(base), PreTrainedTokenizerFast.from_pretrained(base), bank, SHOTS,
        extract=lambda text: text[:1], batch_size=3, max_new_tokens=4, options=ExpertOptions(shortlist=3, budget="60%"),
        choices=CHOICES,
    )  # fmt: skip


def plain(scores: ShotScores) -> dict[str, object]:
    """Everything but the seconds, every number to its last bit."""
    found = asdict(replace(scores, cost=replace(scores.cost, seconds=0.0)))
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in found.items()}


def main(base: str, folder: str) -> None:
    """Score together, and write this process's scores."""
    scores = scored(base, torch.load(Path(folder) / "bank.pt"))
    assert dist.get_world_size() == 2
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(plain(scores)), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
