"""Batched generation and likelihoods over one model, plain or with an adapter.

Rows are sorted by length, so that a batch holds little padding; results come back in the order given. Text is tokenised
as TRL's `SFTTrainer` does it, so that what is scored is what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig

from rocket_hub.errors import InputError

Progress = Callable[[int, int], None]  # rows done, rows in all

_PAD = 0  # any token will do: the attention mask hides it


def encode(tokenizer: Any, prompt: str, completion: str, *, max_length: int | None = None) -> tuple[list[int], int]:
    """Tokenise a prompt and its completion as TRL's `SFTTrainer` does.

    Both are one text, with the end-of-sequence token after it: apart, the completion would get a beginning of its own.

    Args:
        tokenizer: A transformers tokenizer.
        prompt: Text before the completion.
        completion: Text that is learned or scored.
        max_length: Cut after this many tokens; None = keep all.

    Returns:
        (token ids, how many of them are the prompt). Where a token spans the boundary it belongs to the completion.
    """
    end = tokenizer.eos_token or ""
    text = prompt + completion.removesuffix(end) + end
    alone = tokenizer(text=prompt, verbose=False)["input_ids"]
    ids = tokenizer(text=text, verbose=False)["input_ids"][:max_length]
    pairs = zip(alone, ids, strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(ids)))
    return ids, length


def completion_nll(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the negative log-likelihood of each completion given its prompt (Eq. 1 without its exponential).

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        pairs: (prompt, completion).
        batch_size: Rows computed at once.

    Returns:
        (sums in nats [n] float64, completion tokens [n] int64), in the order of `pairs`.
    """
    rows = [encode(tokenizer, prompt, completion) for prompt, completion in pairs]
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    base = _injected(model)
    with _evaluating(base):
        for batch in _batches([len(ids) for ids, _ in rows], batch_size):
            # The first token of a text has nothing before it that could predict it.
            starts = [max(rows[i][1], 1) for i in batch]
            losses = _token_nll(base, [rows[i][0] for i in batch], starts)
            sums[batch] = [loss.double().sum().item() for loss in losses]
            counts[batch] = [len(loss) for loss in losses]
    return sums, counts


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[str]:
    """Continue each prompt greedily until the end-of-sequence token.

    What a repository configures for generation (sampling, repetition penalty) is left out, so that all models are
    decoded alike. In bf16 the batch can tip a close choice.

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        prompts: What is continued, tokenised as in `encode`.
        max_new_tokens: Longest continuation, in tokens.
        batch_size: Prompts continued at once.
        progress: Called after each batch with (prompts done, prompts in all).

    Returns:
        The new text alone, in the order of `prompts`.

    Raises:
        InputError: A prompt has no tokens at all.
    """
    rows = [_prompt_ids(tokenizer, prompt) for prompt in prompts]
    base, ends = _injected(model), _end_ids(_injected(model), tokenizer)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=_PAD
    )
    texts, done = [""] * len(rows), 0
    with _evaluating(base, config):
        for batch in _batches([len(row) for row in rows], batch_size):
            ids, mask = _padded([rows[i] for i in batch], left=True)
            new = base.generate(input_ids=ids.to(base.device), attention_mask=mask.to(base.device))[:, ids.shape[1] :]
            for i, tokens in zip(batch, new.tolist(), strict=True):
                stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
                texts[i] = tokenizer.decode(tokens[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            done += len(batch)
            if progress:
                progress(done, len(rows))
    return texts


def _token_nll(base: Any, rows: list[list[int]], starts: list[int]) -> tuple[torch.Tensor, ...]:
    """Return the NLL of the tokens of each row from its start on, in nats."""
    ids, mask = _padded(rows, left=False)
    counts = [max(len(row) - start, 0) for row, start in zip(rows, starts, strict=True)]
    columns = torch.cat([torch.arange(start, start + n) for start, n in zip(starts, counts, strict=True)])
    at = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)), columns - 1
    with _head_at(base, *at):
        logits = base(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False).logits
    if logits.shape[:2] != (1, len(columns)):
        logits = logits[at][None]  # the model has no separate head: [batch, length, vocabulary]
    # [n, vocabulary], [n] -> [n]
    losses = F.cross_entropy(logits[0].float(), ids[at[0], columns].to(base.device), reduction="none")
    return losses.cpu().split(counts)


@contextmanager
def _head_at(base: Any, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Give the head [1, n, hidden], the chosen positions only.

    A hook rather than a call of the head: what the model does to the logits afterwards (scaling, soft caps) stays.
    """
    head = base.get_output_embeddings() or nn.Identity()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns][None], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _evaluating(base: Any, generation: GenerationConfig | None = None) -> Iterator[None]:
    """Switch dropout and gradients off and set how to generate, then put everything back as it was.

    Not `inference_mode`: buffers that a model makes in it cannot be used in training later. The generation settings
    are replaced, not given to `generate`, which would fill them up with the model's own.
    """
    training = [module for module in base.modules() if module.training]
    own, base.generation_config = base.generation_config, generation or base.generation_config
    base.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        base.generation_config = own
        for module in training:
            module.training = True


def _injected(model: Any) -> Any:
    """Return the transformers model itself; a LoRA or routed adapter sits inside its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Tokenise a prompt as it stands before a completion, without an end-of-sequence token."""
    ids: list[int] = tokenizer(text=prompt, verbose=False)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        ids = ids[:-1]
    if not ids:
        raise InputError(f"the prompt {prompt!r} has no tokens; a model needs at least one to go on from")
    return ids


def _end_ids(base: Any, tokenizer: Any) -> list[int]:
    """List the tokens that end a text, by the tokenizer and by the model's own generation settings."""
    configured = base.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None})


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the row numbers of each batch, longest rows first, so that a lack of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _padded(rows: Sequence[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows of different lengths into (ids, attention mask), both [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), _PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), None) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(row)
        mask[i, span] = 1
    return ids, mask
