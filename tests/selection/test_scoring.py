import json
import shutil

import numpy as np
import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from rocket_hub.errors import InputError
from rocket_hub.inference import completion_nll, generate
from rocket_hub.records import Example
from rocket_hub.selection.scoring import ShotScores, exact_match, expert_scores, reasoning_perplexity, score_adapters

SHOTS = [
    Example("what is 1 plus 2 ?", " the answer #### 3", "3"),
    Example("user : what is 4 + 4 ? assistant :", " 4 + 4 = 8 . #### 8", "8"),
    Example("7 - 7", " 0", "0"),
]


def first_word(text):
    return text.split()[0] if text.split() else ""


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def fresh(tiny_model):
    """A base whose weights are large enough that adapters answer differently."""
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def score(model, tokenizer, folders, shots=SHOTS, **options):
    return score_adapters(
        model, tokenizer, folders, shots, extract=first_word, batch_size=2, max_new_tokens=3, **options
    )


@pytest.fixture
def copy(lora_bank, tmp_path):
    """Copy the first adapter with another configuration and weights."""

    def make(name, weights=None, **config):
        folder = tmp_path / name
        shutil.copytree(lora_bank[0], folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        if weights:
            save_file(weights(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
        return folder

    return make


def test_exact_match():
    assert exact_match(["3", "", "4", " 3"], ["3", "", "5", "3"]).tolist() == [True, False, False, False]
    assert exact_match([], []).dtype == bool
    with pytest.raises(InputError, match="2 predictions for 1"):
        exact_match(["a", "b"], ["a"])


def test_reasoning_perplexity_is_per_token():
    # The two values of the paper's Fig. 4.
    assert reasoning_perplexity(np.array([13.86, 20.5]), np.array([10, 20])) == pytest.approx(
        [3.9988, 2.7871], abs=1e-3
    )
    assert np.isfinite(reasoning_perplexity(np.array([1e9]), np.array([2]))).all()


def test_expert_scores_rank_both_ways():
    nll = np.log([[2.0, 4.0], [3.0, 3.0], [9.0, 1.0]]) * [5, 7]
    correct = np.array([[True, False], [False, True], [True, True]])
    scores = expert_scores(ShotScores(("a", "b", "c"), nll, np.array([5, 7]), correct))
    assert [s.perplexity for s in scores] == pytest.approx([3, 3, 5])
    assert [s.accuracy for s in scores] == [0.5, 0.5, 1]
    assert [s.rank_accuracy for s in scores] == [2.5, 2.5, 1] and scores[2].rank_perplexity == 3
    assert scores[0].nll == pytest.approx(np.log([2.0, 4.0]))
    assert expert_scores(ShotScores((), np.zeros((0, 2)), np.array([5, 7]), np.zeros((0, 2), dtype=bool))) == ()


def test_scores_are_those_of_each_adapter_on_its_own_base(tiny_model, lora_bank, tokenizer):
    folders = {f"u/{i}": folder for i, folder in enumerate(lora_bank)}
    calls = []
    scores = score(fresh(tiny_model), tokenizer, folders, progress=lambda *call: calls.append(call))
    for i, folder in enumerate(lora_bank):
        alone = PeftModel.from_pretrained(fresh(tiny_model), folder)
        nll, tokens = completion_nll(alone, tokenizer, [(s.prompt, s.completion) for s in SHOTS])
        assert scores.nll[i] == pytest.approx(nll, abs=1e-5) and scores.tokens.tolist() == tokens.tolist()
        said = [first_word(t) for t in generate(alone, tokenizer, [s.prompt for s in SHOTS], max_new_tokens=3)]
        assert scores.correct[i].tolist() == [a == s.answer for a, s in zip(said, SHOTS, strict=True)]
    assert len(np.unique(scores.nll.round(3), axis=0)) == 4
    assert scores.repo_ids == tuple(folders) and not scores.rejected and calls == [(i, 4) for i in (1, 2, 3, 4)]


def test_a_right_answer_counts(tiny_model, lora_bank, tokenizer):
    alone = PeftModel.from_pretrained(fresh(tiny_model), lora_bank[0])
    said = generate(alone, tokenizer, [s.prompt for s in SHOTS], max_new_tokens=3)
    shots = [Example(s.prompt, s.completion, first_word(text)) for s, text in zip(SHOTS, said, strict=True)]
    scores = score(fresh(tiny_model), tokenizer, {"u/0": lora_bank[0]}, shots)
    assert scores.correct[0].tolist() == [bool(first_word(text)) for text in said] and any(scores.correct[0])


def test_dropout_is_off_and_the_base_is_given_back_as_it_was(tiny_model, tokenizer, copy):
    model = fresh(tiny_model).train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    folder = copy("dropout", lora_dropout=0.9)
    scores = score(model, tokenizer, {"u/x": folder, "u/y": folder, "u/bad": copy("bad", r=7)})
    assert scores.nll[0].tolist() == scores.nll[1].tolist() and len(scores.rejected) == 1
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == frozen
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules()) and not hasattr(model, "peft_config")


def without_last(weights):
    return dict(list(weights.items())[:-1])


@pytest.mark.parametrize(
    ("config", "weights", "detail"),
    [
        ({"r": 7}, None, "size mismatch"),
        ({"target_modules": ["no_such"]}, None, "no_such"),
        ({"target_modules": ["input_layernorm"]}, None, "not supported"),
        ({"bias": "all"}, None, "changes the base"),
        ({"init_lora_weights": "pissa"}, None, "changes the base"),
        ({"peft_type": "NO_SUCH"}, None, "no LoRA"),
        ({"layer_replication": [[0, 2], [1, 2]]}, None, "missing adapter keys"),
        ({"lora_alpha": "much"}, None, "TypeError"),
        ({}, without_last, "missing adapter keys"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_rejected_and_the_next_is_scored(
    config, weights, detail, tiny_model, lora_bank, tokenizer, copy, tmp_path
):
    model = fresh(tiny_model)
    scores = score(model, tokenizer, {"u/bad": copy("bad", weights, **config), "u/good": lora_bank[1]})
    assert [(r.item, r.reason) for r in scores.rejected] == [("u/bad", "unloadable")]
    assert detail in scores.rejected[0].detail and str(tmp_path) not in scores.rejected[0].detail
    assert scores.nll.tolist() == score(fresh(tiny_model), tokenizer, {"u/good": lora_bank[1]}).nll.tolist()


def test_broken_folders_and_pickles_are_rejected(tiny_model, lora_bank, tokenizer, copy, tmp_path):
    empty, pickled, cut, no_json, other = (tmp_path / n for n in ("empty", "pickled", "cut", "no_json", "other"))
    empty.mkdir()
    shutil.copytree(lora_bank[0], pickled)
    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    shutil.copytree(lora_bank[0], cut)
    (cut / "adapter_model.safetensors").write_bytes((cut / "adapter_model.safetensors").read_bytes()[:700])
    shutil.copytree(lora_bank[0], no_json)
    (no_json / "adapter_config.json").write_text("{")
    get_peft_model(fresh(tiny_model), IA3Config(target_modules=["q_proj"], feedforward_modules=[])).save_pretrained(
        other
    )
    nan = copy("nan", lambda weights: {name: weight * float("nan") for name, weight in weights.items()})
    folders = {p.name: p for p in (empty, pickled, cut, no_json, other, nan)}
    scores = score(fresh(tiny_model), tokenizer, folders)
    assert {r.item: r.reason for r in scores.rejected} == {**dict.fromkeys(folders, "unloadable"), "nan": "nan_scores"}
    assert scores.nll.shape == scores.correct.shape == (0, 3) and expert_scores(scores) == ()


def test_no_shots_is_an_error(tiny_model, tokenizer):
    with pytest.raises(InputError, match="K-shot is empty"):
        score(fresh(tiny_model), tokenizer, {}, [])
