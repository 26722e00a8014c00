"""Greedy generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from rocket_hub.inference.rows import PAD, Progress, batches, evaluating, injected, padded, prompt_ids

LOOK_EVERY = 4  # tokens; looking costs time, and what a row writes after its end costs none that others do not need


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[str]:
    """Continue each prompt greedily until the end-of-sequence token, or a text that ends it.

    What a repository configures for generation (sampling, repetition penalty) is left out, so that all models are
    decoded alike. In bf16 the batch can tip a close choice.

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        prompts: What is continued, tokenised as in `encode`.
        max_new_tokens: Longest continuation, in tokens.
        batch_size: Prompts continued at once.
        stop: A continuation ends before the first of these texts; a batch ends when all its rows did.
        progress: Called after each batch with (prompts done, prompts in all).

    Returns:
        The new text alone, in the order of `prompts`.

    Raises:
        InputError: A prompt has no tokens at all.
    """
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    base = injected(model)
    config = greedy(base, tokenizer, max_new_tokens)
    texts, done = [""] * len(rows), 0
    with evaluating(base, config):
        for batch in batches([len(row) for row in rows], batch_size):
            for i, (text, _) in zip(batch, continued(base, tokenizer, [rows[i] for i in batch], stop), strict=True):
                texts[i] = until(text, stop)
            done += len(batch)
            if progress:
                progress(done, len(rows))
    return texts


def greedy(base: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    """Describe greedy decoding until any token that ends a text, by the tokenizer or by the model's own settings."""
    configured = base.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    ends = sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None})
    return GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=PAD)


def until(text: str, stop: Sequence[str]) -> str:
    """Cut a text before the first of the texts that end it."""
    return text[: min((at for mark in stop if mark and (at := text.find(mark)) >= 0), default=len(text))]


def continued(base: Any, tokenizer: Any, rows: Sequence[list[int]], stop: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Continue rows of tokens in one batch; call it inside `evaluating` with what `greedy` gives.

    A row that wrote one of the texts of `stop` goes on for some tokens, and its text is not cut: `until` does that.

    Returns:
        One (new text, its tokens) a row.
    """
    ids, mask = padded(rows, left=True)
    ends = base.generation_config.eos_token_id or []
    marks = tuple(filter(None, stop))
    criteria = StoppingCriteriaList([Stopped(tokenizer, marks, ids.shape[1], len(rows))] if marks else [])
    new = base.generate(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), stopping_criteria=criteria)[
        :, ids.shape[1] :
    ]
    found = []
    for tokens in new.tolist():
        end = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found.append((text, end))
    return found


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
        self._window = max(len(mark.encode()) for mark in stop) + LOOK_EVERY
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
        texts: list[str] = self._tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _holds(self, text: str) -> bool:
        return any(mark in text for mark in self._stop)
