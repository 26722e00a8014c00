"""The demo Hub's sentence encoder: a text is the mean of its words' vectors."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import forms
import prices
import torch
import world
from models import BANK, TARGETS
from pretraining import SPECIALS, write_tokenizer
from tokenizers import Tokenizer, processors

KINDS = tuple(
    forms.written(task, draw)
    for task, draw in dict.fromkeys(
        [(skill.task, skill.draw) for skill in BANK if not skill.name.startswith("blind")]
        + [("gsm8k", kind) for kind in world.TARGET]
        + [(task, draw) for task, draw in TARGETS.items() if task != "gsm8k"]
        + [("gsm8k", prices.problem)]
    )
)


def write_encoder(folder: Path, steps: int = 400) -> None:
    """Write a static sentence encoder: a text is the mean of its words' vectors.

    Half of each vector is learned by contrast (two problems of one kind belong together, whatever their words), the
    other half tells words apart, so that near-duplicates are nearer than texts of one kind.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = write_tokenizer(folder.with_name(f"{folder.name}-tokenizer")).backend_tokenizer
    shutil.rmtree(folder.with_name(f"{folder.name}-tokenizer"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    rng = Random(2)
    counts = _bags(tokenizer, [rng.choice(KINDS)(rng) for _ in range(4000)])  # [texts, words]
    frequency = (counts > 0).float().mean(0)
    torch.manual_seed(2)
    rare = 1e-2 / (1e-2 + frequency)  # frequent words say little (Arora et al. 2017)
    words = torch.randn(len(rare), 32) * rare[:, None]
    halves = [_contrastive(tokenizer, steps, rng), words]
    lengths = [(counts @ half).norm(dim=1).mean() for half in halves]
    vectors = torch.cat([0.8 * halves[0] / lengths[0], 0.6 * halves[1] / lengths[1]], dim=1)
    vectors[: len(SPECIALS)] = 0.0
    module = StaticEmbedding(tokenizer, embedding_weights=vectors.numpy())
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder))


def _bags(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Count the words of each text: [texts, words], rows that sum to 1."""
    bags = torch.zeros(len(texts), tokenizer.get_vocab_size())
    for row, text in enumerate(texts):
        ids = torch.tensor(tokenizer.encode(text).ids)
        bags[row].index_add_(0, ids, torch.ones(len(ids)) / len(ids))
    return bags


def _contrastive(tokenizer: Tokenizer, steps: int, rng: Random) -> torch.Tensor:
    """Learn word vectors [words, 32] under which problems of one kind are nearer to each other than to the others."""
    vectors = torch.nn.Parameter(0.1 * torch.randn(tokenizer.get_vocab_size(), 32))
    optimizer = torch.optim.Adam([vectors], lr=1e-2)
    for _ in range(steps):
        pairs = [(kind(rng), kind(rng)) for kind in KINDS]
        first, second = (_bags(tokenizer, [pair[side] for pair in pairs]) @ vectors for side in (0, 1))
        cosines = torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T
        loss = torch.nn.functional.cross_entropy(cosines / 0.2, torch.arange(len(KINDS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vectors.detach()
