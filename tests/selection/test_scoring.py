from types import SimpleNamespace

import numpy as np
import pytest
import torch
from experts_world import lively
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from rocket_hub.errors import InputError, RecipeError
from rocket_hub.inference import completion_nll, encode, generate, option_nll
from rocket_hub.inference.likelihood import row_nll
from rocket_hub.lora.attach import swapping
from rocket_hub.lora.expert import read_expert
from rocket_hub.options import ExpertOptions
from rocket_hub.records import Example
from rocket_hub.selection.scoring import exact_match, expert_scores, losses, reasoning_perplexity, score_adapters
from rocket_hub.selection.shots import Choices
from rocket_hub.selection.statistics import ShotScores
from tests.conftest import save_lora

SHOTS = [
    Example("what is 1 plus 2 ?", " the answer #### 3", "3"),
    Example("user : what is 4 + 4 ? assistant :", " 4 + 4 = 8 . #### 8", "8"),
    Example("7 - 7", " 0", "0"),
]
PAIRS = [(shot.prompt, shot.completion) for shot in SHOTS]
PROMPTS = [shot.prompt for shot in SHOTS]
MEANS = ("geometric", "arithmetic")
MANY = [Example(f"what is {i % 9} plus {i // 9} ?", f" the answer #### {i % 7}", str(i % 7)) for i in range(20)]


def first_word(text):
    return text.split()[0] if text.split() else ""


@pytest.fixture
def bank(lora_bank):
    return {f"u/{i}": read_expert(folder).modules for i, folder in enumerate(lora_bank)}


def variants(bank, count):
    """More adapters than there are: the same with other signs and sizes."""
    found = list(bank.values())
    scales = {f"v/{i:02}": (found[i % len(found)], (1 + i / 10) * (-1) ** i) for i in range(count)}
    return {name: {m: (a, b * by) for m, (a, b) in factors.items()} for name, (factors, by) in scales.items()}


def score(model, tokenizer, factors, shots=SHOTS, **options):
    settings = {"extract": first_word, "batch_size": 2, "max_new_tokens": 3, **options}
    return score_adapters(model, tokenizer, factors, shots, **settings)


def test_exact_match():
    assert exact_match(["3", "", "4", " 3"], ["3", "", "5", "3"]).tolist() == [True, False, False, False]
    assert exact_match([], []).dtype == bool
    with pytest.raises(InputError, match="2 predictions for 1"):
        exact_match(["a", "b"], ["a"])


def test_reasoning_perplexity_is_per_token():
    # The two values of the paper's Fig. 4.
    found = reasoning_perplexity(np.array([13.86, 20.5]), np.array([10, 20]))
    assert found == pytest.approx([3.9988, 2.7871], abs=1e-3)
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


def test_what_was_not_scored_on_all_shots_has_no_rank():
    nll = np.array([[1.0, 2.0], [1.0, np.nan], [2.0, 3.0]])
    scores = ShotScores(("a", "b", "c"), nll, np.array([1, 1]), np.array([[1, 0], [-1, -1], [0, 0]], dtype=np.int8))
    assert [s.repo_id for s in expert_scores(scores)] == ["a", "c"]
    assert [s.accuracy for s in expert_scores(scores)] == [0.5, 0]


def test_scores_are_those_of_stock_peft(tiny_model, lora_bank, bank, tokenizer):
    calls = []
    scores = score(lively(tiny_model), tokenizer, bank, progress=lambda *call: calls.append(call))
    for i, folder in enumerate(lora_bank):  # rslora, rank patterns and alpha patterns among them
        alone = PeftModel.from_pretrained(lively(tiny_model), folder)
        nll, tokens = completion_nll(alone, tokenizer, PAIRS)
        assert scores.nll[i] == pytest.approx(nll, abs=1e-5) and scores.tokens.tolist() == tokens.tolist()
        said = [first_word(text) for text in generate(alone, tokenizer, PROMPTS, max_new_tokens=3)]
        assert scores.correct[i].tolist() == exact_match(said, [s.answer for s in SHOTS]).tolist()
        assert scores.answers[i] == tuple(said)
    assert len(np.unique(scores.nll.round(3), axis=0)) == 4
    assert scores.repo_ids == tuple(bank) and not scores.rejected
    assert calls[-1] == (24, 24) and calls == sorted(calls)


