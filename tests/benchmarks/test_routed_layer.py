"""The benchmark runs, and what it calls the naive loop computes what ROCKET_MOE computes."""

import json

import pytest
import torch
from peft import PeftModel

from rocket_hub.lora.expert import read_expert
from rocket_hub.moe.merging import merge_experts
from rocket_hub.moe.router import router_parameters
from tests.benchmarks.measuring import Ratio, ratio
from tests.benchmarks.naive_loop import loop_over
from tests.benchmarks.routed_layer import main
from tests.benchmarks.variants import Size


def test_it_runs_and_counts(tmp_path, capsys):
    size = Size(hidden=16, intermediate=32, layers=1, heads=2, vocabulary=32, rank=2, batch=2, context=4)
    main(["--rounds", "2", "--tokens", "8", "--json", str(tmp_path / "found.json")], size)
    printed = capsys.readouterr().out
    assert "ROCKET_MOE dense / PEFT X-LoRA" in printed and printed.count("<=") == 30
    found = json.loads((tmp_path / "found.json").read_text())
    timed = {name: sum(seconds is not None for seconds in taken) for name, taken in found["costs"]["train"].items()}
    assert {name for name, times in timed.items() if times == 1} == {"base", "xlora"}  # every fourth round
    assert set(timed.values()) == {1, 2}
    saved, flops = found["costs"]["saved"], found["costs"]["flops"]
    assert saved["base"] < saved["lora"] < saved["arrow"] and flops["base"] < flops["rocket"] < flops["xlora"]


def test_ratio_is_taken_within_rounds():
    """A machine that slows down in the middle changes the times, not the ratio."""
    assert ratio([1, 10, 100], [2, 20, 200]) == Ratio(0.5, 0.5, 0.5)
    assert ratio([1, 10, 100], [2, None, 200]) == Ratio(0.5, 0.5, 0.5)
    noisy = ratio([1, 1, 1, 1, 2], [1, 1, 1, 1, 1])
    assert (noisy.median, noisy.low, noisy.high) == pytest.approx((1, 1, 2), abs=1e-9)


def test_naive_loop_is_the_same_function(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    for seed in range(3):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / str(seed))
    folders = [tmp_path / str(seed) for seed in range(3)]
    merged = merge_experts(folders, tmp_path / "merged", base_model=str(tiny_model), gate="softmax", top_k=2)
    routed = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), merged, is_trainable=True)
    naive = loop_over(LlamaForCausalLM.from_pretrained(tiny_model), [read_expert(path) for path in folders], top_k=2)
    for name, parameter in router_parameters(routed):
        torch.nn.init.normal_(parameter)
        module = name.removeprefix("base_model.model.").partition(".rocket_moe_router")[0]
        naive.get_submodule(module).router.weight.data.copy_(parameter.data)
    ids = torch.randint(4, 28, (2, 9), generator=torch.Generator().manual_seed(0))
    outputs = [model(input_ids=ids, labels=ids) for model in (routed, naive)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, atol=1e-6, rtol=1e-6)
    for output in outputs:
        output.loss.backward()
    for name, parameter in router_parameters(routed):
        module = name.removeprefix("base_model.model.").partition(".rocket_moe_router")[0]
        torch.testing.assert_close(parameter.grad, naive.get_submodule(module).router.weight.grad, atol=1e-6, rtol=1e-5)
