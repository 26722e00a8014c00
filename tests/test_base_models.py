import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from rocket_hub.errors import HubError, InputError
from rocket_hub.inference.models import load_base


def test_load_base(tiny_model):
    model, tokenizer = load_base(str(tiny_model), None, "bfloat16")
    assert model.dtype == torch.bfloat16 and not model.training and tokenizer.pad_token == "<pad>"


def test_load_base_sets_a_missing_pad_token_without_resizing(tiny_model, tmp_path):
    LlamaForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_base(str(tmp_path), None, "float32")
    assert tokenizer.pad_token == "</s>" and model.get_input_embeddings().num_embeddings == 28


def test_load_base_refuses_weights_that_are_pickled_broken_or_missing(tiny_model, tmp_path):
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=tmp_path.name):
        load_base(str(tmp_path), None, "float32")
    weights = {name: weight for name, weight in model.state_dict().items() if "lm_head" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(InputError, match=r"1 weights are not in .* 'lm_head.weight'"):
        load_base(str(tmp_path), None, "float32")
    safetensors = tmp_path / "model.safetensors"
    safetensors.write_bytes(safetensors.read_bytes()[:900])
    with pytest.raises(InputError, match=tmp_path.name):
        load_base(str(tmp_path), None, "float32")


def test_load_base_names_what_cannot_be_had(tmp_path):
    with pytest.raises((HubError, InputError), match="no-such-folder"):
        load_base(str(tmp_path / "no-such-folder"), None, "float32")
    with pytest.raises(InputError, match="float16"):
        load_base("x/y", None, "float16")
