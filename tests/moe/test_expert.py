import json
import time

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from rocket_hub.errors import AdapterError
from rocket_hub.lora.expert import read_expert

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def tensors(prefix: str = MODULE, middle: str = "") -> dict[str, torch.Tensor]:
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


@pytest.mark.parametrize(
    ("prefix", "middle"),
    [
        (MODULE, ""),
        (MODULE, ".default"),
        (MODULE.removeprefix("base_model.model."), ""),
        ("base_model.model." + MODULE, ""),
        ("module." + MODULE, ""),
        ("_orig_mod." + MODULE, ""),
        (MODULE.replace("self_attn", "_fsdp_wrapped_module.self_attn"), ".default"),
    ],
)
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


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"peft_type": "LOHA"}, "not_lora"),
        ({"peft_type": None}, "not_lora"),
        ({"task_type": "SEQ_CLS"}, "wrong_task"),
        ({"use_dora": True}, "dora"),
        ({"task_type": None, "auto_mapping": {"base_model_class": "LlamaModel"}}, "wrong_task"),
        ({"base_model_name_or_path": "demo/llama-pissa-residual"}, "wrong_base"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "needs_base_weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "unsupported_init"),
        ({"init_lora_weights": "pissa", "fan_in_fan_out": True}, "unsupported_init"),
        ({"init_lora_weights": "pissa", "kasa_config": {}}, "unsupported_init"),
        ({"init_lora_weights": "olora"}, "needs_base_weights"),
        ({"init_lora_weights": "loftq"}, "unsupported_init"),
        ({"init_lora_weights": "corda"}, "unsupported_init"),
        ({"init_lora_weights": "lora_ga"}, "unsupported_init"),
        ({"init_lora_weights": ["pissa"]}, "unsupported_init"),
        ({"init_lora_weights": "some_future_init"}, "unsupported_init"),
        ({"kasa_config": {}}, "needs_base_weights"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_tokens"),
        ({"layer_replication": [[0, 2]]}, "unsupported_config"),
        ({"target_parameters": ["experts"]}, "unsupported_config"),
        ({"use_qalora": True}, "unsupported_config"),
        ({"arrow_config": {}}, "unsupported_config"),
        ({"megatron_config": {"a": 1}}, "unsupported_config"),
        ({"use_bdlora": {}}, "unsupported_config"),
        ({"some_future_option": 3}, "unknown_keys"),
        ({"init_r": 3}, "unknown_keys"),
        ({"r": 3}, "rank_mismatch"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_mismatch"),
        ({"r": None}, "broken_config"),
        ({"r": 10**9}, "broken_config"),
        ({"rank_pattern": {"q_proj": "2"}}, "broken_config"),
        ({"lora_alpha": None}, "broken_config"),
        ({"lora_alpha": True}, "broken_config"),
        ({"lora_alpha": "16"}, "broken_config"),
        ({"alpha_pattern": {"(": 3}}, "broken_config"),
        ({"lora_alpha": 10**400}, "broken_config"),
        ({"lora_alpha": float("nan")}, "broken_config"),
        ({"alpha_pattern": {"(a*)*(a*)*b": 3}}, "unsupported_config"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "unsupported_config"),
        ({"rank_pattern": {"(a+)+b": 3}}, "unsupported_config"),
        ({"alpha_pattern": {"(a|a){9}b": 3}}, "unsupported_config"),
        ({"alpha_pattern": {".*.*.*": 3}}, "unsupported_config"),
        ({"alpha_pattern": {"q" * 300: 3}}, "unsupported_config"),
        ({"alpha_pattern": {"a{99999999999}": 3}}, "broken_config"),
        ({"alpha_pattern": [3]}, "broken_config"),
        ({"lora_alpha": 0}, "untrained"),
    ],
)
def test_configurations_that_are_refused(tmp_path, changed, reason):
    with pytest.raises(AdapterError) as caught:
        read_expert(write(tmp_path, tensors(), {**CONFIG, **changed}))
    assert caught.value.reason == reason


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000, '{"a": "' + "x" * (1 << 20) + '"}', "\udcff"])
def test_broken_configurations(tmp_path, config):
    write(tmp_path, tensors())
    (tmp_path / "adapter_config.json").write_bytes(config.encode(errors="surrogateescape"))
    with pytest.raises(AdapterError, match="adapter_config") as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "broken_config"


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({**tensors(), f"{MODULE}.lora_magnitude_vector": torch.ones(6)}, "dora"),
        ({**tensors(), f"{MODULE}.lora_B.bias": torch.ones(6)}, "lora_bias"),
        ({**tensors(), f"{MODULE}.base_layer.bias": torch.ones(6)}, "bias_trained"),
        ({**tensors(), "base_model.model.lm_head.weight": torch.ones(9, 8)}, "vocab_resized"),
        (tensors("base_model.model.lm_head"), "embedding_lora"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2, 8)}, "embedding_lora"),
        ({**tensors(), "base_model.model.score.weight": torch.ones(2, 8)}, "modules_to_save"),
        ({**tensors(), "x.token_adapter.trainable_tokens_delta": torch.ones(2)}, "trainable_tokens"),
        ({**tensors(), f"{MODULE}.lora_E": torch.ones(2, 1)}, "unknown_keys"),
        ({**tensors(), **tensors(middle=".other")}, "unknown_keys"),
        (tensors("base_model.model.../../etc"), "unknown_keys"),
        (tensors("m" * 300), "unknown_keys"),
        ({**tensors(), f"{MODULE}.lora_diag": torch.ones(2)}, "unknown_keys"),
        ({**tensors(), "base_model.model.model.layers.0.self_attn.rotary": torch.ones(2)}, "unknown_keys"),
        ({f"{MODULE}.lora_A.weight": torch.ones(2, 8)}, "missing_partner"),
        ({f"{MODULE}.lora_B.weight": torch.ones(6, 2)}, "missing_partner"),
        ({**tensors(), f"{MODULE}.lora_A.weight": torch.ones(3, 8)}, "bad_shape"),
        ({**tensors(), f"{MODULE}.lora_A.weight": torch.ones(0)}, "bad_shape"),
        ({**tensors(), f"{MODULE}.lora_A.weight": torch.ones(2, 2, 2)}, "bad_shape"),
        ({**tensors(), f"{MODULE}.lora_A.weight": torch.ones(2, 0)}, "bad_shape"),
        ({**tensors(), f"{MODULE}.lora_A.weight": torch.full((2, 8), torch.nan)}, "nan_weights"),
        ({**tensors(), f"{MODULE}.lora_B.weight": torch.full((6, 2), torch.inf)}, "nan_weights"),
        ({**tensors(), f"{MODULE}.lora_B.weight": torch.ones(6, 2, dtype=torch.int8)}, "nan_weights"),
        ({**tensors(), f"{MODULE}.lora_B.weight": torch.zeros(6, 2)}, "untrained"),
        ({**tensors(), f"{MODULE}.lora_B.weight": torch.tensor([[1.0, -1.0]] * 6)}, "untrained"),
        ({}, "no_weights"),
    ],
)
def test_tensors_that_are_refused(tmp_path, weights, reason):
    with pytest.raises(AdapterError) as caught:
        read_expert(write(tmp_path, weights))
    assert caught.value.reason == reason


