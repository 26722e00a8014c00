"""The controls: fair starts, and a recommendation that is no better than its evidence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import LlamaForCausalLM

from rocket_hub.controls import CONTROLS, ROUTED, all_methods, check_controls, fresh_lora, recommend
from rocket_hub.errors import RecipeError
from rocket_hub.evaluation import paired_difference
from rocket_hub.moe.expert import Expert, read_expert
from rocket_hub.recipe import MergeOptions
from rocket_hub.records import Evaluation, Pinned

IDS = torch.arange(4, 18).reshape(2, 7)


def measured(method: str, correct: list[int]) -> Evaluation:
    return Evaluation(method, sum(correct) / len(correct), 0.0, 1.0, tuple(correct))


def right(count: int, first: int, total: int = 100) -> list[int]:
    """Right from problem `first` on, `count` times."""
    return [0] * first + [1] * count + [0] * (total - first - count)


RECOMMENDED = [
    ([("base", 40), ("stack", 60), (ROUTED, 61)], "stack"),  # six problems won and five lost: noise
    ([("base", 40), ("stack", 60), (ROUTED, 70)], ROUTED),  # fifteen problems won and five lost
    ([("base", 60), ("stack", 60), (ROUTED, 60)], "base"),  # nothing to choose: the cheapest
    ([("base", 61), ("stack", 60), (ROUTED, 50)], "base"),  # the cheapest is best
    ([("base", 40), ("stack", 70), (ROUTED, 50)], "stack"),  # the most expensive is not the best
]


@pytest.mark.parametrize(("counts", "method"), RECOMMENDED)
def test_the_cheapest_within_one_standard_error(counts: list[tuple[str, int]], method: str) -> None:
    found = recommend([measured(name, right(count, 5 if name == ROUTED else 0)) for name, count in counts])
    assert found.method == method
    best = max(count for _, count in counts)
    said = f"best ({best}.0%)" if dict(counts)[method] == best else f"ahead by {best - dict(counts)[method]}.0%"
    assert said in found.reason


@given(st.integers(2, 30).flatmap(lambda n: st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=1)))
def test_nothing_cheaper_is_as_good(table: list[list[int]]) -> None:
    evaluations = [measured(str(number), correct) for number, correct in enumerate(table)]
    chosen = int(recommend(evaluations).method)
    best = max(evaluations, key=lambda evaluation: evaluation.accuracy)
    gaps = [paired_difference(best, evaluation) for evaluation in evaluations]
    assert gaps[chosen][0] <= gaps[chosen][1]
    assert all(gap > error for gap, error in gaps[:chosen])


def test_controls_by_name() -> None:
    assert check_controls(()) == ()
    assert check_controls(("all",)) == CONTROLS
    assert check_controls(("stack_trained", "base")) == ("base", "stack_trained")  # in the order of cost


@pytest.mark.parametrize("names", [("base", "bse"), ("all", "bse")])
def test_unknown_controls(names: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match=r"unknown control 'bse'.*all, base, best_single"):
        check_controls(names)


@pytest.fixture
def base(tiny_model: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def experts(lora_bank: list[Path]) -> list[Expert]:
    return [read_expert(folder) for folder in lora_bank]


def logits(base: Any, adapter: Path | None = None) -> torch.Tensor:
    """What the base says, with an adapter on it for as long."""
    if adapter is None:
        with torch.no_grad():
            return base(IDS).logits
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    try:
        with torch.no_grad():
            return model(IDS).logits
    finally:
        model.unload()


def test_a_fresh_lora_has_the_experts_modules_and_ranks(base: Any, experts: list[Expert], tmp_path: Path) -> None:
    ranks: dict[str, int] = {}
    for expert in experts:
        for name, (a, _) in expert.modules.items():
            ranks[name] = ranks.get(name, 0) + a.shape[0]
    assert len(set(ranks.values())) > 1, "the bank should have modules of different total rank"
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    folder = fresh_lora(base, experts, tmp_path / "fresh")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    model = PeftModel.from_pretrained(base, str(folder))
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert {name: layer.r["default"] for name, layer in layers.items()} == ranks
    assert {layer.scaling["default"] for layer in layers.values()} == {2.0}
    assert all(layer.lora_A["default"].weight.abs().max() > 0 for layer in layers.values())
    model.unload()
    assert torch.equal(logits(base, folder), logits(base))


def test_every_start_is_an_adapter(base: Any, experts: list[Expert], lora_bank: list[Path], tmp_path: Path) -> None:
    pins = [Pinned(f"acme/{expert.name}", "0" * 40, licence="mit") for expert in experts]
    pinned = Pinned("acme/base", "1" * 40)
    methods = all_methods(base, None, (), pinned, experts, pins, lora_bank[1], MergeOptions())
    assert tuple(methods) == (*CONTROLS, ROUTED)  # the result is measured last
    assert methods["base"].start is None
    starts = {name: m.start(0.25, tmp_path / name) for name, m in methods.items() if m.start is not None}
    assert starts["best_single"] == starts["best_single_trained"] == lora_bank[1]
    said = {name: logits(base, folder) for name, folder in starts.items()}
    assert torch.equal(said["fresh_lora"], logits(base))
    # Four experts: a quarter each is the uniform merge, and routers start as the static stack of their weight.
    for name in ("stack_trained", ROUTED):
        torch.testing.assert_close(said[name], said["uniform_merge"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(said["uniform_merge"], said["best_single"], atol=1e-3)
    assert not torch.allclose(logits(base, methods[ROUTED].start(0.5, tmp_path / "half")), said[ROUTED], atol=1e-3)
