import pytest
from peft import PeftModel, get_peft_model
from transformers import BitsAndBytesConfig

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.model import quantization_of

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (None, None),
        (BitsAndBytesConfig(**NF4), "bitsandbytes-4bit-nf4"),
        (BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes-8bit"),
        ({"quant_method": "gptq", "bits": 4}, "gptq-4bit"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_names(fresh_base, settings, name):
    model = fresh_base()
    if settings is not None:
        model.config.quantization_config = settings
    assert quantization_of(model) == name


def test_another_quantisation_than_recorded_is_a_warning(fresh_base, tmp_path):
    settings = {"target_modules": ["q_proj"], "expert_ranks": [2, 2]}
    config = RocketMoeConfig(base_quantization="bitsandbytes-4bit-nf4", **settings)
    quantised = fresh_base()
    quantised.config.quantization_config = BitsAndBytesConfig(**NF4)
    get_peft_model(quantised, config).save_pretrained(tmp_path)
    for trainable in (False, True):
        with pytest.warns(UserWarning, match=r"quantised as bitsandbytes-4bit-nf4, this one is not quantised.*0\.1"):
            PeftModel.from_pretrained(fresh_base(), tmp_path, is_trainable=trainable)
    again = fresh_base()
    again.config.quantization_config = BitsAndBytesConfig(**NF4)
    PeftModel.from_pretrained(again, tmp_path)  # warnings are errors here


def test_a_base_that_is_quantised_only_now_is_a_warning_when_used_and_none_when_trained(fresh_base, routed):
    base = fresh_base()
    base.config.quantization_config = BitsAndBytesConfig(**NF4)
    with pytest.warns(UserWarning, match="not at all, this one is bitsandbytes-4bit-nf4"):
        PeftModel.from_pretrained(base, routed)
    base = fresh_base()
    base.config.quantization_config = BitsAndBytesConfig(**NF4)
    PeftModel.from_pretrained(base, routed, is_trainable=True)
