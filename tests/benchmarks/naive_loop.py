"""The layer as the paper's formulas read: a loop over experts that gathers each one's tokens and scatters its result.

`y = base(x) + Σ_{e in top-k} w_e(x) B_e A_e x`, with `w` the k largest of the softmax, scaled to sum to 1 (Eq. 7-9).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from rocket_hub.lora.expert import Expert


class NaiveExperts(nn.Module):
    """One linear layer with experts that are called one after the other."""

    def __init__(self, base: nn.Module, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], top_k: int) -> None:
        super().__init__()
        self.base = base
        self.top_k = top_k
        self.router = nn.Linear(pairs[0][0].shape[1], len(pairs), bias=False)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for a, b in pairs:
            for layers, weight in ((self.down, a), (self.up, b)):
                layers.append(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
                layers[-1].weight.data.copy_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(tokens).softmax(-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        # [tokens, k] -> [E, tokens, k]
        masks = F.one_hot(chosen, len(self.down)).permute(2, 0, 1)
        result = self.base(x)
        delta = torch.zeros_like(result).view(len(tokens), -1)
        for mask, down, up in zip(masks, self.down, self.up, strict=True):
            rows, slots = torch.where(mask)
            if len(rows):
                delta.index_add_(0, rows, up(down(tokens[rows])) * weights[rows, slots, None])
        return result + delta.view_as(result)


def loop_over(model: nn.Module, experts: Sequence[Expert], top_k: int) -> nn.Module:
    """Put naive layers into a model, in place.

    Args:
        model: The base model.
        experts: Experts that all adapt the same modules.
        top_k: Experts per token.
    """
    model.requires_grad_(False)
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    for name in experts[0].modules:
        parent, _, child = name.rpartition(".")
        layer = NaiveExperts(modules[name], [expert.modules[name] for expert in experts], top_k)
        setattr(modules[parent], child, layer)
    return model
