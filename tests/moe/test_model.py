import copy
import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from routing_world import fresh_config, logits, randomised
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from rocket_hub.errors import AdapterError, RecipeError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import collect_gates, fixed_gates, routers
from rocket_hub.moe.router import router_parameters


def test_round_trip_is_exact(fresh_base, routed, ids, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(fresh_base(), tmp_path)
    lean = PeftModel.from_pretrained(fresh_base(), tmp_path, low_cpu_mem_usage=True)
    assert (logits(model, ids) - logits(again, ids)).abs().max() == 0.0
    assert (logits(model, ids) - logits(lean, ids)).abs().max() == 0.0
    assert (logits(model, ids) - logits(fresh_base(), ids)).abs().max() > 1e-3
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (routed / name).read_bytes()


@pytest.mark.parametrize("shared", [False, True])
def test_generation_with_cache_equals_without(fresh_base, routed, ids, shared):
    model = (
        shared_model(fresh_base(), gate="softmax", top_k=2).eval()
        if shared
        else PeftModel.from_pretrained(fresh_base(), routed)
    )
    options = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(**options, use_cache=True), model.generate(**options, use_cache=False))


def test_disabled_adapter_is_the_base_and_unload_returns_it(fresh_base, routed, ids):
    expected = logits(fresh_base(), ids)
    model = PeftModel.from_pretrained(fresh_base(), routed)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), expected)
    assert not torch.equal(logits(model, ids), expected)
    bare = model.unload()
    assert torch.equal(logits(bare, ids), expected)
    assert not any("rocket_moe" in name for name, _ in bare.named_modules())


def test_two_adapters(fresh_base, routed, ids):
    alone = logits(PeftModel.from_pretrained(fresh_base(), routed), ids)
    model = PeftModel.from_pretrained(fresh_base(), routed, adapter_name="first")
    model.add_adapter("second", fresh_config())
    assert not any(p.requires_grad for n, p in model.named_parameters() if "second" in n)
    model.set_adapter("second")
    randomised(model)
    second = logits(model, ids)
    assert not torch.allclose(second, alone)
    model.set_adapter("first")
    assert torch.equal(logits(model, ids), alone)
    model.delete_adapter("second")
    assert torch.equal(logits(model, ids), alone)
    assert not any("second" in name for name in model.state_dict())


def test_merging_is_refused_before_anything_changes(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    before = logits(model, ids)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    for merge in (model.merge_and_unload, model.merge_adapter, layer.merge):
        with pytest.raises(AdapterError, match="collapse_to_lora"):
            merge()
    assert torch.equal(logits(model, ids), before)


def test_modules_to_save(fresh_base, ids, tmp_path):
    model = randomised(get_peft_model(fresh_base(), fresh_config(modules_to_save=["lm_head"])))
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(fresh_base(), tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))
    assert not torch.equal(again.base_model.model.lm_head.weight, fresh_base().lm_head.weight)


@pytest.mark.parametrize("options", [{}, {"gate": "softmax"}, {"top_k": 1}, {"gate": "softmax", "top_k": 2}])
def test_gradients_reach_routers_and_experts(fresh_base, ids, options):
    model = randomised(get_peft_model(fresh_base(), fresh_config(expert_ranks=[2, 1, 3], **options)))
    model(input_ids=ids, labels=ids).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad.abs().max() > 0 for n, p in model.named_parameters() if n in trained)
    assert {re.search(r"rocket_moe_(\w+)", name)[1] for name in trained} == {"A", "B", "router"}


def test_router_only_training(fresh_base, ids):
    model = get_peft_model(fresh_base(), fresh_config(train_experts=False))
    only = {name for name, _ in router_parameters(model)}
    assert len(only) == 4
    with model.disable_adapter():
        pass
    model.set_adapter("default")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == only


def test_layers_and_patterns_choose_modules_and_ranks(fresh_base):
    config = fresh_config(layers_to_transform=[1], rank_pattern={r"self_attn\.q_proj": [0, 5]})
    model = get_peft_model(fresh_base(), config)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if "rocket_moe_A" in n}
    prefix, suffix = "base_model.model.model.layers.1.", ".rocket_moe_A.default.weight"
    assert shapes == {f"{prefix}self_attn.q_proj{suffix}": (5, 16), f"{prefix}mlp.down_proj{suffix}": (5, 32)}


