"""The benchmark of expert selection measures what it says."""

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM

from rocket_hub.lora.expert import read_expert
from rocket_hub.records import Example
from tests.benchmarks import scoring_speed
from tests.benchmarks.group_speed import against_definition, varied
from tests.benchmarks.halving import agreement, compare, in_words
from tests.benchmarks.selection import held


def planted(adapters=20, pool=60):
    rng = np.random.default_rng(0)
    skill = rng.permutation(adapters)
    return skill, skill[:, None] / 3 + rng.normal(size=pool) + 0.3 * rng.normal(size=(adapters, pool))


def test_clear_winners_are_found_within_the_budget():
    skill, losses = planted()
    draws = compare(losses, [f"question {i}" for i in range(60)], "40%")
    assert held(draws) and sum(draw.equal for draw in draws) >= 19 and max(draw.pairs for draw in draws) <= 0.4
    assert "of the pairs" in in_words(draws) and "answers" not in in_words(draws)
    spoilt = np.where(skill[:, None] % 2, losses, losses.mean())  # what is chosen by says nothing of half of them
    draws = compare(spoilt, [f"question {i}" for i in range(60)], "40%", wrong=losses)
    assert not held(draws) and "answers" in in_words(draws)


def test_agreement_takes_noise_for_noise():
    losses = np.arange(8.0)[:, None] + np.zeros((8, 30))
    assert agreement(losses, [0, 1, 2, 3]) == (True, True) and agreement(losses, [0, 1, 2, 4]) == (False, False)
    losses[4] = losses[3] + np.tile([1.0, -1.0, 0.1], 10)
    assert agreement(losses, [0, 1, 2, 4]) == (False, True)


def test_the_definition_has_the_same_winner():
    rng = np.random.default_rng(0)
    bank = [{"q": (rng.normal(size=(r, 24)), rng.normal(size=(32, r)))} for r in (2, 3)]
    theirs, ours, same = against_definition(varied(bank, 6))
    assert same and theirs > ours


def test_the_naive_loop_computes_the_same(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring_speed, "BASE", tiny_model)
    for rank in (2, 3):
        config = LoraConfig(r=rank, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / str(rank))
    folders, tokenizer = [tmp_path / "2", tmp_path / "3"], AutoTokenizer.from_pretrained(tiny_model)
    shots = [Example("what is 1 plus 2 ?", " the answer #### 3", "3"), Example("7 - 7", " 0", "0")]
    bank = {folder.name: read_expert(folder).modules for folder in folders}
    own = scoring_speed.ours(LlamaForCausalLM.from_pretrained(tiny_model), tokenizer, bank, shots, "all")
    slow = scoring_speed.naive(folders, tokenizer, shots)
    assert own.nll == pytest.approx(slow.nll, abs=1e-5) and own.pairs == slow.pairs == 4
    assert 0 < own.forward <= own.whole
