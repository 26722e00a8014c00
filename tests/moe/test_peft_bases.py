"""Bases whose linear layers are no `nn.Linear`: GPT-2, and quantised ones."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from routing_world import fresh_config, logits, randomised
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rocket_hub.moe.gates import routers
from rocket_hub.moe.router import router_parameters


def test_conv1d_trains_and_comes_back(ids, tmp_path):
    """GPT-2 keeps its weights transposed, in modules that are no `nn.Linear`."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=28, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = randomised(
        get_peft_model(base, fresh_config(target_modules=["c_attn", "mlp.c_proj"], top_k=1, task_type="CAUSAL_LM"))
    )
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert set(routers(again)) == {"transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_proj"}
    assert torch.equal(logits(again, ids), logits(model, ids))


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:MatMul8bitLt. inputs will be cast")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base(ids, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes' CPU kernels want multiples of 32
    shape = LlamaConfig(vocab_size=28, num_hidden_layers=1, num_attention_heads=2, **sizes)
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "base")
    options = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)

    def prepared():
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=options, device_map="cpu")
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
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter", quantization_config=options, device_map="cpu"),
    ):
        # Plain LoRA drifts as much: the quantised products are not the same after every load.
        torch.testing.assert_close(logits(again, ids), expected, atol=1e-2, rtol=0)
