"""What is no plain LoRA, as PEFT really saves it, and what is one only with the base's own tensors beside it."""

import json

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, VeraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rocket_hub.errors import AdapterError
from rocket_hub.lora.expert import read_expert

TARGETS = ["q_proj", "down_proj"]


def save(base, config, folder):
    """Save an adapter of these options as if it had been trained a little."""
    torch.manual_seed(0)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def reason_of(folder, *args, **options):
    with pytest.raises(AdapterError) as caught:
        read_expert(folder, *args, **options)
    assert str(folder) in str(caught.value)
    return caught.value.reason


def test_square_factors_that_were_not_transposed_are_refused(tmp_path, fresh_base):
    """They load in PEFT's form too, and would be wrong without a word."""
    folder = save(fresh_base(), LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    path = folder / "adapter_model.safetensors"
    save_file({key: tensor.T.contiguous() for key, tensor in load_file(path).items()}, path)
    assert reason_of(folder) == "rank_mismatch"
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    assert reason_of(folder, base_weights=fresh_base().get_parameter) == "shape_mismatch"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LoraConfig(target_modules=TARGETS, init_lora_weights="pissa_niter_4"), "unsupported_init"),
        (LoraConfig(target_modules=TARGETS, alora_invocation_tokens=[1], task_type="CAUSAL_LM"), "unsupported_config"),
        (LoraConfig(target_modules=TARGETS, use_bdlora=BdLoraConfig(TARGETS, nblocks=2)), "unsupported_config"),
        (LoraConfig(target_modules=TARGETS, layer_replication=[[0, 2], [0, 2]]), "unsupported_config"),
        (LoraConfig(target_modules=TARGETS, use_dora=True), "dora"),
        (LoHaConfig(target_modules=TARGETS), "not_lora"),
        (LoKrConfig(target_modules=TARGETS), "not_lora"),
        (OFTConfig(target_modules=TARGETS, oft_block_size=4), "not_lora"),
        (VeraConfig(target_modules=["q_proj"]), "not_lora"),
        (IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]), "not_lora"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.peft_type.value,
)
def test_what_is_no_plain_lora_is_refused_even_with_the_base(tmp_path, fresh_base, config, reason):
    folder = save(fresh_base(), config, tmp_path)
    assert reason_of(folder, base_weights=fresh_base().get_parameter) == reason


@pytest.mark.parametrize("init", ["pissa", "olora", "kasa"])
def test_an_untrained_adapter_of_a_changed_base_is_untrained(tmp_path, fresh_base, init):
    options = {"kasa_config": KasaConfig()} if init == "kasa" else {"init_lora_weights": init}
    get_peft_model(fresh_base(), LoraConfig(r=4, target_modules=TARGETS, **options)).save_pretrained(tmp_path)
    assert reason_of(tmp_path, base_weights=fresh_base().get_parameter) == "untrained"


def test_another_base_is_refused(tmp_path, fresh_base):
    for number, options in enumerate(({"init_lora_weights": "pissa"}, {})):
        folder = save(fresh_base(), LoraConfig(r=4, target_modules=["q_proj"], **options), tmp_path / str(number))
        wider = LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2))  # fmt: skip  # noqa: E501
        assert reason_of(folder, base_weights=wider.get_parameter) == "shape_mismatch"
        assert reason_of(folder, base_weights={}.__getitem__) == "shape_mismatch"
    quantised = {f"model.layers.{n}.self_attn.q_proj.weight": torch.zeros(128, 1, dtype=torch.uint8) for n in (0, 1)}
    assert reason_of(tmp_path / "0", base_weights=quantised.__getitem__) == "needs_base_weights"
    assert read_expert(tmp_path / "1", base_weights=quantised.__getitem__).modules  # plain: nothing to look up
    config = json.loads((tmp_path / "1" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "demo/pissa-r16-Residual"
    (tmp_path / "1" / "adapter_config.json").write_text(json.dumps(config))
    assert reason_of(tmp_path / "1") == "wrong_base"


@pytest.mark.parametrize("change", ["nothing", "lm_head.weight", "q_proj.base_layer.bias", "lora_B.bias"])
@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT means the biases
def test_whole_tensors_are_accepted_if_they_are_the_base_s_own(tmp_path, change):
    torch.manual_seed(0)
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, attention_bias=True))
    own = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    options = {"lora_bias": True, "bias": "all", "modules_to_save": ["lm_head"], "init_lora_weights": False}
    save(base, LoraConfig(r=2, target_modules=["q_proj"], **options), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {"lm_head", "base_layer", "lora_B"} <= {part for key in tensors for part in key.split(".")}
    for key in tensors:
        if key.endswith("lora_B.bias"):
            tensors[key].zero_()
        if key.endswith(change):
            tensors[key].view(-1)[0] += 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    reasons = {
        "lm_head.weight": "modules_to_save",
        "q_proj.base_layer.bias": "bias_trained",
        "lora_B.bias": "lora_bias",
    }
    if change in reasons:
        assert reason_of(tmp_path, base_weights=own.__getitem__) == reasons[change]
        return
    assert list(read_expert(tmp_path, base_weights=own.__getitem__).modules) == ["model.layers.0.self_attn.q_proj"]
    assert reason_of(tmp_path) in {"modules_to_save", "bias_trained"}
    for missing, reason in (("lm_head", "modules_to_save"), ("lora_B.bias", "lora_bias")):
        save_file({k: v for k, v in tensors.items() if missing not in k}, tmp_path / "adapter_model.safetensors")
        assert reason_of(tmp_path, base_weights=own.__getitem__) == reason
