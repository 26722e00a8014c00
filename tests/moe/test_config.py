import json

import pytest
from peft import PeftConfig

from rocket_hub.errors import AdapterError, RecipeError
from rocket_hub.moe.config import RocketMoeConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "top_k: expected 1 to 4"),
        ({"top_k": 0}, "top_k: expected 1 to 4"),
        ({"gate": "softmax", "top_k": 1}, "top_k: softmax over one expert.*sigmoid"),
        ({"gate": "softmax", "expert_ranks": [8]}, "gate: softmax over one expert.*sigmoid"),
        ({"top_k": 1.5}, "top_k: expected 1 to 4"),
        (
            {"gate": "softmax", "top_k": 1, "gate_scale": "renormalised"},
            "top_k: softmax over one expert.*gate_scale: unit",
        ),
        ({"gate_scale": "renormalised"}, "gate_scale: sigmoid gates.*gate: softmax"),
        ({"gate_scale": "sum"}, "gate_scale: expected one of unit, renormalised, found 'sum'"),
        ({"router": "global"}, "router: expected one of layer, shared, found 'global'"),
        ({"router_logits": "abs"}, "router_logits: expected one of linear, absolute"),
        ({"load_balance_coef": -0.1}, "load_balance_coef: expected 0"),
        ({"entropy_coef": float("nan")}, "entropy_coef: expected 0"),
        ({"z_coef": float("inf")}, "z_coef: expected 0"),
        ({"gate": "noisy"}, "gate: expected one of sigmoid, softmax, found 'noisy'"),
        ({"gate_start": 0.0}, "gate_start: expected a positive weight"),
        ({"dropout": 1.0}, "dropout"),
        ({"expert_ranks": []}, "expert_ranks: expected one rank per expert"),
        ({"expert_ranks": [0, 0]}, "expert_ranks: expected one rank per expert"),
        ({"expert_ranks": [4, -1]}, "expert_ranks: expected one rank per expert"),
        ({"rank_pattern": {"q_proj": [1, 2]}}, "rank_pattern: 'q_proj' has 2 ranks, expert_ranks has 4"),
        ({"layers_to_transform": [0], "target_modules": "all-linear"}, "layers_to_transform: has no effect"),
        ({"expert_names": ["a"]}, "expert_names: 1 entries for 4 experts"),
        ({"experts": [{"repo_id": "a/b"}]}, "experts: 1 entries for 4 experts"),
    ],
)
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
