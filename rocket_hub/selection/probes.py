"""Measurements of the K-shot on the base model that some selectors need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from rocket_hub.inference.likelihood import completion_nll, row_losses
from rocket_hub.inference.tokens import batches, encode, evaluating
from rocket_hub.lora.attach import Pair, swapping
from rocket_hub.records import Example
from rocket_hub.selection.selectors import Loss, Tokens, Votes


def mixture_loss(
    model: Any, tokenizer: Any, factors: Mapping[str, Mapping[str, Pair]], shots: Sequence[Example], *, batch_size: int
) -> Loss:
    """Make the function that `lorahub` minimises; it leaves the model as it was.

    Args:
        model: The base model.
        tokenizer: Its tokenizer.
        factors: repository id -> module -> (A [r, in], B [out, r] with the scaling folded in).
        shots: The K-shot in the task's form.
        batch_size: Rows computed at once.

    Returns:
        From weights w by repository id to the mean negative log-likelihood per token over the shots, in nats, of the
        base with Σ w ΔW.
    """
    rows = [(shot.prompt, shot.completion) for shot in shots]

    def loss(weights: Mapping[str, float]) -> float:
        mixed = mixture({name: factors[name] for name in weights}, weights)
        with swapping(model, {"mixture": mixed}) as swap:
            swap(mixed)
            nll, tokens = completion_nll(model, tokenizer, rows, batch_size=batch_size)
        return float((nll / tokens).mean())

    return loss


def mixture(factors: Mapping[str, Mapping[str, Pair]], weights: Mapping[str, float]) -> dict[str, Pair]:
    """Make Σ w ΔW one adapter: all A above each other [Σr, in], all w B beside each other [out, Σr]."""
    modules = dict.fromkeys(module for expert in factors.values() for module in expert)
    mixed: dict[str, Pair] = {}
    for module in modules:
        owners = [name for name in factors if module in factors[name]]
        a = torch.cat([torch.as_tensor(factors[name][module][0]) for name in owners])
        b = torch.cat([torch.as_tensor(factors[name][module][1]) * weights[name] for name in owners], dim=1)
        mixed[module] = a, b
    return mixed


def kshot_tokens(
    model: Any, tokenizer: Any, factors: Mapping[str, Mapping[str, Pair]], shots: Sequence[Example], *, batch_size: int
) -> Tokens:
    """Make the function that `coverage` needs; arguments as of `mixture_loss`.

    Returns:
        From M repository ids to the probability of each completion token of the K-shot under each adapter [M, T].
    """

    def tokens(names: Sequence[str]) -> np.ndarray:
        rows = [encode(tokenizer, shot.prompt, shot.completion) for shot in shots]
        order = list(batches([len(ids) for ids, _ in rows], batch_size))
        found = []
        with swapping(model, {name: factors[name] for name in names}) as swap, evaluating(model):
            for name in names:
                swap(factors[name])
                losses = [loss for batch in order for loss in row_losses(model, [rows[i] for i in batch])]
                found.append(np.exp(-torch.cat(losses).double().numpy()))
        return np.array(found)

    return tokens


def kshot_votes(model: Any, tokenizer: Any, shots: Sequence[Example]) -> Votes:
    """Make the function with which `arrow` counts votes on the base model without an adapter.

    Returns:
        From module -> prototypes [M, in], zero where an adapter has none, to the votes of all tokens and modules [M].
    """
    rows = [encode(tokenizer, shot.prompt, shot.completion)[0] for shot in shots]

    def votes(prototypes: Mapping[str, np.ndarray]) -> np.ndarray:
        counts = np.zeros(len(next(iter(prototypes.values()))))

        def listen(vectors: torch.Tensor) -> Callable[..., None]:
            def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                # [tokens, in] [in, M] -> [tokens, M]
                first = (x @ vectors.to(x.device).t()).abs().argmax(dim=1)
                counts[:] += torch.bincount(first, minlength=len(counts)).cpu().numpy()

            return hook

        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            for module, vectors in prototypes.items():
                layer = model.get_submodule(module)
                hook = layer.register_forward_pre_hook(listen(torch.from_numpy(vectors).float()))
                stack.callback(hook.remove)
            for ids in rows:
                model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        return counts

    return votes
