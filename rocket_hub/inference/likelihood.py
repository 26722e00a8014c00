"""How likely a model finds given completions (Eq. 1 and 2 without their exponential)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rocket_hub.inference.rows import batches, encode, evaluating, injected, padded


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
    sums, base = np.zeros(len(rows)), injected(model)
    with evaluating(base):
        for batch in batches([len(ids) for ids, _ in rows], batch_size):
            sums[batch] = row_nll(base, [rows[i] for i in batch])
    return sums, np.array([scored(ids, start) for ids, start in rows], dtype=np.int64)


def scored(ids: list[int], start: int) -> int:
    """Count the tokens of a row that are scored: the first token of a text has nothing that could predict it."""
    return max(len(ids) - max(start, 1), 0)


def row_nll(base: Any, rows: Sequence[tuple[list[int], int]]) -> list[float]:
    """Sum the NLL of each row's completion, in one batch; call it inside `evaluating`.

    Args:
        base: A transformers model.
        rows: (token ids, how many of them are the prompt), of any lengths.

    Returns:
        Nats, one sum a row.
    """
    ids, mask = padded([ids for ids, _ in rows], left=False)
    counts = [scored(ids, start) for ids, start in rows]
    columns = torch.cat([torch.arange(len(ids) - n, len(ids)) for (ids, _), n in zip(rows, counts, strict=True)])
    at = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)), columns - 1
    inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device), "use_cache": False}
    losses = token_nll(base, inputs, at, ids[at[0], columns])
    return [loss.double().sum().item() for loss in losses.split(counts)]


def token_nll(
    base: Any, inputs: dict[str, Any], at: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor
) -> torch.Tensor:
    """Compute the NLL of tokens, with the head at the positions that predict them and nowhere else.

    Args:
        base: A transformers model.
        inputs: What its forward pass is given, [batch, length].
        at: Rows and columns of n positions.
        targets: The token after each position [n].

    Returns:
        [n] float32 nats, on the CPU.
    """
    with head_at(base, *at):
        logits = base(**inputs).logits
    if logits.shape[:2] != (1, len(targets)):
        logits = logits[at][None]  # the model has no separate head: [batch, length, vocabulary]
    # [n, vocabulary], [n] -> [n]
    return F.cross_entropy(logits[0].float(), targets.to(base.device), reduction="none").cpu()


@contextmanager
def head_at(base: Any, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Give the head [1, n, hidden], the chosen positions only.

    A hook rather than a call of the head: what the model does to the logits afterwards (scaling, soft caps) stays.
    """
    head = base.get_output_embeddings() or nn.Identity()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns][None], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()
