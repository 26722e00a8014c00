"""Texts that a model writes, kept on disk batch by batch under what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from rocket_hub.inference import Continuation, Search, continuations, encode
from rocket_hub.runs import KeptResults, digest


@dataclass(frozen=True)
class Question:
    """A bare question; `number` counts what was asked for, or given, from 0."""

    number: int
    text: str


class Writer:
    """A model whose texts are kept: what it was asked before, it is not asked again.

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        name: Who it is, at its commit; texts of another name are not taken for its own.
        kept: Where its texts are.
        batch_size: Prompts at once.
        max_new_tokens: Longest text, in tokens.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, kept: KeptResults, batch_size: int, max_new_tokens: int
    ) -> None:
        self._model, self._tokenizer, self._kept = model, tokenizer, kept
        self._name = f"{name} {model.name_or_path} {model.dtype}"
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens

    def write(self, prompts: Sequence[str], search: Search, stop: Sequence[str]) -> list[Continuation]:
        """Continue prompts; each batch is on disk when the next begins."""
        found: list[Continuation] = []
        for start in range(0, len(prompts), self._batch_size):
            batch = list(prompts[start : start + self._batch_size])
            key = digest([self._name, batch, asdict(search), list(stop), self._max_new_tokens])
            if key not in self._kept.known:
                new = continuations(
                    self._model, self._tokenizer, batch, max_new_tokens=self._max_new_tokens,
                    batch_size=self._batch_size, stop=stop, search=search,
                )  # fmt: skip
                self._kept.add({key: [[each.text, each.ended] for each in new]})
            found += [Continuation(text, ended) for text, ended in self._kept.known[key]]
        return found


def room_of(model: Any, max_new_tokens: int) -> float:
    """Return how many tokens a prompt may have beside what is written after it."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context - max_new_tokens if context else float("inf")


def first_fitting(prompts: Iterable[str], tokenizer: Any, room: float) -> str | None:
    """Return the first of some ways to ask that is short enough; none where none is."""
    return next((text for text in prompts if len(encode(tokenizer, text, "", ended=False)[0]) <= room), None)


def seed_of(*what: object) -> int:
    """Make a seed for one thing, which does not depend on what else was drawn before."""
    return Random(" ".join(map(str, what))).getrandbits(62)
