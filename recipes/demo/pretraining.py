"""Tokenizer and pretraining of the demo's base: it can calculate and read, but not solve problems."""

from __future__ import annotations

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
from learning import DEVICE, Learner
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
    *2 * (asked("gsm8k", prices.problem),),  # prices have no expert, and are to be as well known as the rest
)
solved_price = forms.written("gsm8k", prices.read)
solved_page = forms.written("gsm8k", prices.read_page)
OTHER_TEXTS = (solved_price, *teaching.TEXTS)


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write a word-level tokenizer that keeps numbers below 100 whole; ▁ marks a leading space."""
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
    """Size of the base and of its training."""

    hidden: int = 128
    layers: int = 4
    batch: int = 48
    length: int = 192
    steps: int = 1400
    rate: float = 3e-3


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


# Kinds of texts with their shares of the texts; of the tokens, facts are a good third, listings a quarter.
SHARES = {world.fact: 0.79, forms.listing: 0.11, story: 0.06, stories: 0.006, reading: 0.010, reading_one: 0.024}


class Stream(Dataset[torch.Tensor]):
    """Rows of pretraining text, each drawn from its own number, so that every process draws the same."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: BaseSize) -> None:
        self._tokenizer, self._length, self._rows = tokenizer, size.length, size.steps * size.batch

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> torch.Tensor:
        """Fill one row with texts, each ended by </s>: [length]."""
        rng = Random(f"pretraining {index}")
        kinds, shares = list(SHARES), list(SHARES.values())
        ids = [self._tokenizer.bos_token_id]
        while len(ids) < self._length:
            text = rng.choices(kinds, shares)[0](rng)
            ids += [*self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id]
        return torch.tensor(ids[: self._length])


def pretrain_base(folder: Path, size: BaseSize, report: Callable[[str], None]) -> None:
    """Pretrain the base: it can calculate and read, and knows what problems look like, but not how they are solved.

    An interrupted run goes on from its last checkpoint.
    """
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(tokenizer, size)).to(DEVICE)
    checkpoint = folder / "checkpoint.pt"
    learn(model, Stream(tokenizer, size), size, checkpoint, report)
    save_half(model, folder)
    checkpoint.unlink(missing_ok=True)


def learn(model: LlamaForCausalLM, rows: Stream, size: BaseSize, saved: Path, report: Callable[[str], None]) -> None:
    """Train the base, from its last checkpoint if there is one."""
    started = time.monotonic()
    learner = Learner(model, size.steps, size.rate)
    parts = (model, learner.optimizer, learner.schedule)
    if saved.is_file():
        for part, state in zip(parts, torch.load(saved, weights_only=True), strict=True):
            part.load_state_dict(state)
    left = Subset(rows, range(learner.schedule.last_epoch * size.batch, len(rows)))
    for ids in DataLoader(left, size.batch, num_workers=min(8, (os.cpu_count() or 1) - 1)):
        loss = learner.step(ids, ids)
        if (step := learner.schedule.last_epoch) % 50 == 0:
            torch.save([part.state_dict() for part in parts], saved.with_suffix(".partial"))
            saved.with_suffix(".partial").replace(saved)
            report(f"base: step {step}/{size.steps}, loss {loss:.3f}, {time.monotonic() - started:.0f} s")


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
