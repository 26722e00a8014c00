"""Adapters and what they did on the shots, made of numbers alone."""

import numpy as np
import torch
from transformers import LlamaForCausalLM

from rocket_hub.records import ExpertScore
from rocket_hub.selection.scoring import expert_scores
from rocket_hub.selection.statistics import ShotScores, base_score, with_evidence

WIDTHS = {"q": (12, 10), "up": (12, 16)}


def adapter(rng, rank=3):
    """Factors of an adapter at random."""
    return {name: (rng.normal(size=(rank, i)), rng.normal(size=(o, rank))) for name, (i, o) in WIDTHS.items()}


def turned(rng, factors):
    """The same update in other factors, padded to a higher rank: A -> R A, B -> B R^-1."""
    new = {}
    for name, (a, b) in factors.items():
        turn = rng.normal(size=(len(a), len(a))) + 3 * np.eye(len(a))
        padding = np.zeros((1, a.shape[1])), rng.normal(size=(b.shape[0], 1))
        new[name] = np.vstack([turn @ a, padding[0]]), np.hstack([b @ np.linalg.inv(turn), padding[1]])
    return new


def scaled(factors, factor):
    return {name: (a, factor * b) for name, (a, b) in factors.items()}


def reseeded(rng, factors, share=0.6):
    """Another training of the same skill: an update of the same size whose cosine with the first is about `share`."""
    new = {}
    for name, (a, b) in factors.items():
        other = rng.normal(size=(len(a), a.shape[1])), rng.normal(size=(b.shape[0], len(a)))
        size = np.linalg.norm(b @ a) / np.linalg.norm(other[1] @ other[0])
        mixed = np.hstack([share * b, np.sqrt(1 - share**2) * size * other[1]])
        new[name] = np.vstack([a, other[0]]), mixed
    return new


def scored(names, nll, correct, base_nll=None, base_correct=None):
    """Scores of shots with one token each, so that sums are means."""
    nll = np.asarray(nll, dtype=float)
    base = None if base_nll is None else np.asarray(base_nll, dtype=float)
    answers = None if base_correct is None else np.asarray(base_correct, dtype=np.int8)
    tokens = np.ones(nll.shape[1], dtype=np.int64)
    return ShotScores(tuple(names), nll, tokens, np.asarray(correct, dtype=np.int8), (), base, answers)


def evidence(found: ShotScores, base: str = "u/base") -> tuple[tuple[ExpertScore, ...], ExpertScore | None]:
    """Turn scores of shots into what `select_experts` is given."""
    return with_evidence(expert_scores(found), found), base_score(found, base)


def lively(folder):
    """The tiny model with larger weights, so that it does not repeat one word and adapters answer differently."""
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()
