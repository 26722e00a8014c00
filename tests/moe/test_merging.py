import json

import pytest
import torch
from peft import PeftModel
from routing_world import logits
from safetensors.torch import load_file

from rocket_hub.errors import AdapterError, NothingLeftError, RecipeError
from rocket_hub.lora.expert import Expert, read_expert
from rocket_hub.moe.merging import merge_experts, stack_experts
from rocket_hub.moe.router import router_parameters
from tests.conftest import save_lora

CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def test_routed_start_equals_the_stack_and_peft_itself(tiny_model, lora_bank, fresh_base, ids, tmp_path):
    peft_model = PeftModel.from_pretrained(fresh_base(), lora_bank[0], adapter_name="0")
    for number, folder in enumerate(lora_bank[1:], start=1):
        peft_model.load_adapter(folder, str(number))
    peft_model.base_model.set_adapter(["0", "1", "2", "3"])
    for weight in (1.0, 0.25):
        for module in peft_model.modules():
            if hasattr(module, "scale_layer"):
                module.scale_layer(weight)
        expected = logits(peft_model, ids)
        merged = merge_experts(lora_bank, tmp_path / "moe", base_model=str(tiny_model), gate_start=weight)
        stacked = stack_experts(lora_bank, weight, tmp_path / "lora", base_model=str(tiny_model))
        torch.testing.assert_close(logits(PeftModel.from_pretrained(fresh_base(), merged), ids), expected, **CLOSE)
        torch.testing.assert_close(logits(PeftModel.from_pretrained(fresh_base(), stacked), ids), expected, **CLOSE)
        assert (expected - logits(fresh_base(), ids)).abs().max() > 0.01


def test_stack_equals_pefts_weighted_cat(tiny_model, lora_bank, fresh_base, ids, tmp_path):
    weights = [0.3, 1.5]
    model = PeftModel.from_pretrained(fresh_base(), lora_bank[0], adapter_name="0")
    model.load_adapter(lora_bank[2], "2")
    model.add_weighted_adapter(["0", "2"], weights, "cat", combination_type="cat")
    model.set_adapter("cat")
    stacked = stack_experts([lora_bank[0], lora_bank[2]], weights, tmp_path, base_model=str(tiny_model))
    loaded = PeftModel.from_pretrained(fresh_base(), stacked)
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids), **CLOSE)


def test_configuration_is_compact_and_names_the_ingredients(tiny_model, lora_bank, tmp_path):
    origin = [{"repo_id": f"demo/{n}", "revision": "0" * 40, "licence": "mit"} for n in range(4)]
    options = {"base_model": str(tiny_model), "base_revision": "1" * 40, "provenance": origin, "train_experts": False}
    config = config_of(merge_experts(lora_bank, tmp_path, gate="softmax", top_k=2, **options))
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["expert_ranks"] == [0, 0, 3, 0]
    assert config["rank_pattern"] == {
        r"model\.layers\.0\.self_attn\.q_proj": [2, 4, 0, 2],
        r"model\.layers\.1\.self_attn\.q_proj": [2, 4, 0, 5],
        "up_proj": [0, 4, 0, 0],
        "v_proj": [2, 0, 0, 2],
    }
    assert (config["experts"], config["expert_weight"], config["revision"]) == (origin, 1.0, "1" * 40)
    assert config["base_model_name_or_path"]
    assert (config["gate"], config["top_k"], config["train_experts"]) == ("softmax", 2, False)
    assert config["task_type"] == "CAUSAL_LM" and config["inference_mode"] is True and config["format_version"] == 1
    name = "base_model.model.model.layers.0.mlp.up_proj.rocket_moe_router.weight"
    router = load_file(tmp_path / "adapter_model.safetensors")[name]
    assert router.shape == (4, 16) and 0 < router.std() < 0.1


