"""What is said of an adapter from the bytes of its configuration and header is what is said when it is read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rocket_hub.discovery.bases import BaseShapes
from rocket_hub.discovery.crawl import FOLDED, WHOLE, check_base, check_header
from rocket_hub.discovery.hub.answers import parse_header
from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import parse_config
from rocket_hub.lora.expert import read_expert

torch.manual_seed(0)
WEIGHTS = {f"model.layers.{n}.self_attn.q_proj.weight": torch.randn(16, 12) for n in range(2)}
WEIGHTS["model.other.weight"] = torch.randn(16)
BASE = BaseShapes("base/tiny", 2, {name: tuple(weight.shape) for name, weight in WEIGHTS.items()})
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base/tiny", "r": 2}
ADALORA = {"peft_type": "ADALORA", "init_r": 4, "target_r": 2, "rank_pattern": {"q_proj": [True, False]}}
KASA = {"kasa_config": {"beta": 1e-4}}
MODULE = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}"


def plain(rank=2, layers=(0, 1), end=".weight"):
    tensors = {}
    for layer in layers:
        tensors[MODULE.format(layer, "A") + end] = torch.randn(rank, 12)
        tensors[MODULE.format(layer, "B") + end] = torch.randn(16, rank)
    return tensors


def with_diagonal(name, shape, **plain_options):
    return plain(**plain_options) | {MODULE.format(layer, name): torch.ones(shape) for layer in range(2)}


A = MODULE.format(0, "A") + ".weight"
# What differs from a plain adapter: configuration, tensors (None = plain ones).
CASES = {
    "plain": ({}, None),
    "alpha 0": ({"lora_alpha": 0.5}, None),
    "rslora": ({"use_rslora": True}, None),
    "rank pattern": ({"rank_pattern": {"layers.1.self_attn.q_proj": 3}}, plain(layers=(0,)) | plain(3, (1,))),
    "a pattern for nothing": ({"rank_pattern": {"layers.1": 3}}, plain(layers=(0,)) | plain(3, (1,))),
    "no task": ({"task_type": None}, None),
    "classifier": ({"task_type": "SEQ_CLS"}, None),
    "mapped to a classifier": ({"task_type": None, "auto_mapping": {"base_model_class": "LlamaModel"}}, None),
    "mapped to a generator": ({"task_type": None, "auto_mapping": {"base_model_class": "LlamaForCausalLM"}}, None),
    "residual base": ({"base_model_name_or_path": "base/tiny-residual"}, None),
    "loha": ({"peft_type": "LOHA"}, None),
    "no type": ({"peft_type": None}, None),
    "type in lower case": ({"peft_type": "lora"}, None),
    **{f"init {init!r}": ({"init_lora_weights": init}, None) for init in (
        True, False, None, "gaussian", "eva", "orthogonal", "mica", "pissa", "PISSA", "olora", "OLoRA", "pissa_niter_4",
        "corda", "lora_ga", "loftq", "whatever", 1, ["gaussian"], {},
    )},
    "pissa, transposed": ({"init_lora_weights": "pissa", "fan_in_fan_out": True}, None),
    "pissa of a full rank": ({"init_lora_weights": "pissa", "r": 12}, plain(12)),
    "pissa of too high a rank": ({"init_lora_weights": "pissa", "r": 13}, plain(13)),
    "pissa with alpha 0": ({"init_lora_weights": "pissa", "lora_alpha": 0}, None),
    "olora with a negative alpha": ({"init_lora_weights": "olora", "lora_alpha": -4}, None),
    "olora with alpha 0 by pattern": ({"init_lora_weights": "olora", "alpha_pattern": {"q_proj": 0}}, None),
    "kasa": (KASA, with_diagonal("diag", (2,))),
    "kasa, empty": ({"kasa_config": {}}, with_diagonal("diag", (2,))),
    "kasa without its diagonal": (KASA, None),
    "kasa with a wrong diagonal": (KASA, with_diagonal("diag", (2, 1))),
    "kasa of a full rank": (KASA | {"r": 12}, with_diagonal("diag", (12,), rank=12)),
    "kasa and pissa": (KASA | {"init_lora_weights": "pissa"}, with_diagonal("diag", (2,))),
    "a diagonal without kasa": ({}, with_diagonal("diag", (2,))),
    "adalora": (ADALORA, with_diagonal("E", (2, 1), end="")),
    "adalora, all that it began with": (ADALORA, with_diagonal("E", (4, 1), rank=4, end="")),
    "adalora of too high a rank": (ADALORA, with_diagonal("E", (5, 1), rank=5, end="")),
    "adalora, pruned to nothing": (ADALORA, with_diagonal("E", (0, 1), rank=0, end="")),
    "adalora without singular values": (ADALORA, plain(end="")),
    "adalora with too many of them": (ADALORA, with_diagonal("E", (3, 1), end="")),
    "adalora from pissa": (ADALORA | {"init_lora_weights": "pissa"}, with_diagonal("E", (2, 1), end="")),
    "adalora without a rank": (ADALORA | {"init_r": None}, with_diagonal("E", (2, 1), end="")),
    "options of adalora in a lora": ({"target_r": 8}, None),
    **{f"{option} {value!r}": ({option: value}, None) for option, value in (
        ("use_dora", True), ("use_dora", False), ("trainable_token_indices", [1]), ("arrow_config", {}),
        ("arrow_config", {"top_k": 1}), ("arrow_config", None), ("use_bdlora", {}), ("use_bdlora", None),
        ("use_bdlora", False), ("target_parameters", ["x"]), ("target_parameters", []), ("layer_replication", [[0, 1]]),
        ("megatron_config", {}), ("megatron_config", {"a": 1}), ("alora_invocation_tokens", [1]), ("use_qalora", True),
        ("loftq_config", {"loftq_bits": 4}), ("eva_config", {"rho": 2.0}), ("runtime_config", {"ephemeral": False}),
        ("lora_bias", True), ("modules_to_save", ["lm_head"]), ("modules_to_save", []), ("frobnicate", 1),
        ("frobnicate", 0), ("bias", "all"), ("r", 0), ("r", "2"), ("r", True), ("r", 5000), ("lora_alpha", "4"),
        ("lora_alpha", 1e10), ("lora_alpha", None), ("rank_pattern", []), ("rank_pattern", [1]),
        ("rank_pattern", {"q_proj": 0}), ("alpha_pattern", {"q_proj": "x"}), ("alpha_pattern", {"(a+)+": 1}),
        ("alpha_pattern", {"a*b*c*": 1}), ("alpha_pattern", {"q(": 1}), ("alpha_pattern", {"x" * 300: 1}),
    )},
    "wrong rank": ({"r": 4}, None),
    "one rank of two wrong": ({}, plain(layers=(0,)) | plain(3, (1,))),
    "no weights at all": ({}, {}),
    "half an adapter": ({}, {A: torch.ones(2, 12)}),
    "one dimension": ({}, plain() | {A: torch.ones(24)}),
    "transposed": ({}, plain() | {A: torch.ones(12, 2)}),
    "whole numbers": ({}, plain() | {A: torch.ones(2, 12, dtype=torch.int8)}),
    "another size": ({}, plain() | {A: torch.ones(2, 10)}),
    "another module": ({}, plain() | {key.replace("q_proj", "x_proj"): value for key, value in plain().items()}),
    "twice": ({}, plain() | {key.replace("base_model.model.", ""): value for key, value in plain().items()}),
    "compiled": ({}, {key.replace("model.layers", "_orig_mod.model.layers"): value for key, value in plain().items()}),
    "dora": ({}, plain() | {MODULE.format(0, "magnitude_vector"): torch.ones(16)}),
    "bias of B": ({}, plain() | {MODULE.format(0, "B") + ".bias": torch.ones(16)}),
    "a bias of B that is zero": ({"lora_bias": True}, plain() | {MODULE.format(0, "B") + ".bias": torch.zeros(16)}),
    "the base's own norm": ({}, plain() | {"base_model.model.model.other.weight": WEIGHTS["model.other.weight"]}),
    "another norm": ({}, plain() | {"base_model.model.model.other.weight": torch.ones(16)}),
    "saved whole, the base's own": ({"modules_to_save": ["other"]}, plain() | {
        "base_model.model.model.other.modules_to_save.weight": WEIGHTS["model.other.weight"]}),
    "promised whole, and missing": ({"modules_to_save": ["other"]}, None),
    "checkpointed": ({}, {key.replace("self_attn", "_checkpoint_wrapped_module.self_attn"): value
                          for key, value in plain().items()}),
    "singular values of another shape": (ADALORA, with_diagonal("E", (2, 2), rank=4, end="")),
    "a set that Python warns of": ({"alpha_pattern": {"[[a]": 4}}, None),
    "mlx": ({"peft_type": None, "lora_parameters": {"rank": 2, "scale": 1.0}, "fine_tune_type": "full"}, None),
    "a trained bias": ({}, plain() | {"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(16)}),
    "a trained norm": ({}, plain() | {"base_model.model.model.norm.weight": torch.ones(16)}),
    "a new vocabulary": ({}, plain() | {"base_model.model.model.embed_tokens.weight": torch.ones(9, 16)}),
    "a lora of the head": ({}, plain() | {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 12)}),
    "trained tokens": ({}, plain() | {"base_model.model.x.token_adapter.trainable_tokens_delta": torch.ones(1, 2)}),
    "a name that does not end": ({}, plain() | {"x" * 300: torch.ones(1)}),
    "VeLoRA's own": ({}, plain() | {MODULE.format(0, "velora_embed") + ".x": torch.ones(2)}),
}  # fmt: skip
# What only the values decide, and what they decide.
TO_COMPARE = {
    "bias of B": "lora_bias", "a bias of B that is zero": "fits", "the base's own norm": "fits",
    "another norm": "modules_to_save", "saved whole, the base's own": "fits",
}  # fmt: skip


def said_by_discovery(folder):
    config = parse_config((folder / "adapter_config.json").read_bytes())
    check_base(config, BASE)
    data = (folder / "adapter_model.safetensors").read_bytes()
    return check_header(parse_header(data, len(data)), config, BASE)


@pytest.mark.parametrize("name", CASES)
def test_header_and_folder_get_the_same_verdict(name, tmp_path):
    change, tensors = CASES[name]
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | change))
    tensors = plain() if tensors is None else tensors
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "adapter_model.safetensors")
    verdicts = []
    for judge in (said_by_discovery, lambda folder: read_expert(folder, base_weights=WEIGHTS.__getitem__)):
        try:
            facts = judge(tmp_path)
            verdicts.append("compare" if WHOLE in getattr(facts, "flags", ()) else "fits")
        except AdapterError as error:
            verdicts.append(error.reason)
    assert verdicts[0] == ("compare" if name in TO_COMPARE else verdicts[1])
    assert TO_COMPARE.get(name) in (None, verdicts[1])


@pytest.mark.parametrize("change", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, KASA])
def test_what_moe_folds_only_with_the_base_has_the_flag(change, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | change))
    assert FOLDED in check_base(CONFIG | change, BASE)
    with pytest.raises(AdapterError) as caught:
        read_expert(tmp_path)
    assert caught.value.reason == "needs_base_weights"
