import json

import pytest
from peft import PeftConfig

from rocket_hub.errors import AdapterError, RecipeError
from rocket_hub.moe.config import RocketMoeConfig
from tests.helping import table


@pytest.mark.parametrize(("options", "message"), table("moe/config_faults.jsonl"))
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        RocketMoeConfig(**options)


def test_saved_form_comes_back_and_is_the_same_every_time(tmp_path):
    config = RocketMoeConfig(
        target_modules=["v_proj", "q_proj", "o_proj"], rank_pattern={"q_proj": [1, 0, 2, 3]}, top_k=2
    )
    config.save_pretrained(str(tmp_path))
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == "ROCKET_MOE"
    assert saved["target_modules"] == ["o_proj", "q_proj", "v_proj"]
    assert PeftConfig.from_pretrained(str(tmp_path)) == config


def test_newer_form_is_refused_on_load(tmp_path):
    RocketMoeConfig(target_modules=["q_proj"]).save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(AdapterError, match="pip install -U rocket-hub") as caught:
        PeftConfig.from_pretrained(str(tmp_path))
    assert caught.value.reason == "newer_format"