def test_a_shared_router_is_one_in_the_file_too(tiny_model, lora_bank, fresh_base, ids, tmp_path):
    options = {"router": "shared", "gate": "softmax", "gate_scale": "unit", "top_k": 2}
    merged = merge_experts(lora_bank, tmp_path / "merged", base_model=str(tiny_model), **options)
    assert options.items() <= config_of(merged).items()
    saved = {key: t for key, t in load_file(merged / "adapter_model.safetensors").items() if "router" in key}
    assert len({(t.shape[1], t.numpy().tobytes()) for t in saved.values()}) == 2 < len(saved)  # widths 16 and 32
    model = PeftModel.from_pretrained(fresh_base(), merged)
    assert len(router_parameters(model)) == 2
    model.save_pretrained(tmp_path / "saved")
    again = PeftModel.from_pretrained(fresh_base(), tmp_path / "saved")
    assert torch.equal(logits(model, ids), logits(again, ids))


def test_layers_that_no_expert_adapts_stay_unadapted(tiny_model, fresh_base, tmp_path, ids):
    folders = [
        save_lora(fresh_base(), tmp_path / f"{layer}", r=rank, layers_to_transform=[layer], target_modules=["q_proj"])
        for layer, rank in ((0, 2), (1, 3))
    ]
    one = merge_experts(folders[:1], tmp_path / "one", base_model=str(tiny_model))
    assert config_of(one)["target_modules"] == ["model.layers.0.self_attn.q_proj"]
    assert len(router_parameters(PeftModel.from_pretrained(fresh_base(), one))) == 1
    both = stack_experts(folders, 1.0, tmp_path / "both", base_model=str(tiny_model))
    assert config_of(both)["r"] == config_of(both)["lora_alpha"] == 2
    pattern = {r"model\.layers\.1\.self_attn\.q_proj": 3}
    assert config_of(both)["rank_pattern"] == config_of(both)["alpha_pattern"] == pattern
    merged = merge_experts(folders, tmp_path / "merged", base_model=str(tiny_model), gate_start=1.0)
    loaded = [PeftModel.from_pretrained(fresh_base(), folder) for folder in (both, merged)]
    torch.testing.assert_close(logits(loaded[0], ids), logits(loaded[1], ids), **CLOSE)


def test_merged_folder_is_what_peft_would_save(tiny_model, lora_bank, fresh_base, tmp_path):
    merged = merge_experts(lora_bank, tmp_path / "merged", base_model=str(tiny_model))
    PeftModel.from_pretrained(fresh_base(), merged).save_pretrained(tmp_path / "saved")
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (merged, tmp_path / "saved"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert config_of(merged) == config_of(tmp_path / "saved")


def test_the_same_input_gives_the_same_bytes(tiny_model, lora_bank, tmp_path):
    experts = [read_expert(folder, name=f"expert-{n}") for n, folder in enumerate(lora_bank)]
    written = []
    for attempt in ("a", "b"):
        merged = merge_experts(experts, tmp_path / attempt, base_model="demo/base")
        stacked = stack_experts(experts, 0.5, tmp_path / f"{attempt}-lora", base_model="demo/base")
        written.append([path.read_bytes() for folder in (merged, stacked) for path in sorted(folder.iterdir())])
    assert written[0] == written[1] and len(written[0]) == 4


def test_what_cannot_be_merged(tmp_path):
    def expert(name, width):
        return Expert(name, {"q_proj": (torch.ones(2, width), torch.ones(4, 2))}, {})

    with pytest.raises(AdapterError, match=r"'q_proj' has other sizes.*'b', \(9, 4\)") as caught:
        merge_experts([expert("a", 8), expert("b", 9)], tmp_path, base_model="demo/base")
    assert caught.value.reason == "shape_mismatch"
    with pytest.raises(NothingLeftError):
        merge_experts([], tmp_path, base_model="demo/base")
    with pytest.raises(RecipeError, match="weights: 3 weights for 1 experts"):
        stack_experts([expert("a", 8)], [1, 2, 3], tmp_path, base_model="demo/base")
    with pytest.raises(RecipeError, match="top_k"):
        merge_experts([expert("a", 8)], tmp_path, base_model="demo/base", top_k=2)
    assert not list(tmp_path.iterdir())
