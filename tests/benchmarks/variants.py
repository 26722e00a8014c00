"""The models that are compared: one frozen base, shared by all, and the same experts in every form."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import ArrowConfig, LoraConfig, PeftModel, XLoraConfig, create_arrow_model, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rocket_hub.lora.expert import read_expert
from rocket_hub.moe.merging import merge_experts
from tests.benchmarks.naive_loop import loop_over

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
    """Build every variant.

    Args:
        size: Sizes.
        folder: Where the experts are written.
        device: Where the models go.
        dtype: What they are cast to (ROCKET_MOE's routers stay in fp32 by themselves).

    Returns:
        Name of the variant -> model, experts and routers trainable, the base frozen.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=max(512, size.tokens),
    )
    base = LlamaForCausalLM(config).requires_grad_(False)

    def fresh() -> PreTrainedModel:
        # The copy shares the weights: seven models in one process, and no variant has them warmer in a cache.
        return copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})

    folders = _write_experts(fresh, size, folder)
    models = {
        "base": _base(fresh()),
        "lora": get_peft_model(fresh(), _lora(size.rank * size.experts)),
        "rocket": _rocket(fresh(), folders, folder / "dense", top_k=None),
        "rocket-top2": _rocket(fresh(), folders, folder / "top", top_k=TOP_K),
        "arrow": _arrow(fresh(), folders),
        "xlora": _xlora(fresh(), folders, size),
        "loop": loop_over(fresh(), [read_expert(path) for path in folders], TOP_K),
    }
    return {name: model.to(device, dtype) for name, model in models.items()}


def _lora(rank: int) -> LoraConfig:
    """Plain LoRA of the seven linears, with weights that do something."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM")


def _write_experts(fresh: Callable[[], PreTrainedModel], size: Size, folder: Path) -> list[Path]:
    """Write the experts as LoRA folders."""
    folders = [folder / f"expert-{expert}" for expert in range(size.experts)]
    for path in folders:
        get_peft_model(fresh(), _lora(size.rank)).save_pretrained(str(path))
    return folders


def _base(model: PreTrainedModel) -> nn.Module:
    """The base alone; its backward pass reaches the embeddings' output, as with adapters in the first layer."""
    model.enable_input_require_grads()
    return model


def _rocket(model: PreTrainedModel, experts: list[Path], folder: Path, top_k: int | None) -> nn.Module:
    """ROCKET_MOE as `merge_experts` writes it."""
    merge_experts(experts, folder, base_model="none", top_k=top_k)
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def _arrow(model: PreTrainedModel, experts: list[Path]) -> nn.Module:
    """PEFT's Arrow; its router is computed, not trained, and its experts come frozen."""
    arrow = create_arrow_model(model, [str(path) for path in experts], ArrowConfig(top_k=TOP_K, rng_seed=0))
    for name, parameter in arrow.named_parameters():
        parameter.requires_grad_(".task_" in name)
    return arrow


def _xlora(model: PreTrainedModel, experts: list[Path], size: Size) -> nn.Module:
    """PEFT's X-LoRA, which insists on a model without cache."""
    model.config.use_cache = False
    config = XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=size.hidden,
        adapters={str(number): str(path) for number, path in enumerate(experts)},
        top_k_lora=TOP_K,
        use_trainable_adapters=True,
    )
    return get_peft_model(model, config)
