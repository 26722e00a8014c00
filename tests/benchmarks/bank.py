"""A bank of real experts: 24 LoRA adapters, each trained on another instruction set, made once and kept.

`python -m tests.benchmarks.bank` makes what is missing under `runs/bank`. The base is the 260,032-parameter story model
beside the repository. Ranks, targets, alphas and scalings differ, as they do on the Hub.
"""

from __future__ import annotations

import random
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rocket_hub.inference import encode
from tests.benchmarks.measuring import ROOT, SHARED

BASE = SHARED / "models" / "stories260K"
FOLDER = ROOT / "runs" / "bank"

ROWS = 8  # a step
SAMPLE = 600  # rows of each set
LONGEST = 320  # tokens of a row that is trained on
RATE = 5e-3
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
TARGETS = {"qv": ("q_proj", "v_proj"), "attention": ATTENTION, "mlp": MLP, "all": (*ATTENTION, *MLP)}


@dataclass(frozen=True)
class Made:
    """How one adapter is made."""

    data: str  # name of its instruction set
    rank: int
    targets: str  # a key of `TARGETS`
    steps: int = 80
    rslora: bool = False

    @property
    def name(self) -> str:
        """Name of the folder; another recipe is another folder."""
        return f"{self.data}-r{self.rank}-{self.targets}-{self.steps}{'-rs' * self.rslora}"


BANK = (
    Made("svamp", 8, "all"), Made("aqua_rat", 16, "all", 100), Made("competition_math", 8, "qv", 100),
    Made("instruction_induction", 4, "mlp"), Made("commonsense_qa", 8, "attention"), Made("cos_e", 16, "qv"),
    Made("p3_qasc", 4, "all"), Made("p3_quartz", 8, "mlp", rslora=True), Made("p3_commonsense_qa", 12, "qv"),
    Made("numersense", 4, "qv"), Made("ni_freebaseqa", 8, "all", 60), Made("ni_natural_questions", 6, "attention"),
    Made("ni_piqa_howto", 16, "all"), Made("ni_story_ending", 8, "all"), Made("ni_snli_edit", 4, "attention"),
    Made("ni_winogrande", 8, "qv", rslora=True), Made("ni_circa", 16, "mlp"), Made("ni_wordnet_antonyms", 4, "all"),
    Made("dolly_filtered", 16, "all", 100), Made("gpteacher_codegen", 12, "all", 100),
    Made("gpteacher_toolformer", 8, "attention", 100), Made("bbq", 6, "mlp"), Made("disfl_qa", 8, "qv"),
    Made("persona_evals", 4, "mlp", 60),
)  # fmt: skip


def rows(data: str) -> list[tuple[str, str]]:
    """Read an instruction set as (prompt, completion)."""
    table = pyarrow.parquet.read_table(SHARED / "instructions" / f"{data}.parquet").to_pylist()
    asked = ["\n".join(part for part in (row["instruction"], row["input"]) if part) for row in table]
    return [(f"Question: {q}\nAnswer:", f" {row['output']}") for q, row in zip(asked, table, strict=True)]


def batches(tokenizer: Any, made: Made) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, labels) [rows, longest] for each step, loss on completions only."""
    drawn = random.Random(made.name)
    known = drawn.sample(everything := rows(made.data), min(SAMPLE, len(everything)))
    short = [row for row in (encode(tokenizer, *pair) for pair in known) if len(row[0]) <= LONGEST]
    for _ in range(made.steps):
        chosen = drawn.choices(short, k=ROWS)
        width = max(len(ids) for ids, _ in chosen)
        yield (
            torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in chosen]),
            torch.tensor([[-100] * n + ids[n:] + [-100] * (width - len(ids)) for ids, n in chosen]),
        )


def train(made: Made, folder: Path) -> float:
    """Train one adapter into a folder and return the mean loss of its last ten steps."""
    torch.manual_seed(BANK.index(made))
    config = LoraConfig(
        r=made.rank, lora_alpha=2 * made.rank, target_modules=list(TARGETS[made.targets]), use_rslora=made.rslora,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), config).train()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, made.steps)
    losses: list[float] = []
    for ids, labels in batches(tokenizer, made):  # padding stands after the row, where causal attention hides it
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    model.save_pretrained(folder)
    return sum(losses[-10:]) / 10


def bank(folder: Path = FOLDER) -> dict[str, Path]:
    """Make the adapters that are missing, and return name -> folder of all of them."""
    found = {}
    for made in BANK:
        path = folder / made.name
        if not path.is_dir():
            unfinished = folder / f".{made.name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            loss = train(made, unfinished)
            unfinished.replace(path)
            print(f"{made.name}: loss {loss:.3f}", flush=True)
        found[made.name] = path
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    sys.exit(0 if len(bank()) == len(BANK) else 1)
