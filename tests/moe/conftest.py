"""Fixtures of the adapter type: a fresh base, some tokens, a routed adapter that does route."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, PreTrainedModel

from rocket_hub.moe.merging import merge_experts
from rocket_hub.moe.router import router_parameters


@pytest.fixture
def fresh_base(tiny_model: Path) -> Callable[[], PreTrainedModel]:
    """Load the base anew: PEFT changes a model in place."""
    return lambda: LlamaForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    return torch.randint(4, 28, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def routed(tiny_model: Path, lora_bank: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a routed adapter of four experts, saved by PEFT, with routers that do route."""
    merged = merge_experts(lora_bank, tmp_path_factory.mktemp("merged"), base_model=str(tiny_model))
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), merged)
    torch.manual_seed(1)
    for _, parameter in router_parameters(model):
        torch.nn.init.normal_(parameter, std=1.0)
    folder = tmp_path_factory.mktemp("routed")
    model.save_pretrained(folder)
    return folder
