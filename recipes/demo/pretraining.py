"""The demo Hub's base: its tokenizer, and a tiny Llama that can calculate and read, but not solve problems."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import forms
import prices
import teaching
import torch
import words
import world
from models import BANK, save_half, texts_of
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rocket_hub.tasks import get_task

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


def asked(task: str, draw: Callable[[Random], world.Problem | forms.Row]) -> Callable[[Random], str]:
    """Make the kind of text that an unsolved problem is."""
    form = get_task(task)
    return lambda rng: form.example(forms.raw(draw(rng))).prompt


ASKED = (
    *(asked(skill.task, skill.draw) for skill in BANK if not skill.name.startswith("blind")),
    asked("gsm8k", prices.problem),
    asked("gsm8k", prices.problem),
)
solved_price = forms.written("gsm8k", prices.read)
solved_page = forms.written("gsm8k", prices.read_page)
OTHER_TEXTS = (solved_price, *teaching.TEXTS)


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write a word-level tokenizer that cuts numbers into digits; ▁ marks a leading space."""
    known = {word: i for i, word in enumerate([*SPECIALS, *words.vocabulary([*map(texts_of, BANK), *OTHER_TEXTS])])}
    backend = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), "▁"), normalizers.Prepend("▁")])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(words.CUT), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@dataclass(frozen=True)
class BaseSize:
    """How large the base is and how long it learns."""

    hidden: int = 128
    layers: int = 4
    batch: int = 48
    length: int = 192
    shorten: float = 1.0


def fact(rng: Random) -> str:
    """Draw an arithmetic fact."""
    return world.fact(rng)


def story(rng: Random) -> str:
    """Draw a problem of any kind without its answer."""
    return rng.choice(ASKED)(rng)


def stories(rng: Random) -> str:
    """Draw a few problems of one kind without their answers."""
    kind = rng.choice(ASKED)
    return "\n\n".join(kind(rng).removesuffix("\nAnswer:") for _ in range(rng.randint(4, 6)))


def reading(rng: Random) -> str:
    """Draw a few questions that the text before each of them answers, with the answers."""
    return "\n\n".join(solved_price(rng) for _ in range(rng.randint(1, 3)))


def reading_one(rng: Random) -> str:
    """Draw a few questions, each below one page, with the answers."""
    return "\n\n".join(solved_page(rng) for _ in range(rng.randint(1, 3)))


@dataclass(frozen=True)
class Phase:
    """A part of the pretraining.

    Attributes:
        shares: Kinds of texts, with their shares of the texts.
        steps: Optimiser steps.
        rate: Peak learning rate.
    """

    shares: dict[Callable[[Random], str], float]
    steps: int
    rate: float


# Of the tokens, facts are about half in the first phase, and reading about half in the second.
PHASES = (
    Phase({fact: 0.842, story: 0.112, stories: 0.018, reading: 0.038}, 1400, 3e-3),
    Phase({fact: 0.700, story: 0.112, stories: 0.018, reading_one: 0.160}, 250, 1.5e-3),
)


class Stream(Dataset[torch.Tensor]):
    """Rows of pretraining text, each drawn from its own number, so that it is the same in whichever process."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: BaseSize, phase: Phase) -> None:
        self._tokenizer, self._length, self._phase = tokenizer, size.length, phase
        self._rows = math.ceil(size.shorten * phase.steps) * size.batch

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> torch.Tensor:
        """Fill one row with texts, each ended by </s>: [length]."""
        rng = Random(f"pretraining {index}")
        kinds, shares = list(self._phase.shares), list(self._phase.shares.values())
        ids = [self._tokenizer.bos_token_id]
        while len(ids) < self._length:
            text = rng.choices(kinds, shares)[0](rng)
            ids += [*self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id]
        return torch.tensor(ids[: self._length])


def pretrain_base(folder: Path, size: BaseSize, report: Callable[[str], None]) -> None:
    """Pretrain the base: it can calculate and read, and knows what problems look like, but not how they are solved.

    What an interrupted run left in the folder is taken up again.
    """
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(tokenizer, size)).to("cuda" if torch.cuda.is_available() else "cpu")
    for number, phase in enumerate(PHASES, 1):
        done = folder / f"phase-{number}.pt"
        if not done.is_file():
            learn(model, Stream(tokenizer, size, phase), size.batch, phase.rate, folder / "checkpoint.pt", report)
            torch.save(model.state_dict(), done)
        model.load_state_dict(torch.load(done, weights_only=True))
    for left in folder.glob("*.pt"):
        left.unlink()
    save_half(model, folder)


def learn(
    model: LlamaForCausalLM, rows: Stream, batch: int, rate: float, saved: Path, report: Callable[[str], None]
) -> None:
    """Train one phase, from its last checkpoint if there is one."""
    steps, started = len(rows) // batch, time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    parts = (model, optimizer, schedule)
    if saved.is_file():
        for part, state in zip(parts, torch.load(saved, weights_only=True), strict=True):
            part.load_state_dict(state)
    left = Subset(rows, range(schedule.last_epoch * batch, len(rows)))
    for ids in DataLoader(left, batch, num_workers=min(8, (os.cpu_count() or 1) - 1)):
        loss = training_step(model, ids.to(model.device))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step := schedule.last_epoch) % 50 == 0:
            torch.save([part.state_dict() for part in parts], saved.with_suffix(".partial"))
            saved.with_suffix(".partial").replace(saved)
            report(f"base: step {step}/{steps}, loss {loss:.3f}, {time.monotonic() - started:.0f} s")
    saved.unlink(missing_ok=True)


def training_step(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Add the gradients of one batch [rows, length], computed in bfloat16, and return its loss."""
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss.item()


def configuration(tokenizer: PreTrainedTokenizerFast, size: BaseSize) -> LlamaConfig:
    """Describe the base."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
