"""Batched generation and likelihoods of one model, plain or with an adapter; results come in the order given."""

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
