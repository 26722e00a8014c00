"""The verdict on an adapter: from its first bytes as from its folder, and as `adapters.jsonl` says."""

import json
import re
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from rocket_hub.discovery.bases import BaseShapes
from rocket_hub.discovery.crawl import check_base, check_header
from rocket_hub.discovery.hub.answers import header_end, parse_header
from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import MAX_CONFIG_BYTES, parse_config
from rocket_hub.lora.expert import read_expert
from rocket_hub.lora.tensors import Tensor
from tests.helping import reason_of, table

torch.manual_seed(0)
WEIGHTS = {f"model.layers.{n}.self_attn.q_proj.weight": torch.randn(16, 12) for n in range(2)}
WEIGHTS["model.other.weight"] = torch.randn(16)
WORLD = BaseShapes("base/tiny", 2, {name: tuple(weight.shape) for name, weight in WEIGHTS.items()})
MODULE = "base_model.model.model.layers.{}.self_attn.q_proj"
MADE = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "base/tiny", "r": 2}
CASES = table("discovery/adapters.jsonl")


def tensor(described):
    """Make a tensor: random of a shape, filled, or one of the base's."""
    if isinstance(described, str):
        return WEIGHTS[described]
    told = described if isinstance(described, dict) else {"shape": described}
    made = torch.full(told["shape"], float(told["fill"])) if "fill" in told else torch.randn(told["shape"])
    return made.to(getattr(torch, told.get("dtype", "float32")))


def tensors(case):
    """Make what differs from a plain adapter: tensors that are there `also`, or alone (`only`)."""
    plain = {f"@{n}.lora_{part}.weight": shape for n in (0, 1) for part, shape in (("A", [2, 12]), ("B", [16, 2]))}
    described = case.get("only", plain | case.get("also", {}))
    return {re.sub(r"^@(\d)", lambda at: MODULE.format(at[1]), key): tensor(value) for key, value in described.items()}


def from_header(folder):
    config = parse_config((folder / "adapter_config.json").read_bytes())
    check_base(config, WORLD)
    data = (folder / "adapter_model.safetensors").read_bytes()
    return "compare" if check_header(parse_header(data, len(data)), config, WORLD).flags else "fits"


def from_folder(folder, base_weights=None):
    read_expert(folder, base_weights=base_weights)
    return "fits"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_header_and_folder_get_the_same_verdict(case, tmp_path):
    """`reason` of the folder with its base; `header` and `alone` (without the base) where they say something else."""
    (tmp_path / "adapter_config.json").write_text(json.dumps(MADE | case.get("config", {})))
    save_file({key: made.contiguous() for key, made in tensors(case).items()}, tmp_path / "adapter_model.safetensors")
    verdicts = {}
    with_base = partial(from_folder, base_weights=WEIGHTS.__getitem__)
    for name, judge in {"header": from_header, "reason": with_base, "alone": from_folder}.items():
        try:
            verdicts[name] = judge(tmp_path)
        except AdapterError as error:
            verdicts[name] = error.reason
    assert verdicts == {name: case.get(name, case["reason"]) for name in verdicts}


def test_a_header_differs_only_in_what_values_or_the_depth_decide():
    apart = {(case["header"], case["reason"]) for case in CASES if "header" in case}
    values = {("fits", "nan_weights"), ("fits", "untrained"), ("compare", "lora_bias"), ("compare", "modules_to_save")}
    assert len(CASES) > 170 and apart == {*values, ("compare", "fits"), ("depth_mismatch", "shape_mismatch")}


BASE = BaseShapes(
    "base/Tiny",
    2,
    {
        "model.embed_tokens.weight": (28, 16),
        **{f"model.layers.{layer}.self_attn.q_proj.weight": (16, 16) for layer in range(2)},
        **{f"model.layers.{layer}.mlp.up_proj.weight": (32, 16) for layer in range(2)},
        **{f"model.layers.{layer}.input_layernorm.weight": (16,) for layer in range(2)},
    },
    copies={"copies/tiny": ("mirror_base",)},
    others={"copies/huge": "it has 7 layers"},
)
CONFIG = MADE | {"base_model_name_or_path": "base/Tiny", "lora_alpha": 4}


def lora(module="model.layers.0.self_attn.q_proj", *, r=2, out=16, wide=16, prefix="base_model.model."):
    return {
        f"{prefix}{module}.lora_A.weight": Tensor("F32", (r, wide)),
        f"{prefix}{module}.lora_B.weight": Tensor("F32", (out, r)),
    }


@pytest.mark.parametrize(("name", "flags"), table("discovery/base_names.jsonl"))
def test_the_base_that_a_configuration_names(name, flags):
    assert check_base(CONFIG | {"base_model_name_or_path": name}, BASE) == tuple(flags)


