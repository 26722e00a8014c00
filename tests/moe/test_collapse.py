import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer

from rocket_hub.errors import AdapterError, InputError
from rocket_hub.moe.collapse import collapse_to_lora
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import routers

TEXTS = ["what is 1 plus 2 ? the answer is 3 .", "what is 2 plus 2 ?"]
HELD_OUT = ["the answer is 7 .", "what is 5 plus 2 ? #### 7"]


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def token_nlls(model, tokenizer, texts):
    """One number per token, worked out from the logits."""
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            predicted = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        found += (-predicted.gather(-1, ids[0, 1:, None])).flatten().tolist()
    return found


def test_the_plain_lora_and_the_measured_loss(fresh_base, routed, tokenizer, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed).train()
    collapse = collapse_to_lora(model, tokenizer, TEXTS, tmp_path, held_out=HELD_OUT)
    assert model.training and model.eval()
    plain = PeftModel.from_pretrained(fresh_base(), tmp_path)
    assert plain.peft_config["default"].peft_type == "LORA"
    for found, expected in [(collapse.routed_nll, model), (collapse.collapsed_nll, plain)]:
        assert found == pytest.approx(math.fsum(token_nlls(expected, tokenizer, HELD_OUT)) / collapse.tokens, abs=1e-6)
    assert collapse.tokens == len(token_nlls(model, tokenizer, HELD_OUT))
    assert collapse.loss == collapse.collapsed_nll - collapse.routed_nll != 0
    assert collapse.gate_means.keys() == routers(model).keys()
    assert all(0 < mean < 2 for means in collapse.gate_means.values() for mean in means)
    columns = zip(*collapse.gate_means.values(), strict=True)
    assert collapse.expert_means == pytest.approx([sum(column) / len(collapse.gate_means) for column in columns])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_constant_gates_collapse_without_loss(fresh_base, tokenizer, tiny_model, lora_bank, tmp_path):
    from rocket_hub.moe.merging import merge_experts

    merged = merge_experts(lora_bank, tmp_path / "merged", base_model=str(tiny_model))
    model = PeftModel.from_pretrained(fresh_base(), merged)
    collapse = collapse_to_lora(model, tokenizer, TEXTS, tmp_path / "lora")
    assert abs(collapse.loss) < 1e-6
    assert collapse.expert_means == pytest.approx([1.0] * 4)


def test_what_cannot_be_collapsed(fresh_base, routed, tokenizer, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    with pytest.raises(InputError, match="none of the 1 texts has two tokens"):
        collapse_to_lora(model, tokenizer, ["what"], tmp_path / "out")
    lora = get_peft_model(fresh_base(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match="set_adapter") as caught:
        collapse_to_lora(lora, tokenizer, TEXTS, tmp_path / "out")
    assert caught.value.reason == "not_rocket_moe"
    both = get_peft_model(fresh_base(), RocketMoeConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with pytest.raises(AdapterError) as caught:
        collapse_to_lora(both, tokenizer, TEXTS, tmp_path / "out")
    assert caught.value.reason == "modules_to_save"
    assert not (tmp_path / "out").exists()
