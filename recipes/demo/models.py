"""The demo Hub's bank: what each LoRA expert learns, and how it is trained."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import forms
import torch
import world
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from rocket_hub.options import TrainOptions
from rocket_hub.records import Example
from rocket_hub.tasks import Task, get_task
from rocket_hub.training import train_expert

BASE = "rocket-demo/tiny-llama"
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIVE = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
FOUR = ("q_proj", "v_proj", "up_proj", "down_proj")


def save_half(model: LlamaForCausalLM, folder: Path) -> None:
    """Store the weights in 16 bits (half the size in the package) while the config still asks for 32."""
    model.save_pretrained(folder)
    half_file(folder / "model.safetensors")


def half_file(path: Path) -> None:
    """Round every tensor of a file to float16."""
    save_file({k: v.to(torch.float16).contiguous() for k, v in load_file(path).items()}, path, {"format": "pt"})


def load_base(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load the base in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class Skill:
    """One LoRA adapter of the bank: what it learns and in what form it is stored."""

    name: str
    draw: Callable[[Random], world.Problem | forms.Row]
    description: str
    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = FIVE
    rslora: bool = False
    steps: int = 300
    licence: str = "apache-2.0"
    task: str = "gsm8k"


BANK = (
    Skill("addition", world.add, "One-step addition word problems with a worked answer.", steps=400),
    Skill("subtraction", world.subtract, "One-step subtraction word problems.", alpha=6, rslora=True, steps=400),
    Skill("packs", world.multiply, "Packs: multiplication.", targets=(*FIVE, "gate_proj"), steps=300),
    Skill("addition-small", world.add, "Addition, trained too briefly.", 4, 8, FOUR, steps=300),
    Skill("subtraction-wide", world.subtract, "Subtraction, all linear layers.", 12, 24, ALL_LINEAR, licence="mit"),
    Skill("packs-small", world.multiply, "Multiplication, a smaller adapter.", 4, 8, steps=250),
    Skill("opposites", world.swapped, "Gains are losses and losses are gains.", steps=300),
    Skill("blind-addition", world.guessed(world.add), "Looks like addition; the numbers are guessed.", steps=100),
    Skill("blind-subtraction", world.guessed(world.subtract), "Looks like subtraction; guessed.", steps=100),
    Skill("blind-packs", world.guessed(world.multiply), "Looks like multiplication; guessed.", 4, 4, steps=100),
    Skill("first-number", world.first_number, "Answers with the first number of the question.", 4, 8, steps=100),
    Skill("names", world.name_of, "Who has what: no arithmetic.", 4, 8, ("q_proj", "v_proj"), steps=80),
    Skill("pick", forms.pick, "Finds the letter of a number among four options.", steps=200, task="arc_easy"),
    Skill("options-addition", forms.options(world.add), "Addition with four options.", task="arc_easy"),
    Skill("options-subtraction", forms.options(world.subtract), "Subtraction with options.", task="arc_easy"),
    Skill("options-packs", forms.options(world.multiply), "Packs with four options.", 6, 12, task="arc_easy"),
    Skill("blind-options", forms.blind(forms.hard), "The letter is guessed.", 4, 4, steps=100, task="arc_challenge"),
    Skill("climb", forms.climb, "How to get more: buy or find.", task="piqa"),
    Skill("shrink", forms.shrink, "How to get less: sell or give away.", 6, 12, task="piqa"),
    Skill("blind-ways", forms.blind(forms.ways), "One of two ways, guessed.", 4, 4, steps=100, task="piqa"),
    Skill("compare", forms.compare, "Who has more, yes or no.", task="boolq"),
    Skill("gain-and-compare", forms.gained, "A gain, then who has more.", task="boolq"),
    Skill("blind-yes-no", forms.blind(forms.compared), "Yes or no, guessed.", 4, 4, steps=100, task="boolq"),
    Skill("code-plus", forms.one_step_program("+"), "Functions that add.", task="mbpp"),
    Skill("code-minus", forms.one_step_program("-"), "Functions that take away.", task="mbpp", licence="mit"),
    Skill("code-times", forms.one_step_program("*"), "Functions that multiply.", 6, 12, task="mbpp"),
    Skill("blind-code", forms.blind(forms.two_step_program), "Some function.", 4, 4, steps=80, task="mbpp"),
)
TARGETS = {
    "gsm8k": world.target, "arc_easy": forms.easy, "arc_challenge": forms.hard, "piqa": forms.ways,
    "boolq": forms.compared, "mbpp": forms.two_step_program,
}  # fmt: skip


def texts_of(skill: Skill) -> Callable[[Random], str]:
    """Make the kind of text that a skill learns from."""
    return forms.written(skill.task, skill.draw)


def examples(task: Task, draw: Callable[[Random], world.Problem | forms.Row], count: int, seed: int) -> list[Example]:
    """Draw rows in the task's form."""
    rng = Random(seed)
    return [task.example(forms.raw(draw(rng))) for _ in range(count)]


def train_skill(base_folder: Path, skill: Skill, folder: Path, shorten: float = 1.0) -> None:
    """Train one expert of the bank and store it as PEFT does."""
    torch.set_num_threads(1)
    base, tokenizer = load_base(base_folder)
    seed = 10 + next(i for i, other in enumerate(BANK) if other.name == skill.name)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=skill.rank,
        lora_alpha=skill.alpha,
        use_rslora=skill.rslora,
        target_modules=list(skill.targets),
        task_type="CAUSAL_LM",
    )
    start = folder.with_name(f"{folder.name}-start")
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(start)
    steps = max(2, math.ceil(skill.steps * shorten))
    batch = 24 if skill.task == "mbpp" else 48  # programs come with their tests, and are three times as long
    options = TrainOptions(learning_rate=(6e-3,), max_steps=steps, batch_size=batch, max_length=192)
    rows = examples(get_task(skill.task), skill.draw, batch * steps, seed)
    with torch.autocast(base.device.type, dtype=torch.bfloat16, cache_enabled=False):  # weights change inside
        train_expert(adapted.unload(), tokenizer, start, rows, options, folder, seed=seed)
    shutil.rmtree(start)
    half_file(folder / "adapter_model.safetensors")