def test_the_arithmetic_mean_of_token_probabilities(tiny_model, lora_bank, bank, tokenizer):
    scores = score(lively(tiny_model), tokenizer, bank, options=ExpertOptions(perplexity="arithmetic"))
    alone = PeftModel.from_pretrained(lively(tiny_model), lora_bank[0])
    for i, shot in enumerate(SHOTS):
        ids, start = encode(tokenizer, shot.prompt, shot.completion)
        logits = alone(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
        probabilities = logits.softmax(-1)[torch.arange(len(logits)), ids[start:]]
        perplexity = reasoning_perplexity(scores.nll[0, i], scores.tokens[i])
        assert perplexity == pytest.approx(1 / probabilities.mean().item(), rel=1e-4)
    geometric = score(lively(tiny_model), tokenizer, bank)
    assert (scores.nll < geometric.nll).all() and np.isfinite(scores.nll).all()  # the means' inequality


def test_an_expert_that_guesses_is_not_better_than_one_that_is_sure_and_sometimes_wrong(tiny_model, tokenizer):
    ids = encode(tokenizer, "1 2 3 4", " 4 4 4 4")
    vocabulary = len(tokenizer)

    class Says(torch.nn.Module):
        """A model that gives the right token so much of the logit, and at one place a wrong one."""

        device, right, wrong = torch.device("cpu"), 0.0, 0.0

        def get_output_embeddings(self):
            return None

        def get_decoder(self):
            return self

        def forward(self, input_ids, **_):
            logits = self.right * torch.nn.functional.one_hot(input_ids.roll(-1, 1), vocabulary).float()
            logits[:, ids[1] - 1] *= -self.wrong
            return SimpleNamespace(logits=logits)

    guesses, sure = Says(), Says()
    guesses.right, sure.right, sure.wrong = 3.0, 30.0, 1.0
    nll = {mean: [row_nll(model, [ids], mean=mean)[0] for model in (guesses, sure)] for mean in MEANS}
    assert nll["geometric"][0] < nll["geometric"][1] and nll["arithmetic"][0] > nll["arithmetic"][1]
    short = ids[0][: ids[1] + 1], ids[1]  # of one token all means are the same
    assert row_nll(guesses, [short], mean="arithmetic") == pytest.approx(row_nll(guesses, [short]))


def test_the_bare_base_is_scored_too(tiny_model, bank, tokenizer):
    scores = score(lively(tiny_model), tokenizer, bank)
    assert scores.base_nll == pytest.approx(completion_nll(lively(tiny_model), tokenizer, PAIRS)[0], abs=1e-5)
    said = [first_word(text) for text in generate(lively(tiny_model), tokenizer, PROMPTS, max_new_tokens=3)]
    assert scores.base_correct.tolist() == exact_match(said, [s.answer for s in SHOTS]).tolist()


def test_a_right_answer_counts(tiny_model, lora_bank, bank, tokenizer):
    alone = PeftModel.from_pretrained(lively(tiny_model), lora_bank[0])
    said = generate(alone, tokenizer, PROMPTS, max_new_tokens=3)
    shots = [Example(s.prompt, s.completion, first_word(text)) for s, text in zip(SHOTS, said, strict=True)]
    scores = score(lively(tiny_model), tokenizer, bank, shots)
    assert scores.correct[0].tolist() == [bool(first_word(text)) for text in said] and any(scores.correct[0])


def test_an_answer_ends_before_a_stop_text(tiny_model, bank, tokenizer):
    said = [text for text in generate(lively(tiny_model), tokenizer, PROMPTS, max_new_tokens=6) if text.split()]
    stop = said[0].split()[-1]
    seen = []
    score(lively(tiny_model), tokenizer, bank, max_new_tokens=6, stop=[stop],
          extract=lambda text: seen.append(text) or "")  # fmt: skip
    assert seen and not any(stop in text for text in seen)


def test_an_adapter_is_asked_for_when_it_is_put_on(tiny_model, bank, tokenizer):
    """What is looked up may be read from a file then: nothing but the adapter in use is held."""
    asked = []

    class Noting(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    whole = score(lively(tiny_model), tokenizer, bank, budget="all", batch_size=99)
    found = score(lively(tiny_model), tokenizer, Noting(bank), budget="all", batch_size=99)
    assert found.nll.tolist() == whole.nll.tolist()
    assert asked == [*bank, *bank]  # likelihoods, then answers


def test_numpy_factors_and_many_swaps_change_nothing(tiny_model, bank, tokenizer):
    model = lively(tiny_model)
    once = score(model, tokenizer, {"u/1": bank["u/1"]}).nll
    as_numpy = {name: {m: (a.numpy(), b.numpy()) for m, (a, b) in found.items()} for name, found in bank.items()}
    for order in (("u/0", "u/1"), ("u/3", "u/1", "u/2"), ("u/1", "u/0")):
        scores = score(model, tokenizer, {name: as_numpy[name] for name in order})
        assert scores.nll[order.index("u/1")].tolist() == once[0].tolist()


def test_the_base_is_given_back_as_it_was(tiny_model, bank, tokenizer):
    model = lively(tiny_model).train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    score(model, tokenizer, bank)
    with pytest.raises(RuntimeError, match="stopped"):
        score(model, tokenizer, bank, progress=lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dropout_is_off_and_nothing_is_kept_for_gradients(tiny_model, bank, tokenizer):
    model = lively(tiny_model)
    model.config.attention_dropout = 0.9
    plain = score(model, tokenizer, bank).nll
    seen = []
    model.model.layers[0].register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
    assert score(model.train(), tokenizer, bank).nll.tolist() == plain.tolist() and not any(seen)


def test_head_conv1d_and_bf16_follow_peft(tiny_model, tokenizer, tmp_path):
    cases = {
        "head": (lively, ["lm_head", "k_proj"], torch.float32, 1e-5),
        "gpt2": (gpt2, ["c_attn", "c_fc"], torch.float32, 1e-5),
        "bf16": (lively, ["q_proj", "down_proj"], torch.bfloat16, 1e-2),
    }
    for name, (make, targets, dtype, tolerance) in cases.items():
        options = {"r": 3, "lora_alpha": 6, "target_modules": targets, "fan_in_fan_out": name == "gpt2"}
        save_lora(make(tiny_model), tmp_path / name, 3, **options)
        weights = load_file(tmp_path / name / "adapter_model.safetensors")
        keys = [key.removesuffix("A.weight") for key in weights if key.endswith("lora_A.weight")]
        pairs = {key: (weights[f"{key}A.weight"], 2 * weights[f"{key}B.weight"]) for key in keys}
        factors = {key.removeprefix("base_model.model.").removesuffix(".lora_"): pair for key, pair in pairs.items()}
        scores = score(make(tiny_model).to(dtype), tokenizer, {name: factors})
        alone = PeftModel.from_pretrained(make(tiny_model).to(dtype), tmp_path / name)
        assert scores.nll[0] == pytest.approx(completion_nll(alone, tokenizer, PAIRS)[0], abs=1e-5, rel=tolerance)


def gpt2(_):
    torch.manual_seed(1)
    small = {"vocab_size": 28, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5, **small)
    return GPT2LMHeadModel(config).eval()


def test_what_does_not_fit_is_rejected_and_the_rest_is_scored(tiny_model, bank, tokenizer):
    good, layer = bank["u/1"], "model.layers.0.self_attn.q_proj"
    a, b = good[layer]
    bad = {
        "no_layer": ({"model.layers.7.mlp.up_proj": (a, b)}, "no linear layer 'model.layers.7"),
        "norm": ({"model.norm": (a, b)}, "no linear layer"),
        "wide": ({layer: (torch.ones(4, 17), b)}, "is 16 -> 16 in the base; found A (4, 17)"),
        "ranks": ({layer: (a, torch.ones(16, 3))}, "B (16, 3)"),
        "nothing": ({}, "adapts no layer"),
    }
    nan = {layer: (a * float("nan"), b)}
    scores = score(lively(tiny_model), tokenizer, {**{n: f for n, (f, _) in bad.items()}, "nan": nan, "good": good})
    assert {r.item: r.reason for r in scores.rejected} == {**dict.fromkeys(bad, "unloadable"), "nan": "nan_scores"}
    assert all(words in scores.rejected[i].detail for i, (_, words) in enumerate(bad.values()))
    assert scores.repo_ids == ("good",)
    assert scores.nll.tolist() == score(lively(tiny_model), tokenizer, {"good": good}).nll.tolist()
    nobody = score(lively(tiny_model), tokenizer, {"nan": nan})
    assert nobody.nll.shape == nobody.correct.shape == (0, 3) and expert_scores(nobody) == ()


def test_halving_scores_fewer_pairs_with_the_same_numbers(tiny_model, bank, tokenizer):
    adapters, model = variants(bank, 16), lively(tiny_model)
    options = ExpertOptions(shortlist=4)
    full = score(model, tokenizer, adapters, MANY, budget="all", options=options, batch_size=8)
    half = score(model, tokenizer, adapters, MANY, budget="50%", options=options, batch_size=8)
    assert half.repo_ids == full.repo_ids and full.cost.pairs == full.cost.possible == 320 and not full.rejected
    done = np.isfinite(half.nll)
    assert half.cost.pairs == done.sum() <= half.cost.allowed == 160
    assert half.nll[done] == pytest.approx(full.nll[done], abs=1e-5)
    finalists = half.complete()
    assert len(finalists.repo_ids) >= 4 and half.cost.answers == 20 * len(finalists.repo_ids) < full.cost.answers
    assert half.cost.tokens < full.cost.tokens
    left = {r.item: r for r in half.rejected}
    assert set(left) == set(adapters) - set(finalists.repo_ids) and {r.reason for r in left.values()} == {"halved_out"}
    assert all("round" in r.detail and "mean loss" in r.detail for r in left.values())
    assert (half.correct[~done.all(axis=1)] == -1).all() and half.answers[0].count("") in (0, 20)
    means = (full.nll / full.tokens).mean(axis=1)
    assert full.repo_ids[means.argmin()] in finalists.repo_ids


def test_a_specialist_is_kept_by_the_signal_accuracy():
    nll, tokens = np.array([[0.1, 9.0, np.nan], [2.0, 2.0, np.inf]]), np.array([2, 2, 2])
    for signal, expected in (("likelihood", [2.275, 1.0]), ("accuracy", [0.547519586, 0.864664717])):
        found = losses(nll, tokens, signal)
        assert found[:, :2].mean(axis=1).tolist() == pytest.approx(expected)
        assert np.isnan(found[:, 2]).all() and np.isnan(found).sum() == 2


def test_the_seed_decides_which_shots_come_first(tiny_model, bank, tokenizer):
    model, options = lively(tiny_model), ExpertOptions(shortlist=2, budget="40%")
    adapters = variants(bank, 8)
    one, again, other = (score(model, tokenizer, adapters, MANY, options=options, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.nll, again.nll, equal_nan=True) and one.rejected == again.rejected
    assert not np.array_equal(np.isfinite(one.nll), np.isfinite(other.nll))


def test_a_budget_in_tokens_or_minutes_is_kept(tiny_model, bank, tokenizer):
    model, adapters, options = lively(tiny_model), variants(bank, 8), ExpertOptions(shortlist=2)
    tokens, plenty, little = (
        score(model, tokenizer, adapters, MANY, options=options, budget=budget).cost
        for budget in ("2800 tokens", "60 minutes", "0.000001 minutes")
    )
    assert tokens.pairs < tokens.possible and tokens.tokens <= 2800
    assert plenty.pairs == plenty.possible and 0 < plenty.seconds < 60
    assert little.allowed == 0 < little.pairs < little.possible  # the least is scored all the same
    with pytest.raises(RecipeError, match=r"budget: expected '40%', .* found 'much'"):
        score(model, tokenizer, bank, budget="much")


def test_options_are_compared_in_place_of_generating(tiny_model, lora_bank, bank, tokenizer):
    choices = [Choices((" 3", " the answer 4", " 5"), 0), None, Choices((" 0", " 1"), 1)]
    scores = score(lively(tiny_model), tokenizer, bank, choices=choices)
    for i, folder in enumerate(lora_bank):
        alone = PeftModel.from_pretrained(lively(tiny_model), folder)
        for k in (0, 2):
            found = option_nll(alone, tokenizer, [(SHOTS[k].prompt, choices[k].options)])[0]
            assert scores.answers[i][k] == choices[k].options[found.chosen()].strip()
            assert scores.correct[i][k] == (found.chosen() == choices[k].gold)
        assert scores.answers[i][1] == first_word(generate(alone, tokenizer, PROMPTS, max_new_tokens=3)[1])


def test_what_cannot_be_scored_is_an_error(tiny_model, bank, tokenizer):
    model = lively(tiny_model)
    with pytest.raises(InputError, match="K-shot is empty"):
        score(model, tokenizer, {}, [])
    with pytest.raises(InputError, match="choices for 1 of 3 shots"):
        score(model, tokenizer, bank, choices=[None])
    with pytest.raises(InputError, match="right option is 2 of 2"):
        score(model, tokenizer, bank, choices=[Choices((" a", " b"), 2), None, None])
    assert score(model, tokenizer, {}).nll.shape == (0, 3)


def test_an_adapter_is_taken_off_again(tiny_model, bank):
    model, ids = lively(tiny_model), torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        bare = model(ids).logits
        with swapping(model, bank["u/0"]) as swap:
            assert torch.equal(model(ids).logits, bare)
            swap(bank["u/0"])
            assert not torch.allclose(model(ids).logits, bare)
            swap(None)
            assert torch.equal(model(ids).logits, bare)
