"""What users of PEFT and transformers expect of an adapter type, on bases of other layers and quantised ones too."""

import json
import shutil

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from routing_world import fresh_config, logits, randomised

from rocket_hub.errors import AdapterError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import routers
from rocket_hub.moe.model import quantization_of
from rocket_hub.moe.router import router_parameters
from tests.helping import run, table


@pytest.fixture
def published(routed, tokenizer, tmp_path):
    """The adapter's folder as it lies on the Hub: with the tokenizer beside it."""
    folder = shutil.copytree(routed, tmp_path / "published")
    tokenizer.save_pretrained(folder)
    return folder


def test_low_memory_loading_leaves_nothing_on_the_meta_device(fresh_base, routed, ids):
    lean = AutoPeftModelForCausalLM.from_pretrained(routed, low_cpu_mem_usage=True)
    assert not any(tensor.is_meta for tensor in [*lean.parameters(), *lean.buffers()])
    assert torch.equal(logits(lean, ids), logits(PeftModel.from_pretrained(fresh_base(), routed), ids))
    more = PeftModel.from_pretrained(fresh_base(), routed, low_cpu_mem_usage=True)
    more.load_adapter(str(routed), adapter_name="second", low_cpu_mem_usage=True)
    more.set_adapter("second")
    assert torch.equal(logits(more, ids), logits(lean, ids))


def test_pipeline_loads_the_adapter_folder(published, fresh_base, tokenizer):
    prompt = "what is 1 plus 2 ?"
    options = {"max_new_tokens": 5, "do_sample": False}
    answer = transformers.pipeline("text-generation", model=str(published), device="cpu")(prompt, **options)[0][
        "generated_text"
    ]
    model = PeftModel.from_pretrained(fresh_base(), published)
    expected = model.generate(**tokenizer(prompt, return_tensors="pt"), **options)
    assert answer == tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")  # what the mixin gives PEFT, for LoRA too
def test_transformers_mixin_holds_several(fresh_base, routed, ids, tmp_path):
    model = fresh_base()
    bare = logits(model, ids)
    model.load_adapter(str(routed), adapter_name="first")
    first = logits(model, ids)
    assert torch.equal(first, logits(PeftModel.from_pretrained(fresh_base(), routed), ids))
    model.add_adapter(fresh_config(), adapter_name="second")
    model.set_adapter("second")
    randomised(model)
    second = logits(model, ids)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh_base(), tmp_path), ids), second)
    model.set_adapter("first")
    assert torch.equal(logits(model, ids), first)
    assert not torch.equal(first, bare) and not torch.equal(first, second)
    model.set_adapter("second")
    model.delete_adapter("first")
    assert torch.equal(logits(model, ids), second)
    assert not any(".first." in name for name, _ in model.named_parameters())
    model.disable_adapters()
    assert torch.equal(logits(model, ids), bare)
    model.enable_adapters()
    model.delete_adapter("second")
    assert torch.equal(logits(model, ids), bare)


@pytest.mark.parametrize("options", table("moe/target_options.jsonl"))
def test_the_same_modules_are_adapted_as_with_lora(fresh_base, ids, tmp_path, options):
    model = randomised(get_peft_model(fresh_base(), fresh_config(**options)))
    expected = set(get_peft_model(fresh_base(), LoraConfig(**options)).targeted_module_names)
    assert set(routers(model)) == expected and expected
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(fresh_base(), tmp_path)
    assert set(routers(again)) == expected
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_two_adapters_at_once_add_up(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed, adapter_name="first")
    model.add_adapter("second", fresh_config())
    model.set_adapter("second")
    randomised(model)
    layer, x = model.base_model.model.model.layers[0].mlp.down_proj, torch.randn(2, 3, 32)
    deltas = {}
    for names in (["first"], ["second"], ["first", "second"]):
        model.base_model.set_adapter(names)
        with torch.no_grad():
            deltas[tuple(names)] = layer(x) - layer.base_layer(x)
    both = deltas.pop(("first", "second"))
    assert all(delta.abs().max() > 1e-3 for delta in deltas.values())
    torch.testing.assert_close(both, sum(deltas.values()), atol=1e-6, rtol=1e-6)
    assert logits(model, ids).isfinite().all()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("options", [{}, {"gate": "softmax", "top_k": 2}, {"router": "shared"}])
