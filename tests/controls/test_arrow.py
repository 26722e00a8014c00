"""Arrow by PEFT over experts of any rank and any modules."""

import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer

from rocket_hub.controls.peft_models import TOP_K, arrow_model, padded_experts
from rocket_hub.inference import completion_nll
from rocket_hub.lora.expert import Expert, read_expert
from rocket_hub.moe.router_init import arrow_prototypes

from .conftest import ROWS, delta, listening, says

MODULE = "model.layers.0.self_attn.q_proj"


def test_padding_changes_no_expert(base, experts, pin, tmp_path):
    some = [*experts[:2], Expert("one layer", {MODULE: experts[0].modules[MODULE]}, {})]
    folder = padded_experts(base, some, tmp_path / "arrow", **pin)
    padded = [read_expert(folder / f"expert-{number}") for number in range(3)]
    assert len({tuple(expert.modules) for expert in padded}) == 1
    assert {a.shape[0] for expert in padded for a, _ in expert.modules.values()} == {4}
    for expert, wide in zip(some, padded, strict=True):
        for name in wide.modules:
            expected = delta(expert, name) if name in expert.modules else torch.zeros_like(delta(wide, name))
            assert torch.equal(delta(wide, name), expected), name


def test_every_token_goes_to_its_nearest_experts(base, tokenizer, experts, pin, tmp_path):
    folder, before = padded_experts(base, experts, tmp_path / "arrow", **pin), says(base)
    with arrow_model(base, folder) as model:
        routers = [module for module in model.modules() if isinstance(module, ArrowLoraLinearLayer)]
        adapted = {name.rpartition(".")[2] for expert in experts for name in expert.modules}
        assert len(routers) == 2 * len(adapted)
        assert not torch.allclose(says(model), before, atol=1e-3)
        x, y = listening(model.get_base_model(), MODULE, lambda: says(model))
        layer = model.get_base_model().get_submodule(MODULE)
        prototypes, plain = layer.lora_arrow["arrow_router"].prototypes, layer.base_layer(x)
        nll, _ = completion_nll(model, tokenizer, [(row.prompt, row.completion) for row in ROWS[:3]])
        assert (nll > 0).all()
    owners = [expert for expert in experts if MODULE in expert.modules]
    stacked = [torch.cat([e.modules[MODULE][0] for e in owners]), torch.cat([e.modules[MODULE][1] for e in owners], 1)]
    exact = arrow_prototypes(*stacked, [e.modules[MODULE][0].shape[0] for e in owners])
    found = prototypes[[MODULE in expert.modules for expert in experts]]
    assert ((found * exact).sum(dim=1).abs() > 0.95).all()  # PEFT's are by power iteration
    near = (x @ prototypes.t()).abs()  # [rows, tokens, experts]
    least = near.topk(TOP_K).values[..., -1:]
    gates = torch.softmax(near.masked_fill(near < least, -torch.inf), dim=-1)
    added = [x @ delta(e, MODULE).t() if MODULE in e.modules else torch.zeros_like(y) for e in experts]
    expected = plain + sum(gates[..., i : i + 1] * added[i] for i in range(len(experts)))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(says(base), before)


def test_fewer_experts_than_arrow_asks_for(base, experts, pin, tmp_path):
    folder = padded_experts(base, experts[:1], tmp_path / "arrow", **pin)
    before = says(base)
    with arrow_model(base, folder) as model:
        said = says(model)
    assert not torch.allclose(said, before, atol=1e-3)
