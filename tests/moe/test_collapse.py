import json
import math
import re

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model

from rocket_hub.cli.models import collapse_command
from rocket_hub.errors import AdapterError, InputError, StorageError
from rocket_hub.lora.expert import read_expert
from rocket_hub.lora.write import truncate
from rocket_hub.moe.collapsing import collapse_to_lora
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import routers
from tests.helping import lines, reason_of

TEXTS = ["what is 1 plus 2 ? the answer is 3 .", "what is 2 plus 2 ?"]
HELD_OUT = ["the answer is 7 .", "what is 5 plus 2 ? #### 7"]


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


def full_deltas(folder):
    """Module name -> what a plain LoRA adds, from its tensors (scaling 1)."""
    return {name: b @ a for name, (a, b) in read_expert(folder).modules.items()}


@pytest.mark.parametrize("rank", [1, 3])
def test_cut_to_a_rank_is_the_best_of_that_rank_and_measured_as_written(fresh_base, routed, tokenizer, tmp_path, rank):
    model = PeftModel.from_pretrained(fresh_base(), routed, is_trainable=True)
    before, trained = token_nlls(model.eval(), tokenizer, HELD_OUT), model.get_nb_trainable_parameters()
    exact = collapse_to_lora(model, tokenizer, TEXTS, tmp_path / "exact", held_out=HELD_OUT)
    cut = collapse_to_lora(model, tokenizer, TEXTS, tmp_path / "cut", held_out=HELD_OUT, rank=rank)
    assert (exact.rank, exact.energy, cut.rank) == (11, 1.0, rank)
    kept = total = 0.0
    found = full_deltas(cut.path)
    for name, delta in full_deltas(exact.path).items():
        u, s, vh = torch.linalg.svd(delta.double())
        torch.testing.assert_close(found[name].double(), (u[:, :rank] * s[:rank]) @ vh[:rank], atol=1e-6, rtol=1e-6)
        kept, total = kept + s[:rank].square().sum(), total + s.square().sum()
    assert cut.energy == pytest.approx(float(kept / total)) and 0.1 < cut.energy < 0.99
    plain = PeftModel.from_pretrained(fresh_base(), cut.path)
    expected = math.fsum(token_nlls(plain, tokenizer, HELD_OUT)) / cut.tokens
    assert cut.collapsed_nll == pytest.approx(expected, abs=1e-6) != exact.collapsed_nll
    assert cut.routed_nll == exact.routed_nll
    assert cut.collapsed_perplexity == pytest.approx(math.exp(expected), abs=1e-5)
    # The model is as it was: weights, what is trained, and the adapter it carries.
    assert token_nlls(model, tokenizer, HELD_OUT) == before
    assert model.get_nb_trainable_parameters() == trained and trained[0] > 0
    assert model.peft_config is model.get_base_model().peft_config and list(model.peft_config) == ["default"]


def test_a_rank_that_is_large_enough_changes_nothing(fresh_base, routed, tokenizer, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    for folder, rank in (("exact", None), ("ample", 11)):
        found = collapse_to_lora(model, tokenizer, TEXTS, tmp_path / folder, rank=rank)
        assert (found.rank, found.energy) == (11, 1.0)
    weights = [(tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in ("exact", "ample")]
    assert weights[0] == weights[1]


def test_truncation_never_needs_the_whole_product():
    a, b = torch.randn(6, 200_000), torch.randn(300_000, 6)  # B A would have 240 GB
    cut = truncate(a, b, 2)
    assert cut.a.shape == (2, 200_000) and cut.b.shape == (300_000, 2) and 0 < cut.kept < cut.total
    wide = truncate(torch.randn(9, 4), torch.randn(5, 9), 3)  # rank above both sizes
    assert wide.a.shape == (3, 4) and wide.b.shape == (5, 3)


def test_a_failure_gives_the_model_back(fresh_base, routed, tokenizer, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    before = token_nlls(model, tokenizer, HELD_OUT)
    with pytest.raises(StorageError, match="exists"):
        (tmp_path / "taken").write_text("a file")
        collapse_to_lora(model, tokenizer, TEXTS, tmp_path / "taken")
    with pytest.raises(InputError, match="rank: expected at least 1"):
        collapse_to_lora(model, tokenizer, TEXTS, tmp_path / "out", rank=0)
    assert token_nlls(model, tokenizer, HELD_OUT) == before


def test_what_cannot_be_collapsed(fresh_base, routed, tokenizer, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    with pytest.raises(InputError, match="none of the 1 texts has two tokens"):
        collapse_to_lora(model, tokenizer, ["what"], tmp_path / "out")
    lora = get_peft_model(fresh_base(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match="set_adapter") as caught:
        collapse_to_lora(lora, tokenizer, TEXTS, tmp_path / "out")
    assert caught.value.reason == "not_rocket_moe"
    both = get_peft_model(fresh_base(), RocketMoeConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert reason_of(collapse_to_lora, both, tokenizer, TEXTS, tmp_path / "out") == "modules_to_save"
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_was_kept_and_what_it_costs(routed, tmp_path):
    rows = [{"question": f"what is {n} plus 1 ?", "answer": f"{n} + 1 = {n + 1} #### {n + 1}"} for n in range(4)]
    (tmp_path / "kshot.jsonl").write_text(lines(rows))
    options = [
        "--task",
        "gsm8k",
        "--kshot",
        str(tmp_path / "kshot.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--rank",
        "2",
    ]
    result = CliRunner().invoke(collapse_command, [str(routed), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    numbers = r"rank 2, (\d\d\.\d\d)% of the energy kept; perplexity (\d+\.\d+) against (\d+\.\d+) of the routed"
    found = re.search(numbers, result.output)
    assert found and 10 < float(found[1]) < 100 and float(found[2]) != float(found[3])
    shares = re.findall(r"expert \S+: mean gate \d\.\d{3}, weighs most for (\d+\.\d)% of the tokens", result.output)
    assert len(shares) == 4 and sum(map(float, shares)) == pytest.approx(100, abs=0.2)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
    assert CliRunner().invoke(collapse_command, [str(routed), *options[:-1], "0"]).exit_code == 2