def test_activation_checkpointing_changes_no_gradient(fresh_base, ids, reentrant, options):
    found = []
    for checkpointing in (False, True):
        base = fresh_base()
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": reentrant})
        config = fresh_config(expert_ranks=[2, 1, 3], **options)
        model = randomised(get_peft_model(base, config)).train()
        assert model.get_base_model().is_activation_checkpointing == checkpointing
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append((loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (plain, expected), (loss, grads) = found
    assert torch.equal(loss, plain)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-7, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, of what it traces
@pytest.mark.parametrize("options", [{}, {"gate": "softmax", "top_k": 2}])
def test_compiles_into_one_graph(fresh_base, ids, options):
    torch._dynamo.reset()
    model = randomised(get_peft_model(fresh_base(), fresh_config(expert_ranks=[2, 1, 3], **options)))
    # fullgraph: a graph break is an error
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    batch = ids.repeat(8, 3)  # enough tokens for the layer's form for many
    losses, grads = [], []
    for form in (model, compiled):
        model.zero_grad()
        loss = form(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        losses.append(loss)
        grads.append({name: parameter.grad.clone() for name, parameter in router_parameters(model)})
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=1e-6)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)
    with torch.no_grad():  # another form again, the one that decodes
        one = [form(input_ids=ids[:, :1], use_cache=False).logits for form in (model, compiled)]
    torch.testing.assert_close(one[1], one[0], atol=1e-6, rtol=1e-6)


def test_half_precision_leaves_the_gates_alone(fresh_base, routed, ids):
    exact = dict(router_parameters(PeftModel.from_pretrained(fresh_base(), routed)))
    expected = logits(PeftModel.from_pretrained(fresh_base(), routed), ids)
    models = [
        (PeftModel.from_pretrained(fresh_base().to(torch.bfloat16), routed), torch.float32),
        (AutoPeftModelForCausalLM.from_pretrained(routed, dtype=torch.bfloat16), torch.float32),
        (transformers.AutoModelForCausalLM.from_pretrained(routed, dtype=torch.bfloat16), torch.bfloat16),
    ]
    for model, experts in models:
        assert {p.dtype for name, p in model.named_parameters() if "rocket_moe_A" in name} == {experts}
        for name, router in router_parameters(model):
            full = name if name in exact else f"base_model.model.{name}"
            assert router.dtype == torch.float32, type(model)
            torch.testing.assert_close(router, exact[full], atol=0, rtol=2**-8)
        found = logits(model, ids)
        assert found.dtype == torch.bfloat16 and (found - expected).abs().max() < 0.05


def test_a_newer_form_is_refused_by_every_loader(published, fresh_base):
    path = published / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    for load in (
        lambda: PeftModel.from_pretrained(fresh_base(), published),
        lambda: AutoPeftModelForCausalLM.from_pretrained(published),
        lambda: transformers.AutoModelForCausalLM.from_pretrained(published),
        lambda: fresh_base().load_adapter(str(published)),
    ):
        with pytest.raises(AdapterError, match=r"format_version.*99.*pip install -U rocket-hub"):
            load()


def test_without_the_import_stock_peft_raises_a_bare_key_error(tiny_model, routed):
    """Nothing can be done about it from inside the adapter: the card's snippet begins with the import."""
    script = """if True:
        import sys
        from peft import AutoPeftModelForCausalLM, PeftModel
        from transformers import AutoModelForCausalLM
        base, routed = sys.argv[1:]
        for load in (
            lambda: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), routed),
            lambda: AutoPeftModelForCausalLM.from_pretrained(routed),
            lambda: AutoModelForCausalLM.from_pretrained(routed),
        ):
            try:
                load()
            except KeyError as error:
                print(type(error).__name__, *error.args)
        assert "rocket_hub" not in sys.modules
    """
    assert run("-c", script, tiny_model, routed) == "KeyError ROCKET_MOE\n" * 3


def test_conv1d_trains_and_comes_back(ids, tmp_path):
    """GPT-2 keeps its weights transposed, in modules that are no `nn.Linear`."""
    torch.manual_seed(0)
    shape = transformers.GPT2Config(
        vocab_size=28, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(shape).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = randomised(
        get_peft_model(base, fresh_config(target_modules=["c_attn", "mlp.c_proj"], top_k=1, task_type="CAUSAL_LM"))
    )
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "adapter")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert set(routers(again)) == {"transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"}
    assert torch.equal(logits(again, ids), logits(model, ids))


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:MatMul8bitLt. inputs will be cast")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base(ids, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from peft import prepare_model_for_kbit_training

    sizes = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes' CPU kernels want multiples of 32
    shape = transformers.LlamaConfig(vocab_size=28, num_hidden_layers=1, num_attention_heads=2, **sizes)
    transformers.LlamaForCausalLM(shape).save_pretrained(tmp_path / "base")
    options = transformers.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)

    def prepared():
        base = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", quantization_config=options, device_map="cpu"
        )
        return prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)

    torch.manual_seed(0)
    model = randomised(get_peft_model(prepared(), fresh_config(task_type="CAUSAL_LM")))
    kinds = {type(model.get_base_model().get_submodule(name).base_layer).__name__ for name in routers(model)}
    assert kinds == {{4: "Linear4bit", 8: "Linear8bitLt"}[bits]}
    model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad.abs().sum() > 0 for _, p in router_parameters(model))
    model.save_pretrained(tmp_path / "adapter")
    expected = logits(model, ids)
    for again in (
        PeftModel.from_pretrained(prepared(), tmp_path / "adapter"),
        transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "adapter", quantization_config=options, device_map="cpu"
        ),
    ):
        # Plain LoRA drifts as much: the quantised products are not the same after every load.
        torch.testing.assert_close(logits(again, ids), expected, atol=1e-2, rtol=0)


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (None, None),
        (transformers.BitsAndBytesConfig(**NF4), "bitsandbytes-4bit-nf4"),
        (transformers.BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes-8bit"),
        ({"quant_method": "gptq", "bits": 4}, "gptq-4bit"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_names_of_quantisations(fresh_base, settings, name):
    model = fresh_base()
    if settings is not None:
        model.config.quantization_config = settings
    assert quantization_of(model) == name


def in_nf4(model):
    model.config.quantization_config = transformers.BitsAndBytesConfig(**NF4)
    return model


def test_another_quantisation_than_recorded_is_a_warning(fresh_base, tmp_path):
    settings = {"target_modules": ["q_proj"], "expert_ranks": [2, 2]}
    config = RocketMoeConfig(base_quantization="bitsandbytes-4bit-nf4", **settings)
    get_peft_model(in_nf4(fresh_base()), config).save_pretrained(tmp_path)
    for trainable in (False, True):
        with pytest.warns(UserWarning, match=r"quantised as bitsandbytes-4bit-nf4, this one is not quantised.*0\.1"):
            PeftModel.from_pretrained(fresh_base(), tmp_path, is_trainable=trainable)
    PeftModel.from_pretrained(in_nf4(fresh_base()), tmp_path)  # warnings are errors here


def test_a_base_that_is_quantised_only_now_is_a_warning_when_used_and_none_when_trained(fresh_base, routed):
    with pytest.warns(UserWarning, match="not at all, this one is bitsandbytes-4bit-nf4"):
        PeftModel.from_pretrained(in_nf4(fresh_base()), routed)
    PeftModel.from_pretrained(in_nf4(fresh_base()), routed, is_trainable=True)