def test_files_that_are_refused(tmp_path):
    write(tmp_path, tensors())
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(AdapterError) as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "broken_weights"
    path.unlink()
    with pytest.raises(AdapterError) as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "no_weights"
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(AdapterError, match="never opened") as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "pickle_only"
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(AdapterError) as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "broken_config"


# PEFT warns of what the test is about: saved embeddings, and biases where it expects none.
@pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`", "ignore:`lora_bias=True` was passed", "ignore:.*have invalid shape"
)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True, "target_modules": ["q_proj"]}, "dora"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embedding_lora"),
        ({"target_modules": ["lm_head"]}, "embedding_lora"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}, "trainable_tokens"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "lora_bias"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "needs_base_weights"),
    ],
)
def test_what_peft_really_saves_is_refused_without_its_configuration_too(tmp_path, fresh_base, options, reason):
    """An adapter whose configuration was stripped of the option is caught by its tensors, where it has any."""
    model = get_peft_model(fresh_base(), LoraConfig(r=2, task_type="CAUSAL_LM", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterError) as caught:
        read_expert(tmp_path)
    assert caught.value.reason == reason
    if reason != "needs_base_weights":
        write(tmp_path, load_file(tmp_path / "adapter_model.safetensors"), CONFIG)
        with pytest.raises(AdapterError) as caught:
            read_expert(tmp_path)
        assert caught.value.reason in {reason, "vocab_resized"}


def test_a_pattern_that_could_be_matched_for_ever_is_not_matched(tmp_path):
    module = MODULE.replace("q_proj", "a" * 60)
    started = time.perf_counter()
    with pytest.raises(AdapterError, match="not simple"):
        read_expert(write(tmp_path, tensors(module), {**CONFIG, "alpha_pattern": {"(a|a|aa)+b": 3}}))
    assert time.perf_counter() - started < 1
