"""Vocabulary of the demo, and the pattern by which its tokenizer splits text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from random import Random

DRAWN = 1500  # texts of each kind in which every word turns up

# ▁ stands for the white space before a word; numbers below 100 are one piece, larger ones begin with single digits.
CUT = r"▁?[0-9]{1,2}(?![0-9])|▁?[0-9]|[.?]|▁?[^0-9▁.?]+"


def pieces(text: str) -> list[str]:
    """Cut a text as the tokenizer does."""
    return re.findall(CUT, "▁" + re.sub(r"\s+", "▁", text))


def vocabulary(kinds: Iterable[Callable[[Random], str]]) -> list[str]:
    """List every piece that texts of these kinds hold, numbers with and without white space before them."""
    rng = Random(0)
    found = {piece for kind in kinds for _ in range(DRAWN) for piece in pieces(kind(rng))}
    found |= {f"{mark}{number}" for mark in ("▁", "") for number in range(100)}
    return sorted(found)
