"""One router for all layers of a width: saved, loaded and trained as one."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from routing_world import fresh_config, logits, randomised
from safetensors.torch import load_file

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import collect_gates, fixed_gates, routers
from rocket_hub.moe.router import router_parameters

TARGETS = ["q_proj", "up_proj", "down_proj"]  # inputs of width 16, 16, 32; two layers


def shared_model(base, **options):
    return randomised(get_peft_model(base, fresh_config(target_modules=TARGETS, router="shared", **options)), seed=4)


def is_shared(model, adapter_name=None) -> bool:
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
def test_round_trip_is_exact_and_stays_shared(fresh_base, ids, tmp_path, low_cpu_mem_usage):
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


def test_beside_another_adapter(fresh_base, ids, tmp_path):
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


def test_generation_with_cache_equals_without(fresh_base, ids):
    model = shared_model(fresh_base(), gate="softmax", top_k=2).eval()
    options = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(**options, use_cache=True), model.generate(**options, use_cache=False))
