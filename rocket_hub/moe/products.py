"""The two products of a routed layer, written so that they keep for the backward pass what a plain LoRA keeps.

Autograd alone would keep the hidden values three times (bare, weighed, and the weights) and would take the layer's
input apart twice, once for the experts and once for the router. Both functions are exact. A compiler decides by itself
what to keep and what to compute again, so it gets the plain form.
"""

from __future__ import annotations

from typing import Any

import torch


class _Project(torch.autograd.Function):
    """`x [A; R]^T` in one product; the stack of A and R is made anew for the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, a, r)
        return x @ torch.cat([a, r]).t()

    @staticmethod
    def backward(ctx: Any, d_z: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, r = ctx.saved_tensors
        needs_x, needs_a, needs_r = ctx.needs_input_grad
        d_x = d_z @ torch.cat([a, r]) if needs_x else None
        if needs_a and needs_r:
            d_a, d_r = (d_z.t() @ x).split([len(a), len(r)])
            return d_x, d_a, d_r
        d_a = d_z[:, : len(a)].t() @ x if needs_a else None
        d_r = d_z[:, len(a) :].t() @ x if needs_r else None
        return d_x, d_a, d_r


class _AddExperts(torch.autograd.Function):
    """`base + (hidden ∘ (gates M)) B^T`; keeps `hidden` and `gates`, weighs again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        base: torch.Tensor | None,
        hidden: torch.Tensor,
        gates: torch.Tensor,
        expand: torch.Tensor,
        weight: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, gates, expand, weight)
        weighed = hidden * (gates @ expand).to(hidden.dtype)
        return weighed @ weight.t() if base is None else torch.addmm(base, weighed, weight.t())

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, gates, expand, weight = ctx.saved_tensors
        needs_base, needs_hidden, needs_gates, _, needs_weight = ctx.needs_input_grad
        wide = (gates @ expand).to(hidden.dtype)
        d_weighed = d_y @ weight if needs_hidden or needs_gates else None
        d_hidden = d_weighed * wide if needs_hidden else None
        d_gates = None
        if needs_gates:
            d_gates = ((d_weighed * hidden).to(expand.dtype) @ expand.t()).to(gates.dtype)
        d_weight = d_y.t() @ (hidden * wide) if needs_weight else None
        return d_y if needs_base else None, d_hidden, d_gates, None, d_weight


def project(x: torch.Tensor, a: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute hidden values and router logits in one product; all of one dtype, outside autocast.

    Args:
        x: Input of the layer, [tokens, in].
        a: Stacked experts A, [ΣR, in].
        r: Router, [E, in].

    Returns:
        (`x a^T` [tokens, ΣR], `x r^T` [tokens, E]).
    """
    both = x @ torch.cat([a, r]).t() if torch.compiler.is_compiling() else _Project.apply(x, a, r)
    hidden, logits = both.split([len(a), len(r)], dim=1)
    return hidden, logits


def add_experts(
    base: torch.Tensor, hidden: torch.Tensor, gates: torch.Tensor, expand: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Weigh the hidden values by their experts' gates and add what B makes of them to the base layer's output.

    Args:
        base: Output of the base layer, [tokens, out], any dtype.
        hidden: `A x`, [tokens, ΣR].
        gates: Gate weights, [tokens, E] in fp32.
        expand: Which expert each column of `hidden` belongs to, one-hot [E, ΣR].
        weight: Stacked experts B, [out, ΣR].

    Returns:
        [tokens, out] in the dtype of `base`.
    """
    weight = weight.to(hidden.dtype)  # under autocast the hidden values come in its dtype
    if torch.compiler.is_compiling():
        return base + ((hidden * (gates @ expand).to(hidden.dtype)) @ weight.t()).to(base.dtype)
    if base.dtype == hidden.dtype:
        return _AddExperts.apply(base, hidden, gates, expand, weight)
    return base + _AddExperts.apply(None, hidden, gates, expand, weight).to(base.dtype)
