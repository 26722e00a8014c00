"""The models that `routed_layer` compares: one frozen base, shared by all, with the same experts in every form."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import ArrowConfig, LoraConfig, PeftModel, XLoraConfig, create_arrow_model, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rocket_hub.lora.expert import Expert, read_expert
from rocket_hub.moe.merging import merge_experts

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOP_K = 2


@dataclass(frozen=True)
class Size:
    """Sizes of the model, the experts and the batch."""

    hidden: int = 512
    intermediate: int = 1408
    layers: int = 8
    heads: int = 8
    vocabulary: int = 256
    experts: int = 4
    rank: int = 16
    batch: int = 4
    tokens: int = 256
    context: int = 64  # tokens in the cache when one more is decoded


def build(size: Size, folder: Path, device: str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Build every variant, with experts and routers trainable and the base frozen.

    The experts are written below `folder`. ROCKET_MOE's routers stay in fp32 whatever `dtype` is.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=max(512, size.tokens),
    )  # fmt: skip
    base = LlamaForCausalLM(config).requires_grad_(False)

    def fresh() -> PreTrainedModel:
        # The copy shares the weights: seven models in one process, and no variant has them warmer in a cache.
        return copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})

    folders = write_experts(fresh, size, folder)
    models = {
        "base": _base(fresh()),
        "lora": get_peft_model(fresh(), lora(size.rank * size.experts)),
        "rocket": _rocket(fresh(), folders, folder / "dense", top_k=None),
        "rocket-top2": _rocket(fresh(), folders, folder / "top", top_k=TOP_K),
        "arrow": _arrow(fresh(), folders),
        "xlora": _xlora(fresh(), folders, size),
        "loop": _loop(fresh(), [read_expert(path) for path in folders]),
    }
    return {name: model.to(device, dtype) for name, model in models.items()}


def lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM")


def write_experts(fresh: Callable[[], PreTrainedModel], size: Size, folder: Path) -> list[Path]:
    folders = [folder / f"expert-{expert}" for expert in range(size.experts)]
    for path in folders:
        get_peft_model(fresh(), lora(size.rank)).save_pretrained(str(path))
    return folders


def _base(model: PreTrainedModel) -> nn.Module:
    """The base alone; its backward pass reaches the embeddings' output, as with adapters in the first layer."""
    model.enable_input_require_grads()
    return model


def _rocket(model: PreTrainedModel, experts: list[Path], folder: Path, top_k: int | None) -> nn.Module:
    merge_experts(experts, folder, base_model="none", top_k=top_k)
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def _arrow(model: PreTrainedModel, experts: list[Path]) -> nn.Module:
    """PEFT's Arrow; its router is computed, not trained, and its experts come frozen."""
    arrow = create_arrow_model(model, [str(path) for path in experts], ArrowConfig(top_k=TOP_K, rng_seed=0))
    for name, parameter in arrow.named_parameters():
        parameter.requires_grad_(".task_" in name)
    return arrow


def _xlora(model: PreTrainedModel, experts: list[Path], size: Size) -> nn.Module:
    """PEFT's X-LoRA, which requires a model without cache."""
    model.config.use_cache = False
    adapters = {str(number): str(path) for number, path in enumerate(experts)}
    config = XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=size.hidden, adapters=adapters, top_k_lora=TOP_K, use_trainable_adapters=True
    )
    return get_peft_model(model, config)


def _loop(model: PreTrainedModel, experts: Sequence[Expert]) -> nn.Module:
    """Naive layers in the place of every adapted one."""
    model.requires_grad_(False)
    modules = dict(model.named_modules())
    for name in experts[0].modules:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, NaiveExperts(modules[name], [expert.modules[name] for expert in experts]))
    return model


class NaiveExperts(nn.Module):
    """One layer as the paper's formulas read: a loop over experts that gathers each one's tokens.

    `y = base(x) + Σ_{e in top-k} w_e(x) B_e A_e x`; `w` is the k largest of the softmax, scaled to sum to 1 (Eq. 7-9).
    """

    def __init__(self, base: nn.Module, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.base = base
        self.router = nn.Linear(pairs[0][0].shape[1], len(pairs), bias=False)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for a, b in pairs:
            for layers, weight in ((self.down, a), (self.up, b)):
                layers.append(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
                layers[-1].weight.data.copy_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [..., in] -> [..., out]
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(tokens).softmax(-1, dtype=torch.float32).topk(TOP_K, dim=-1)
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