def test_conv1d_and_all_linear():
    base = GPT2LMHeadModel(GPT2Config(vocab_size=28, n_positions=16, n_embd=16, n_layer=1, n_head=2)).eval()
    ids = torch.arange(6)[None]
    expected = logits(base, ids)
    model = get_peft_model(base, fresh_config(target_modules="all-linear"))
    assert len(router_parameters(model)) == 4
    assert torch.equal(logits(model, ids), expected)
    assert not torch.equal(logits(randomised(model), ids), expected)


def test_only_linear_modules_are_targets(fresh_base):
    with pytest.raises(RecipeError, match=r"target_modules: 'model\.layers\.0\.mlp' is a LlamaMLP"):
        get_peft_model(fresh_base(), fresh_config(target_modules=["mlp"]))


def test_routers_stay_in_fp32(fresh_base, routed, ids):
    exact = dict(router_parameters(PeftModel.from_pretrained(fresh_base(), routed)))
    model = PeftModel.from_pretrained(fresh_base(), routed).to(torch.bfloat16)
    for name, parameter in router_parameters(model):
        assert torch.equal(parameter, exact[name])
    gates = []
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    layer.rocket_moe_gate["default"].register_forward_hook(lambda *call: gates.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(model, ids).dtype == torch.bfloat16
    assert logits(model, ids).isfinite().all()
    assert gates == [torch.float32, torch.float32]


# One router for all layers of a width: saved, loaded and trained as one.
TARGETS = ["q_proj", "up_proj", "down_proj"]  # inputs of width 16, 16, 32; two layers


def shared_model(base, **options):
    return randomised(get_peft_model(base, fresh_config(target_modules=TARGETS, router="shared", **options)), seed=4)


def is_shared(model, adapter_name=None):
    found = routers(model, adapter_name).values()
    return len({id(router) for router in found}) == len({id(router.weight) for router in found}) == 2 < len(found)


def test_one_weight_for_each_width(fresh_base, ids):
    model = shared_model(fresh_base())
    assert [tuple(p.shape) for _, p in router_parameters(model)] == [(2, 16), (2, 32)]
    assert is_shared(model) and is_shared(copy.deepcopy(model))
    with collect_gates(model) as recorder:
        logits(model, ids)
    means = recorder.means()
    assert len(means) == 6  # each layer asks about its own input
    assert not torch.equal(means["model.layers.0.self_attn.q_proj"], means["model.layers.1.self_attn.q_proj"])
    with fixed_gates(model, {"model.layers.1.self_attn.q_proj": torch.zeros(2)}), collect_gates(model) as held:
        logits(model, ids)
    found = held.means()
    assert not found["model.layers.1.self_attn.q_proj"].any() and found["model.layers.0.self_attn.q_proj"].all()


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_shared_router_comes_back_exactly_and_stays_shared(fresh_base, ids, tmp_path, low_cpu_mem_usage):
    model = shared_model(fresh_base())
    model.save_pretrained(tmp_path)
    assert sum("rocket_moe_router" in key for key in load_file(tmp_path / "adapter_model.safetensors")) == 6
    again = PeftModel.from_pretrained(fresh_base(), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(again, ids), logits(model, ids))
    assert is_shared(again)
    assert all(parameter.requires_grad for _, parameter in router_parameters(again))
    loaded = fresh_base()
    loaded.load_adapter(str(tmp_path))
    assert torch.equal(logits(loaded, ids), logits(model, ids)) and is_shared(loaded)


def test_a_shared_router_beside_another_adapter(fresh_base, ids, tmp_path):
    model = shared_model(fresh_base())
    expected = logits(model, ids)
    model.add_adapter("second", RocketMoeConfig(target_modules=TARGETS, expert_ranks=[1, 1, 1], router="shared"))
    assert is_shared(model, "default") and is_shared(model, "second")
    assert torch.equal(logits(model, ids), expected)
    model.set_adapter("second")
    trained = {name for name, p in router_parameters(model) if p.requires_grad}
    assert len(trained) == 2 and all("second" in name for name in trained)
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(logits(model, ids), expected)
    model.add_adapter("second", RocketMoeConfig(target_modules=TARGETS, expert_ranks=[1, 1], router="shared"))
    assert is_shared(model, "second")
