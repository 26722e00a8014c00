"""Adapters of a build: read with the base's weights, and loaded by stock PEFT without harm to the base."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import KasaConfig
from safetensors.torch import load_file, save_file

from rocket_hub.errors import AdapterError
from rocket_hub.inference.models import load_base
from rocket_hub.lora.attach import adapted, load_adapter
from rocket_hub.pipeline.adapters import read_adapter, stock_folder
from rocket_hub.pipeline.context import Context
from rocket_hub.recipe import Recipe
from rocket_hub.records import Pinned
from rocket_hub.runs import RunFolder, Silent
from rocket_hub.tasks import get_task
from tests.conftest import save_lora
from tests.helping import push_adapter

KINDS = {"pissa": {"init_lora_weights": "pissa"}, "olora": {"init_lora_weights": "olora"},
         "kasa": {"kasa_config": KasaConfig()}}  # fmt: skip


@pytest.fixture
def context(lasting_api, tiny_model, tmp_path):
    recipe, base = Recipe("gsm8k", str(tiny_model)), Pinned(str(tiny_model), "")
    return Context(recipe, get_task("gsm8k"), (), (), RunFolder(tmp_path, Silent()), lasting_api, "", Silent(), base)


def push(api, folder, name):
    """Publish an adapter."""
    return Pinned(f"local/{name}", push_adapter(api, f"local/{name}", folder))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_that_change_the_base_are_folded(kind, context, tiny_model, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **KINDS[kind])
    model = get_peft_model(load_base(str(tiny_model), None)[0], config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "made")
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
    pin = push(context.api, tmp_path / "made", kind)

    base, _ = context.base
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    folder = stock_folder(context, pin)
    with adapted(base, folder) as tuned, torch.no_grad():
        torch.testing.assert_close(tuned(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())

    expert = read_adapter(context, pin)
    assert expert.name == f"local/{kind}"
    assert {len(a) for a, _ in expert.modules.values()} == {4}
    assert folder.is_relative_to(context.run.path)
    written = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    assert stock_folder(context, pin) == folder
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == written


WRAPPERS = {
    "compiled": lambda key: "_orig_mod." + key,
    "parallel": lambda key: "module." + key,
    "checkpointed": lambda key: key.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
}


@pytest.mark.parametrize("name", ["plain", *WRAPPERS])
def test_peft_is_given_nothing_but_what_is_written_here(name, context, lora_bank, tmp_path):
    made = tmp_path / "made"
    shutil.copytree(lora_bank[1], made)
    tensors = load_file(made / "adapter_model.safetensors")
    change = WRAPPERS.get(name, str)
    save_file({change(key): tensor for key, tensor in tensors.items()}, made / "adapter_model.safetensors")
    config = json.loads((made / "adapter_config.json").read_text()) | {"lora_dropout": 0.5, "revision": "elsewhere"}
    (made / "adapter_config.json").write_text(json.dumps(config))
    pin = push(context.api, made, name)
    folder, ids = stock_folder(context, pin), torch.arange(4, 20)[None]
    written = json.loads((folder / "adapter_config.json").read_text())
    assert folder.is_relative_to(context.run.path)
    assert (written["lora_dropout"], written["revision"]) == (0.0, "")
    assert written["lora_alpha"] / written["r"] == pytest.approx(config["lora_alpha"] / config["r"] ** 0.5)
    base, _ = context.base
    with torch.no_grad():
        with adapted(base, lora_bank[1]) as tuned:
            expected = tuned(input_ids=ids).logits
        with adapted(base, folder) as tuned:
            torch.testing.assert_close(tuned(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert len(read_adapter(context, pin).modules) == len(tensors) / 2


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_peft_loads_all_or_nothing(fault, tiny_model, lora_bank, tmp_path):
    tensors = load_file(lora_bank[0] / "adapter_model.safetensors")
    first = next(iter(tensors))
    changed = {"missing": {first: None}, "unexpected": {first.replace("proj", "proje"): tensors[first].clone()}}[fault]
    kept = {key: tensor for key, tensor in (tensors | changed).items() if tensor is not None}
    shutil.copy(lora_bank[0] / "adapter_config.json", tmp_path)
    save_file(kept, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=f"does not load on this model: 1 {fault} weights, such as") as caught:
        load_adapter(load_base(str(tiny_model), None)[0], tmp_path)
    assert caught.value.reason == "does_not_load"


def test_an_adapter_of_another_base(context, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=28)
    save_lora(LlamaForCausalLM(config), tmp_path / "other", r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(AdapterError, match="made for another base") as caught:
        read_adapter(context, push(context.api, tmp_path / "other", "other"))
    assert caught.value.reason == "shape_mismatch"


def test_meteor_goes_on_from_what_is_written_here(lasting_api, tiny_model, lora_bank, tmp_path):
    from rocket_hub.cli.generate import _adapter

    pin, base = push(lasting_api, lora_bank[0], "to-go-on-from"), load_base(str(tiny_model), None)[0]
    assert (
        _adapter(lasting_api, None, base, tmp_path) is None
        and _adapter(lasting_api, str(tmp_path), base, tmp_path) == tmp_path
    )
    folder = _adapter(lasting_api, pin.repo_id, base, tmp_path)
    assert folder is not None and folder.is_relative_to(tmp_path)
    load_adapter(base, folder, trained=True)
