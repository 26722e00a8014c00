"""Batched generation and likelihoods over one model, plain or with an adapter.

Rows are sorted by length, so that a batch holds little padding; results come back in the order given. Text is tokenised
as TRL's `SFTTrainer` does it, so that what is scored is what is trained.
"""

from rocket_hub.inference.generation import GREEDY, Continuation, Search, continuations, generate
from rocket_hub.inference.likelihood import OptionScores, completion_nll, option_nll
from rocket_hub.inference.tokens import Progress, encode

__all__ = [
    "GREEDY",
    "Continuation",
    "OptionScores",
    "Progress",
    "Search",
    "completion_nll",
    "continuations",
    "encode",
    "generate",
    "option_nll",
]
