"""Experts on a tiny base, and what that base says with something on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rocket_hub.inference.models import load_base
from rocket_hub.lora.expert import Expert, read_expert
from rocket_hub.options import TrainOptions
from rocket_hub.records import Example

IDS = torch.arange(4, 18).reshape(2, 7)
RATE = 1e-2
OPTIONS = TrainOptions(learning_rate=(RATE,), max_steps=4, batch_size=8, max_length=32)
ROWS = [
    Example(f"question what is {a} plus {b} ?", f" the answer #### {a + b}", str(a + b))
    for a in range(5)
    for b in range(5)
]  # fmt: skip


@pytest.fixture
def base(tiny_model: Path) -> Iterator[Any]:
    """The base, which every test has to give back as it was, to the bit."""
    model = load_base(str(tiny_model), None)[0]
    before, modules = {n: t.clone() for n, t in model.state_dict().items()}, [*map(type, model.modules())]
    yield model
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert [*map(type, model.modules())] == modules and "forward" not in vars(model)


@pytest.fixture(scope="package")
def experts(lora_bank: list[Path]) -> list[Expert]:
    return [read_expert(folder) for folder in lora_bank]


@pytest.fixture(scope="package")
def pin(tiny_model: Path) -> dict[str, Any]:
    return {"base_model": str(tiny_model), "base_revision": None}


def says(model: Any) -> torch.Tensor:
    """The logits of two rows."""
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def listening(base: Any, module: str, ask: Callable[[], Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into a module of a model, and what comes out, while something is asked."""
    heard: list[torch.Tensor] = []
    hook = base.get_submodule(module).register_forward_hook(lambda _, inputs, output: heard.extend([inputs[0], output]))
    try:
        ask()
    finally:
        hook.remove()
    return heard[0], heard[1]


def delta(expert: Expert, module: str) -> torch.Tensor:
    """ΔW of an expert [out, in]."""
    a, b = expert.modules[module]
    return b @ a
