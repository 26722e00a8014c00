"""How likely a model finds given completions (Eq. 1 and 2 without their exponential)."""

from __future__ import annotations

import math
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


def row_nll(base: Any, rows: Sequence[tuple[list[int], int]], *, mean: str = "geometric") -> list[float]:
    """Sum the NLL of each row's completion, in one batch; call it inside `evaluating`.

    Args:
        base: A transformers model.
        rows: (token ids, how many of them are the prompt), of any lengths.
        mean: Of a row's token probabilities: `geometric`, which makes the sum the NLL of the completion (Eq. 1), or
            `arithmetic`, which gives -n log of the mean probability of its n tokens. In that each token counts for
            1/n at most, however unlikely it is.

    Returns:
        Nats, one sum a row.
    """
    return [_summed(losses.double(), mean) for losses in row_losses(base, rows)]


def row_losses(base: Any, rows: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, ...]:
    """Compute the NLL of each token of each row's completion, in one batch; call it inside `evaluating`.

    Args:
        base: A transformers model.
        rows: (token ids, how many of them are the prompt), of any lengths.

    Returns:
        Nats, one [completion tokens] float32 a row.
    """
    ids, mask = padded([ids for ids, _ in rows], left=False)
    counts = [scored(ids, start) for ids, start in rows]
    columns = torch.cat([torch.arange(len(ids) - n, len(ids)) for (ids, _), n in zip(rows, counts, strict=True)])
    at = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)), columns - 1
    inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device), "use_cache": False}
    return token_nll(base, inputs, at, ids[at[0], columns]).split(counts)


def _summed(nll: torch.Tensor, mean: str) -> float:
    """Sum the NLL [n] of a completion's tokens, or what stands for it with another mean of their probabilities."""
    if mean == "geometric" or not len(nll):
        return float(nll.sum())
    return float(len(nll) * (math.log(len(nll)) - torch.logsumexp(-nll, 0)))


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
