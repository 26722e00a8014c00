"""The best product of lower rank in place of B A, without ever computing B A itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Truncation:
    """Factors of lower rank, and what they keep.

    Attributes:
        a: [r, in] in fp32.
        b: [out, r] in fp32.
        kept: Squared Frobenius norm of their product.
        total: Squared Frobenius norm of the product that they stand for.
    """

    a: torch.Tensor
    b: torch.Tensor
    kept: float
    total: float


def truncate(a: torch.Tensor, b: torch.Tensor, rank: int) -> Truncation:
    """Cut B A to its largest singular values.

    With B = Q_b R_b and Aᵀ = Q_a R_a, the singular values of B A are those of R_b R_aᵀ, which has the size of the rank.

    Args:
        a: [R, in].
        b: [out, R].
        rank: Largest rank r that is wanted.

    Returns:
        The factors as they are if R <= r; else of rank r, the singular values shared evenly between both.
    """
    q_a, r_a = torch.linalg.qr(a.double().T)
    q_b, r_b = torch.linalg.qr(b.double())
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    total = float(s.square().sum())
    if len(a) <= rank:
        return Truncation(a, b, total, total)
    root = s[:rank].sqrt()
    down, up = root[:, None] * (vh[:rank] @ q_a.T), q_b @ u[:, :rank] * root
    return Truncation(down.float(), up.float(), float(s[:rank].square().sum()), total)
