import json
import time

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from rocket_hub.errors import AdapterError
from rocket_hub.lora.expert import read_expert
from tests.helping import reason_of, table

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def tensors(prefix=MODULE, middle=""):
    return {f"{prefix}.lora_A{middle}.weight": torch.ones(2, 8), f"{prefix}.lora_B{middle}.weight": torch.ones(6, 2)}


def write(folder, weights, config=CONFIG):
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def test_what_it_adds_is_what_peft_adds(tiny_model, lora_bank, fresh_base):
    for folder in lora_bank:
        expert = read_expert(folder)
        model = PeftModel.from_pretrained(fresh_base(), folder)
        adapted = {name for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")}
        assert set(expert.modules) == adapted
        for name, (a, b) in expert.modules.items():
            expected = model.get_base_model().get_submodule(name).get_delta_weight("default")
            torch.testing.assert_close(b @ a, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("prefix", "middle"), table("moe/key_variants.jsonl"))
def test_key_variants(tmp_path, prefix, middle):
    expert = read_expert(write(tmp_path, tensors(prefix, middle)), name="mine")
    assert expert.name == "mine"
    ((name, (a, b)),) = expert.modules.items()
    assert name == "model.layers.0.self_attn.q_proj"
    assert torch.equal(a, torch.ones(2, 8)) and torch.equal(b, torch.full((6, 2), 2.0))


def test_scaling_is_folded_per_module(tmp_path):
    config = {**CONFIG, "use_rslora": True, "alpha_pattern": {"layers.0.self_attn.q_proj": 10, "v_proj": 1}}
    weights = tensors() | tensors(MODULE.replace("layers.0", "layers.1"))
    modules = read_expert(write(tmp_path, weights, config)).modules
    scalings = [float(b[0, 0]) for _, b in modules.values()]
    assert scalings == pytest.approx([10 / 2**0.5, 4 / 2**0.5])


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000, '{"a": "' + "x" * (1 << 20) + '"}', "\udcff"])
def test_broken_configurations(tmp_path, config):
    write(tmp_path, tensors())
    (tmp_path / "adapter_config.json").write_bytes(config.encode(errors="surrogateescape"))
    with pytest.raises(AdapterError, match="adapter_config") as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "broken_config"


def test_files_that_are_refused(tmp_path):
    write(tmp_path, tensors())
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    assert reason_of(read_expert, tmp_path) == "broken_weights"
    path.unlink()
    assert reason_of(read_expert, tmp_path) == "no_weights"
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(AdapterError, match="never opened") as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "pickle_only"
    (tmp_path / "adapter_config.json").unlink()
    assert reason_of(read_expert, tmp_path) == "broken_config"


# PEFT warns of what the test is about: saved embeddings, and biases where it expects none.
@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`", "ignore:`lora_bias=True` was passed", "ignore:.*have invalid shape"
)
@pytest.mark.parametrize(("options", "reason"), table("moe/peft_refused.jsonl"))
def test_what_peft_really_saves_is_refused_without_its_configuration_too(tmp_path, fresh_base, options, reason):
    """An adapter whose configuration was stripped of the option is caught by its tensors, where it has any."""
    model = get_peft_model(fresh_base(), LoraConfig(r=2, task_type="CAUSAL_LM", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    assert reason_of(read_expert, tmp_path) == reason
    if reason != "needs_base_weights":
        write(tmp_path, load_file(tmp_path / "adapter_model.safetensors"), CONFIG)
        assert reason_of(read_expert, tmp_path) in {reason, "vocab_resized"}


def test_a_pattern_that_could_be_matched_for_ever_is_not_matched(tmp_path):
    module = MODULE.replace("q_proj", "a" * 60)
    started = time.perf_counter()
    with pytest.raises(AdapterError, match="not simple"):
        read_expert(write(tmp_path, tensors(module), {**CONFIG, "alpha_pattern": {"(a|a|aa)+b": 3}}))
    assert time.perf_counter() - started < 1
