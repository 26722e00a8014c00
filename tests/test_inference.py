import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from trl import SFTConfig, SFTTrainer

from rocket_hub.errors import InputError
from rocket_hub.inference import (
    OptionScores,
    Search,
    completion_nll,
    continuations,
    encode,
    generate,
    likelihood,
    option_nll,
)
from rocket_hub.inference.models import load_base
from rocket_hub.inference.tokens import batches, injected
from tests.selection.experts_world import lively

PAIRS = [
    ("what is 1 plus 2 ?", " the answer #### 3"),
    ("what is 4 plus 4 ? user :", " 4 + 4 = 8 . the answer #### 8"),
    ("7", " 7"),
    ("what is the answer ?", " 1 2 3 4 5 6 7 8 9 0 0 0 ####"),
    ("user : what is 9 - 3 ? assistant :", " 9 - 3 = 6 . </s>"),
]


@pytest.fixture(scope="module")
def bpe():
    """Byte-level BPE with a beginning-of-sequence token, whose tokens span the end of 'fix' + 'ed'."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(["fixed fixed fixed a question an answer fixed"] * 9, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module", params=["plain", "lora", "lora_head", "gemma2", "gpt2", "no_head"])
def model(request, tiny_model, lora_bank):
    torch.manual_seed(1)
    small = {"vocab_size": 28, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if request.param == "gemma2":  # caps the logits after the head, and ties it to the embeddings
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        heads = {"num_key_value_heads": 2, "head_dim": 8}
        return transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(final_logit_softcapping=0.5, initializer_range=1.0, **sizes, **heads, **small)
        )
    if request.param == "gpt2":  # learned positions
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(initializer_range=0.5, **sizes, **small))
    base = lively(tiny_model)
    if request.param == "lora":
        return PeftModel.from_pretrained(base, lora_bank[1])
    if request.param == "lora_head":
        return get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head", "v_proj"], init_lora_weights=False))
    if request.param == "no_head":
        base.get_output_embeddings = lambda: None
    return base


def one_by_one(model, tokenizer, prompt, completion):
    ids, start = encode(tokenizer, prompt, completion)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    return F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")[start - 1 :].double().sum().item()


def prepared(tokenizer, tiny_model, tmp_path, max_length):
    rows = {"prompt": [p for p, _ in PAIRS] + ["a fix"], "completion": [c for _, c in PAIRS] + ["ed answer"]}
    args = SFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=None,
                     max_length=max_length)  # fmt: skip
    trainer = SFTTrainer(str(tiny_model), args, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer)
    return list(zip(*rows.values(), strict=True)), trainer.train_dataset


@pytest.mark.parametrize("kind", ["tokenizer", "bpe"])
@pytest.mark.parametrize("max_length", [None, 12])
def test_encode_is_what_sft_trainer_makes_of_a_row(kind, max_length, request, tiny_model, tmp_path):
    tokenizer = request.getfixturevalue(kind)
    pairs, rows = prepared(tokenizer, tiny_model, tmp_path, max_length)
    ours = [encode(tokenizer, *pair, max_length=max_length) for pair in pairs]
    ours = [(ids, start) for ids, start in ours if start < len(ids)]  # SFTTrainer drops rows without a completion
    assert [ids for ids, _ in ours] == list(rows["input_ids"])
    scored = [[label != -100 for label in labels] for labels in rows["labels"]]
    assert [[i >= start for i in range(len(ids))] for ids, start in ours] == scored


def test_encode_has_one_beginning_and_gives_a_spanning_token_to_the_completion(bpe):
    ids, start = encode(bpe, "a fix", "ed answer")
    assert ids.count(1) == 1 and ids[0] == 1 and ids[-1] == 2
    assert bpe.decode(ids[start:-1]) == " fixed answer"


def test_nll_is_that_of_each_row_alone(model, tokenizer):
    sums, counts = completion_nll(model, tokenizer, PAIRS, batch_size=3)
    assert counts.tolist() == [5, 11, 2, 14, 7]
    assert sums == pytest.approx([one_by_one(model, tokenizer, *pair) for pair in PAIRS], abs=1e-5, rel=1e-6)


def test_nll_computes_the_head_at_completion_tokens_only(tiny_model, tokenizer):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    _, counts = completion_nll(model, tokenizer, PAIRS)
    assert seen == [counts.sum()]


def test_the_head_in_slices_computes_the_same_and_the_body_once(model, tokenizer, monkeypatch):
    whole = completion_nll(model, tokenizer, PAIRS)[0]
    body, passes = injected(model).get_decoder(), []
    hook = body.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1))
    own = "forward" in vars(body)
    monkeypatch.setattr(likelihood, "HEAD_LOGITS", 3 * injected(model).config.vocab_size)
    np.testing.assert_allclose(completion_nll(model, tokenizer, PAIRS)[0], whole, rtol=1e-5)
    hook.remove()
    assert len(passes) == 1 and ("forward" in vars(body)) == own


def out_of_memory(model, rows):
    """Let a model run out of memory on more than so many rows; returns what it was given."""
    run, seen = model.forward, []

    def forward(*args, **kwargs):
        seen.append(len(kwargs["input_ids"]))
        if seen[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return run(*args, **kwargs)

    model.forward = forward
    return seen


def test_a_batch_that_does_not_fit_is_halved_with_the_same_result(tiny_model, tokenizer):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model).eval()
    prompts, questions = [prompt for prompt, _ in PAIRS], [(prompt, [" 1 2", " 3"]) for prompt, _ in PAIRS]

    def everything():
        scores = option_nll(model, tokenizer, questions)
        return [completion_nll(model, tokenizer, PAIRS)[0].tolist(), [each.nll.tolist() for each in scores],
                generate(model, tokenizer, prompts, max_new_tokens=5)]  # fmt: skip

    nll, options, texts = everything()
    seen = out_of_memory(model, 2)
    found = everything()
    assert max(seen) > 2 and found[2] == texts
    np.testing.assert_allclose(found[0], nll, rtol=1e-5)
    np.testing.assert_allclose(found[1], options, rtol=1e-5)
    out_of_memory(model, 0)
    with pytest.raises(InputError, match=r"memory runs out on a batch of one row.*compute.quantize"):
        completion_nll(model, tokenizer, PAIRS)


def test_a_batch_has_so_many_tokens_at_most():
    found = list(batches([5, 900, 100, 90, 2000, 4], 3, tokens=1000))
    assert found == [[4], [1], [2, 3, 0], [5]]


def test_nll_of_nothing_and_without_a_prompt(tiny_model, tokenizer):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model)
    assert [a.shape for a in completion_nll(model, tokenizer, [])] == [(0,), (0,)]
    sums, counts = completion_nll(model, tokenizer, [("", "1 2")])
    assert counts.tolist() == [2] and np.isfinite(sums).all()  # the first token has nothing that predicts it


def test_generate_is_that_of_each_prompt_alone(model, tokenizer):
    prompts, calls = [prompt for prompt, _ in PAIRS], []
    settings = {"batch_size": 3, "progress": lambda *call: calls.append(call)}
    together = generate(model, tokenizer, prompts, max_new_tokens=9, **settings)
    assert together == [generate(model, tokenizer, [prompt], max_new_tokens=9)[0] for prompt in prompts]
    assert calls == [(3, 5), (5, 5)] and any(together)


def test_generate_is_greedy_and_stops_at_any_end_token(tiny_model, tokenizer):
    model = lively(tiny_model)
    prompt = "what is 1 plus 2 ?"
    ids = tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.convert_ids_to_tokens(ids[-8:])
    assert generate(model, tokenizer, [prompt], max_new_tokens=8)[0].split() == expected
    end = next(i for i, word in enumerate(expected) if word != expected[0])
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(expected[end])]
    assert generate(model, tokenizer, [prompt], max_new_tokens=8)[0].split() == expected[:end]


def test_generate_says_nothing_and_leaves_no_trace(tiny_model, tokenizer, capfd):
    model = lively(tiny_model)
    plain = generate(model, tokenizer, ["user : 7"], max_new_tokens=5)
    model.generation_config.update(temperature=0.3, top_p=0.9, do_sample=True, repetition_penalty=9.0, max_length=3)
    settings = model.generation_config.to_dict()
    model.train()
    model.model.layers[0].eval()
    capfd.readouterr()
    assert generate(model, tokenizer, ["user : 7"], max_new_tokens=5) == plain
    completion_nll(model, tokenizer, PAIRS)
    assert "".join(capfd.readouterr()) == ""
    assert model.generation_config.to_dict() == settings
    assert model.training and model.lm_head.training and not model.model.layers[0].mlp.training
    assert tokenizer.padding_side == "right" and not model.lm_head._forward_pre_hooks


def test_generate_refuses_a_prompt_without_tokens(tiny_model, tokenizer):
    with pytest.raises(InputError, match="has no tokens"):
        generate(transformers.LlamaForCausalLM.from_pretrained(tiny_model), tokenizer, [""], max_new_tokens=1)


def test_samples_follow_the_seed_and_leave_the_global_random_numbers(tiny_model, tokenizer):
    model, prompts = lively(tiny_model), ["what is 1 plus 2 ?"] * 40

    def sampled(seed, **how):
        search = Search(temperature=1.0, seed=seed, **how)
        return generate(model, tokenizer, prompts, max_new_tokens=1, search=search)

    torch.manual_seed(1)
    first, state = sampled(7), torch.get_rng_state()
    torch.manual_seed(2)
    assert sampled(7) == first != sampled(8)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(sampled(7, top_p=1e-6)) == set(generate(model, tokenizer, prompts[:1], max_new_tokens=1))
    flat = transformers.LlamaForCausalLM.from_pretrained(tiny_model)  # knows nothing, so that any of the 28 words comes
    many = generate(flat, tokenizer, prompts * 10, max_new_tokens=1, search=Search(temperature=1.0))
    assert len(set(many)) > 20


def test_as_many_beams_as_words_find_the_best_of_all(tiny_model, tokenizer):
    model, prompts = lively(tiny_model), ["what is 1 plus 2 ?", "7", "user : 9 - 3 = 6"]
    beams = generate(model, tokenizer, prompts, max_new_tokens=2, search=Search(beams=28))
    for prompt, found in zip(prompts, beams, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            first = model(ids).logits[0, -1].log_softmax(0)
            pairs = torch.cat([ids.expand(28, -1), torch.arange(28)[:, None]], dim=1)
            both = (first[:, None] + model(pairs).logits[:, -1].log_softmax(1)) / 2  # scores are those of a token
        both[2] = -torch.inf
        words = [int(both.max(1).values.argmax()), int(both.max(0).values.argmax())]
        best = [] if first[2] > both.max() else words
        assert found == tokenizer.decode(best, skip_special_tokens=True)


@pytest.mark.parametrize("search", [Search(), Search(beams=3), Search(temperature=0.5, seed=3)])
def test_an_answer_ended_or_was_cut_off(tiny_model, tokenizer, search):
    model, prompts = lively(tiny_model), [prompt for prompt, _ in PAIRS]
    whole = continuations(model, tokenizer, prompts, max_new_tokens=12, batch_size=5, search=search)
    assert not all(each.ended for each in whole)
    text = next(each.text for each in whole if not each.ended and len(set(each.text.split())) > 1)
    words = text.split()
    mark = next(word for word in words if word != words[0])
    cut = continuations(model, tokenizer, prompts, max_new_tokens=12, batch_size=5, stop=[mark, ""], search=search)
    assert not any(mark in each.text for each in cut)
    assert any(each.ended for each in cut)
    assert all(len(each.text.split()) >= 11 for each in cut if not each.ended)


def test_beams_without_an_end_token_are_read(tiny_model, tokenizer):
    model = lively(tiny_model)
    model.generation_config.eos_token_id = None
    endless = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    prompts = [prompt for prompt, _ in PAIRS]
    marks = generate(model, endless, prompts, max_new_tokens=3)[0].split()[-1:]
    found = continuations(model, endless, prompts, max_new_tokens=9, stop=marks, search=Search(beams=2))
    assert all(each.ended or len(each.text.split()) >= 8 for each in found)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1},
              {"beams": 0}, {"beams": 2, "temperature": 1.0}]
)  # fmt: skip
def test_a_search_that_means_nothing_is_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        Search(**wrong)


QUESTIONS = [
    ("what is 1 plus 2 ?", (" 3", " the answer #### 3", " 4 4")),
    ("7", (" 7", " 8")),  # one token: there is no prompt to cache
    ("user : what is 9 - 3 ? assistant :", (" 6", " 9 - 3 = 6 .")),
]


def option_alone(model, tokenizer, prompt, option):
    ids, start = encode(tokenizer, prompt, option, ended=False)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0]
    losses = F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")[max(start, 1) - 1 :]
    return losses.double().sum().item(), len(losses)


@pytest.mark.parametrize("questions", [QUESTIONS, QUESTIONS[::2]], ids=["whole", "cached"])
def test_options_are_scored_as_each_alone(model, tokenizer, questions):
    for batch_size in (1, 4, 32):
        found = option_nll(model, tokenizer, questions, batch_size=batch_size)
        for (prompt, options), scores in zip(questions, found, strict=True):
            alone = [option_alone(model, tokenizer, prompt, option) for option in options]
            assert scores.nll == pytest.approx([nll for nll, _ in alone], abs=1e-5, rel=1e-6)
            assert scores.tokens.tolist() == [count for _, count in alone]


def test_a_prompt_is_computed_once_for_all_its_options(tiny_model, tokenizer):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model)
    seen, heads = [], []
    model.model.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[:2])))
    model.lm_head.register_forward_hook(lambda _, __, output: heads.append(output.shape[1]))
    option_nll(model, tokenizer, [("what is 1 plus 2 ?", (" 3", " 4", " the answer"))])
    assert seen == [(1, 5), (3, 2)]  # six tokens of prompt, the last of which goes before each option
    assert heads == [0, 4] and not model.lm_head._forward_pre_hooks


def test_a_token_that_spans_the_boundary_belongs_to_the_option(bpe):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=320, **sizes))
    question = ("a question a fix", ("ed answer", " an answer"))
    scores = option_nll(model, bpe, [question])[0]
    alone = [option_alone(model, bpe, question[0], option) for option in question[1]]
    assert scores.nll == pytest.approx([nll for nll, _ in alone], abs=1e-5)
    assert encode(bpe, question[0], "ed answer", ended=False)[0][-1] != bpe.eos_token_id


def test_the_likeliest_option_by_length():
    options = OptionScores(np.array([6.0, 8.0, 9.0]), np.array([2, 4, 3]), np.array([4, 5, 9]), np.array([4, 10, 9]))
    assert [options.chosen(per) for per in ("nothing", "tokens", "characters", "bytes")] == [0, 1, 2, 1]


def test_lengths_are_counted_as_lm_evaluation_harness_does(tiny_model, tokenizer):
    scores = option_nll(
        transformers.LlamaForCausalLM.from_pretrained(tiny_model), tokenizer, [("7", (" zwölf ?", " 3"))]
    )[0]
    assert scores.characters.tolist() == [7, 1] and scores.bytes.tolist() == [8, 1]
    assert option_nll(transformers.LlamaForCausalLM.from_pretrained(tiny_model), tokenizer, []) == []


def test_options_that_cannot_be_scored_are_refused(tiny_model, tokenizer):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(InputError, match="has no options"):
        option_nll(model, tokenizer, [("7", ())])
    with pytest.raises(InputError, match=r"the option '' .* has no tokens"):
        option_nll(model, tokenizer, [("7", (" 1", ""))])


@pytest.mark.slow
def test_a_real_tokenizer_and_model(shared_data):
    folder = shared_data / "models" / "stories260K"
    model, tokenizer = load_base(str(folder), None)
    pairs = [
        ("Once upon a time", ", there was a little girl."),
        ("Lily", " was happy."),
        ("Tom and his dog went", " home."),
    ]
    sums, counts = completion_nll(model, tokenizer, pairs, batch_size=2)
    assert sums == pytest.approx([one_by_one(model, tokenizer, *pair) for pair in pairs], abs=1e-4)
    assert (sums[0] / counts[0]) < 3
    prompts = [prompt for prompt, _ in pairs]
    together = generate(model, tokenizer, prompts, max_new_tokens=20)
    assert together == [generate(model, tokenizer, [prompt], max_new_tokens=20)[0] for prompt in prompts]
    assert isinstance(transformers.AutoModelForCausalLM.from_pretrained(folder), type(model))