@pytest.mark.parametrize("name", table("discovery/other_bases.jsonl"))
def test_another_base(name):
    assert reason_of(check_base, CONFIG | {"base_model_name_or_path": name}, BASE) == "wrong_base"


def test_a_copy_that_is_none_is_refused_with_the_reason():
    with pytest.raises(AdapterError, match=r"made for 'copies/huge', not for base/Tiny \(it has 7 layers\)"):
        check_base(CONFIG | {"base_model_name_or_path": "copies/huge"}, BASE)


@pytest.mark.parametrize("change", table("discovery/folded_options.jsonl"))
def test_what_changes_the_base_is_accepted_with_a_flag(change):
    assert check_base(CONFIG | change, BASE) == ("folded_with_base",)


def test_every_default_of_pefts_own_configuration_fits():
    from peft import LoraConfig

    written = LoraConfig(
        base_model_name_or_path="base/Tiny", task_type="CAUSAL_LM", target_modules=["q_proj"]
    ).to_dict()
    assert check_base(parse_config(json.dumps(written, default=list).encode()), BASE) == ()


@pytest.mark.parametrize("prefix", table("discovery/tensor_prefixes.jsonl"))
def test_tensor_names_are_read_whichever_way_they_were_saved(prefix):
    facts = check_header(lora(prefix=prefix) | lora("model.layers.1.mlp.up_proj", out=32, prefix=prefix), CONFIG, BASE)
    assert (facts.rank, facts.target_modules) == (2, ("q_proj", "up_proj"))


def test_an_adapter_name_in_the_key_does_no_harm():
    renamed = {key.replace(".weight", ".default.weight"): tensor for key, tensor in lora().items()}
    assert check_header(renamed, CONFIG, BASE).rank == 2


def test_the_largest_rank_counts():
    config = CONFIG | {"rank_pattern": {"layers.1.self_attn.q_proj": 5}}
    assert check_header(lora() | lora("model.layers.1.self_attn.q_proj", r=5), config, BASE).rank == 5


@pytest.mark.parametrize(("name", "shape", "promise"), table("discovery/whole_tensors.jsonl"))
def test_whole_tensors_that_may_be_the_base_s_own_are_flagged(name, shape, promise):
    header = lora() | {f"base_model.model.{name}": Tensor("F32", tuple(shape))}
    for config in (CONFIG, CONFIG | promise):
        assert check_header(header, config, BASE).flags == ("whole_tensors",)


def test_only_a_checkpoint_of_the_inner_model_leaves_out_its_name():
    """GPT-2's; on any other base a module of another prefix is another module."""
    inner = BaseShapes("base/gpt2", 1, {"h.0.attn.c_attn.weight": (16, 48), "wte.weight": (9, 16)})
    assert check_header(lora("transformer.h.0.attn.c_attn", out=48), CONFIG, inner).rank == 2
    for module in ("foreign.h.0.attn.c_attn", "transformer.transformer.h.0.attn.c_attn"):
        assert reason_of(check_header, lora(module, out=48), CONFIG, inner) == "shape_mismatch"
    foreign = lora("language_model.model.layers.0.self_attn.q_proj")
    assert reason_of(check_header, foreign, CONFIG, BASE) == "shape_mismatch"


def test_an_unverified_adapter_of_fewer_layers_is_refused_and_a_verified_one_is_not():
    assert check_header(lora(), CONFIG, BASE).rank == 2
    assert reason_of(check_header, lora(), CONFIG, BASE, verified=False) == "depth_mismatch"
    assert check_header(lora(), CONFIG | {"layers_to_transform": [0]}, BASE, verified=False).rank == 2


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_no_object_is_broken(data):
    assert reason_of(parse_config, data) == "broken_config"


def test_a_huge_configuration_is_not_parsed():
    assert reason_of(parse_config, b'{"a": "' + b"x" * MAX_CONFIG_BYTES + b'"}') == "broken_config"


def packed(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_header_is_read():
    data = packed({"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    assert parse_header(data, len(data) + 8) == {"w": Tensor("F32", (2,))}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\xff" * 16,
        packed([]),
        packed({"w": 7}),
        packed({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 7]}}),
        packed({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}),
        packed({"w": {"dtype": "F32", "shape": [10**40], "data_offsets": [0, 8]}}),
        packed({"w": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}),
        packed({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}),
        packed({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"cut"),
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_a_broken_header_is_named(data):
    assert reason_of(parse_header, data, len(data)) == "broken_weights"


def test_a_header_above_the_bound_is_not_read():
    assert reason_of(header_end, (11_000_000).to_bytes(8, "little"), 10**12) == "broken_weights"
