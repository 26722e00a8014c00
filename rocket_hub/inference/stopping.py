"""When a batch is over: texts that end a generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

LOOK_EVERY = 4  # tokens; looking costs time, and what a row writes after its end costs none that others do not need


class Stopped(StoppingCriteria):
    """Knows the rows of a batch whose new text holds a text that ends it; looks at them now and then.

    transformers' own criterion would also find a text that begins in the prompt, and first takes a table of the whole
    vocabulary apart.

    Args:
        tokenizer: Turns tokens into text.
        stop: The texts, none empty.
        start: Column of the first new token.
        rows: How many rows there are.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int, rows: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, start
        # every token adds a byte at least; the few that add none are found when the whole text is cut
        self._window = max((len(mark.encode()) for mark in stop), default=0) + LOOK_EVERY
        self._done = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows are over, [rows]."""
        count = input_ids.shape[1] - self._start
        if count % LOOK_EVERY == 0:
            going = (~self._done).nonzero().flatten().tolist()
            recent = self._texts(input_ids[going, -min(self._window, count) :])
            found = [row for row, text in zip(going, recent, strict=True) if self._holds(text)]
            # alone, the last tokens may make another text than at the end of all of them
            sure = self._texts(input_ids[found, self._start :]) if found else []
            self._done[[row for row, text in zip(found, sure, strict=True) if self._holds(text)]] = True
        return self._done.to(input_ids.device)

    def _texts(self, ids: torch.Tensor) -> list[str]:
        return decoded(self._tokenizer, ids)

    def _holds(self, text: str) -> bool:
        return any(mark in text for mark in self._stop)


class BeamStopped(StoppingCriteria):
    """Knows which beams have just come to a text that ends them; beams change places, so nothing is remembered.

    Args:
        tokenizer: Turns tokens into text.
        stop: The texts, none empty.
        start: Column of the first new token.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, start
        self._window = max((len(mark.encode()) for mark in stop), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which beams are over, [beams]."""
        texts = decoded(self._tokenizer, input_ids[:, max(self._start, input_ids.shape[1] - self._window) :])
        return torch.tensor([any(mark in text for mark in self._stop) for text in texts], device=input_ids.device)


def decoded(tokenizer: Any, ids: torch.Tensor) -> list[str]:
    """Turn rows of tokens into texts as they were written."""
    texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts
