"""Write what any understood kind of LoRA adds to a weight as one product B A.

PiSSA, OLoRA and KaSA take a low-rank part out of the base weights when PEFT loads them. The same part, computed anew
and with its sign changed, is put into the factors: exact, at twice the rank, for the untouched base.
"""

from __future__ import annotations

import torch

from rocket_hub.errors import AdapterError
from rocket_hub.moe.adapter_tensors import Factors

NOTHING = 1e-6  # of the product of the norms of A and B; what rounding leaves in fp32 is smaller


def fold(
    kind: str, factors: Factors, scaling: float, weight: torch.Tensor | None, where: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fold scaling, singular values and changes of the base into A and B.

    Args:
        kind: As `check_config` says.
        factors: What the adapter holds for one module, of rank r.
        scaling: What the product is multiplied by.
        weight: The base model's weight [out, in] in fp32, for kinds that change it; None for the others.
        where: Adapter and module, for messages.

    Returns:
        A [r', in] and B [out, r'] in fp32 with `ΔW = B A`; r' is 2r for kinds that change the base.

    Raises:
        AdapterError: The rank is more than the weight has (`bad_shape`), or PEFT would compute NaN (`broken_config`).
    """
    down = factors.a if factors.diagonal is None else factors.diagonal[:, None] * factors.a
    up = scaling * factors.b
    if weight is None:
        return down, up
    if not scaling > 0:
        raise AdapterError("broken_config", f"{where}: {kind} with a scaling of {scaling:g}, which must be above 0")
    rank = len(down)
    if rank > min(weight.shape) - (kind == "kasa"):
        raise AdapterError("bad_shape", f"{where}: {kind} of rank {rank} in a weight of shape {list(weight.shape)}")
    removed_down, removed_up = (part.cpu() for part in _removed(kind, weight, rank, scaling))
    return torch.cat([down, removed_down]), torch.cat([up, -removed_up], dim=1)


def _removed(kind: str, weight: torch.Tensor, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (D [r, in], U [out, r]): the base that PEFT works with is W - U D.

    In fp32 like PEFT, so that singular vectors of close singular values come out the same.
    """
    if kind == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank], scaling * q[:, :rank]
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    part = slice(len(s) - rank, None) if kind == "kasa" else slice(rank)
    return vh[part], u[:, part] * s[part]


def does_nothing(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether B A is 0 but for rounding, without computing it: `‖BA‖² = tr(BᵀB AAᵀ)`."""
    inner, outer = a.double() @ a.double().T, b.double().T @ b.double()
    product, largest = (inner * outer).sum(), inner.trace() * outer.trace()
    return bool(product <= NOTHING**2 * largest)
