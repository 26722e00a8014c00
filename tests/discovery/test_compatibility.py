import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocket_hub.discovery.bases import BaseShapes
from rocket_hub.discovery.crawl import check_base, check_header
from rocket_hub.discovery.hub.answers import header_end, parse_header
from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import MAX_CONFIG_BYTES, parse_config
from rocket_hub.lora.tensors import Tensor

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
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "base/Tiny",
    "r": 2,
    "lora_alpha": 4,
}


def lora(module="model.layers.0.self_attn.q_proj", *, r=2, out=16, wide=16, prefix="base_model.model."):
    return {
        f"{prefix}{module}.lora_A.weight": Tensor("F32", (r, wide)),
        f"{prefix}{module}.lora_B.weight": Tensor("F32", (out, r)),
    }


def reason(function, *args, **kwargs):
    with pytest.raises(AdapterError) as caught:
        function(*args, **kwargs)
    assert str(caught.value)
    return caught.value.reason


def test_a_plain_configuration_fits():
    assert check_base(CONFIG, BASE) == ()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("BASE/tiny", ()),
        (None, ("base_unverified",)),
        ("/home/me/llama", ("base_unverified",)),
        ("./checkpoints/llama/last", ("base_unverified",)),
        ("llama", ("base_unverified",)),
        ("base/Tiny/", ()),
        ("https://huggingface.co/base/tiny", ()),
        ("https://huggingface.co/base/tiny/tree/main", ()),
        ("/root/.cache/huggingface/hub/models--base--Tiny/snapshots/0123456789abcdef", ()),
        ("https://huggingface.co/copies/tiny", ("mirror_base",)),
        ("copies/TINY", ("mirror_base",)),
    ],
)
def test_the_base_that_a_configuration_names(name, flags):
    assert check_base(CONFIG | {"base_model_name_or_path": name}, BASE) == flags


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"peft_type": "LOHA"}, "not_lora"),
        ({"peft_type": None}, "not_lora"),
        ({"task_type": "SEQ_CLS"}, "wrong_task"),
        ({"base_model_name_or_path": "other/Model"}, "wrong_base"),
        ({"base_model_name_or_path": "someone/Tiny"}, "wrong_base"),
        ({"base_model_name_or_path": "https://huggingface.co/someone/Tiny"}, "wrong_base"),
        ({"base_model_name_or_path": "/x/models--someone--Tiny/snapshots/0123456789abcdef"}, "wrong_base"),
        ({"base_model_name_or_path": "unsloth/tiny-bnb-4bit"}, "wrong_base"),
        ({"base_model_name_or_path": "base/tiny-residual"}, "wrong_base"),
        ({"base_model_name_or_path": 7}, "wrong_base"),
        ({"base_model_name_or_path": ["base/Tiny"]}, "wrong_base"),
        ({"init_lora_weights": "pissa_niter_4"}, "unsupported_init"),
        ({"init_lora_weights": "pissa", "fan_in_fan_out": True}, "unsupported_init"),
        ({"init_lora_weights": "loftq"}, "unsupported_init"),
        ({"init_lora_weights": ["gaussian"]}, "unsupported_init"),
        ({"use_dora": True}, "dora"),
        ({"trainable_token_indices": [3]}, "trainable_tokens"),
        ({"target_parameters": ["experts"]}, "unsupported_config"),
        ({"layer_replication": [[0, 2]]}, "unsupported_config"),
        ({"arrow_config": {"top_k": 2}}, "unsupported_config"),
        ({"alora_invocation_tokens": [1]}, "unsupported_config"),
        ({"frobnicate": True}, "unknown_keys"),
        ({"r": None}, "broken_config"),
        ({"r": True}, "broken_config"),
        ({"r": 10**9}, "broken_config"),
        ({"lora_alpha": "16"}, "broken_config"),
        ({"lora_alpha": float("nan")}, "broken_config"),
        ({"rank_pattern": ["q_proj"]}, "broken_config"),
        ({"rank_pattern": {"q_proj": 0}}, "broken_config"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "unsupported_config"),
        ({"alpha_pattern": {"(a|a)*": 4}}, "unsupported_config"),
        ({"alpha_pattern": {"[[a]": 4}}, "unsupported_config"),
        ({"alpha_pattern": {"q(": 4}}, "broken_config"),
    ],
)
def test_a_configuration_that_does_not_fit(change, expected):
    assert reason(check_base, CONFIG | change, BASE) == expected


def test_a_copy_that_is_none_is_refused_with_the_reason():
    with pytest.raises(AdapterError, match=r"made for 'copies/huge', not for base/Tiny \(it has 7 layers\)"):
        check_base(CONFIG | {"base_model_name_or_path": "copies/huge"}, BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "OLoRA"},
        {"kasa_config": {}},
        {"kasa_config": {"beta": 1e-4}},
    ],
)
def test_what_changes_the_base_is_accepted_with_a_flag(change):
    assert check_base(CONFIG | change, BASE) == ("folded_with_base",)


def test_a_configuration_without_a_rank_is_broken():
    assert reason(check_base, {key: CONFIG[key] for key in CONFIG if key != "r"}, BASE) == "broken_config"


@pytest.mark.parametrize(
    "change",
    [
        {"frobnicate": None, "future_option": False, "use_dora": False, "modules_to_save": []},
        {"init_lora_weights": True, "bias": "none", "use_rslora": True, "megatron_core": "megatron.core"},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 5}, "alpha_pattern": {".*v_proj": 7.5}},
        {"task_type": None},
    ],
)
def test_options_at_their_defaults_do_no_harm(change):
    assert check_base(CONFIG | change, BASE) == ()


def test_every_default_of_pefts_own_configuration_fits():
    from peft import LoraConfig

    written = LoraConfig(
        base_model_name_or_path="base/Tiny", task_type="CAUSAL_LM", target_modules=["q_proj"]
    ).to_dict()
    assert check_base(parse_config(json.dumps(written, default=list).encode()), BASE) == ()


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.",
        "",
        "module.base_model.model.",
        "base_model.model.base_model.model.",
        "_orig_mod.",
        "_fsdp_wrapped_module._checkpoint_wrapped_module.",
    ],
)
def test_tensor_names_are_read_whichever_way_they_were_saved(prefix):
    facts = check_header(lora(prefix=prefix) | lora("model.layers.1.mlp.up_proj", out=32, prefix=prefix), CONFIG, BASE)
    assert (facts.rank, facts.target_modules) == (2, ("q_proj", "up_proj"))


def test_an_adapter_name_in_the_key_does_no_harm():
    renamed = {key.replace(".weight", ".default.weight"): tensor for key, tensor in lora().items()}
    assert check_header(renamed, CONFIG, BASE).rank == 2


def test_the_largest_rank_counts():
    config = CONFIG | {"rank_pattern": {"layers.1.self_attn.q_proj": 5}}
    assert check_header(lora() | lora("model.layers.1.self_attn.q_proj", r=5), config, BASE).rank == 5


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({}, "no_weights"),
        (lora(wide=8), "shape_mismatch"),
        (lora(out=8), "shape_mismatch"),
        (lora("model.layers.0.self_attn.x_proj"), "shape_mismatch"),
        (lora("model.layers.0.input_layernorm"), "shape_mismatch"),
        (lora("model.layers.2.self_attn.q_proj"), "depth_mismatch"),
        (lora(r=3), "rank_mismatch"),
        (lora(r=0), "bad_shape"),
        (dict([next(iter(lora().items()))]), "missing_partner"),
        (lora() | {"base_model.model.model.embed_tokens.weight": Tensor("F32", (30, 16))}, "vocab_resized"),
        (lora() | {"base_model.model.lm_head.weight": Tensor("F32", (28, 16))}, "vocab_resized"),
        (lora() | lora("lm_head", out=28), "embedding_lora"),
        (lora() | {"base_model.model.model.embed_tokens.lora_embedding_A": Tensor("F32", (2, 28))}, "embedding_lora"),
        (lora() | {"base_model.model.model.norm.weight": Tensor("F32", (16,))}, "modules_to_save"),
        (lora() | {"x.q_proj.lora_magnitude_vector": Tensor("F32", (16,))}, "dora"),
        (lora() | {"x.q_proj.base_layer.bias": Tensor("F32", (16,))}, "bias_trained"),
        (lora() | {"x.token_adapter.trainable_tokens_delta": Tensor("F32", (1, 16))}, "trainable_tokens"),
        (lora() | {"x.q_proj.lora_E": Tensor("F32", (2, 1))}, "unknown_keys"),
        (lora() | lora(prefix=""), "unknown_keys"),
        ({"x" * 300: Tensor("F32", (1,))}, "unknown_keys"),
        ({name: Tensor("I8", tensor.shape) for name, tensor in lora().items()}, "nan_weights"),
        ({name: Tensor("F32", (0,)) for name in lora()}, "bad_shape"),
    ],
)
def test_a_header_that_does_not_fit(header, expected):
    assert reason(check_header, header, CONFIG, BASE) == expected


@pytest.mark.parametrize(("option", "expected"), [("lora_bias", "lora_bias"), ("modules_to_save", "modules_to_save")])
def test_what_was_promised_and_is_missing(option, expected):
    assert reason(check_header, lora(), CONFIG | {option: ["lm_head"]}, BASE) == expected


@pytest.mark.parametrize(
    ("name", "shape", "promise"),
    [
        ("model.embed_tokens.weight", (28, 16), {"modules_to_save": ["embed_tokens"]}),
        ("model.layers.0.input_layernorm.modules_to_save.weight", (16,), {"modules_to_save": "input_layernorm"}),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", (16,), {"lora_bias": True}),
    ],
)
def test_whole_tensors_that_may_be_the_base_s_own_are_flagged(name, shape, promise):
    header = lora() | {f"base_model.model.{name}": Tensor("F32", shape)}
    for config in (CONFIG, CONFIG | promise):
        assert check_header(header, config, BASE).flags == ("whole_tensors",)


def test_only_a_checkpoint_of_the_inner_model_leaves_out_its_name():
    """GPT-2's; on any other base a module of another prefix is another module."""
    inner = BaseShapes("base/gpt2", 1, {"h.0.attn.c_attn.weight": (16, 48), "wte.weight": (9, 16)})
    assert check_header(lora("transformer.h.0.attn.c_attn", out=48), CONFIG, inner).rank == 2
    for module in ("foreign.h.0.attn.c_attn", "transformer.transformer.h.0.attn.c_attn"):
        assert reason(check_header, lora(module, out=48), CONFIG, inner) == "shape_mismatch"
    foreign = lora("language_model.model.layers.0.self_attn.q_proj")
    assert reason(check_header, foreign, CONFIG, BASE) == "shape_mismatch"


def test_an_unverified_adapter_of_fewer_layers_is_refused_and_a_verified_one_is_not():
    assert check_header(lora(), CONFIG, BASE).rank == 2
    assert reason(check_header, lora(), CONFIG, BASE, verified=False) == "depth_mismatch"
    assert check_header(lora(), CONFIG | {"layers_to_transform": [0]}, BASE, verified=False).rank == 2


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_no_object_is_broken(data):
    assert reason(parse_config, data) == "broken_config"


def test_a_huge_configuration_is_not_parsed():
    assert reason(parse_config, b'{"a": "' + b"x" * MAX_CONFIG_BYTES + b'"}') == "broken_config"


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
    assert reason(parse_header, data, len(data)) == "broken_weights"


def test_a_header_above_the_bound_is_not_read():
    assert reason(header_end, (11_000_000).to_bytes(8, "little"), 10**12) == "broken_weights"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*CONFIG, "rank_pattern", "alpha_pattern", "init_lora_weights", "use_dora"]) | st.text(
    max_size=5
)


@given(st.dictionaries(keys, anything, max_size=5), st.booleans())
def test_no_configuration_crashes(change, replace):
    try:
        check_base(change if replace else CONFIG | change, BASE)
    except AdapterError as error:
        assert error.reason


names = st.text(max_size=12) | st.sampled_from([*lora(), "lm_head.lora_A.weight", "a.layers.9.q.lora_A.weight"])
tensors = st.builds(
    Tensor, st.sampled_from(["F32", "BF16", "I8", ""]), st.lists(st.integers(0, 2**50), max_size=3).map(tuple)
)


@given(st.dictionaries(names, tensors, max_size=4))
def test_no_header_crashes(header):
    try:
        check_header(header, CONFIG, BASE)
    except AdapterError as error:
        assert error.reason


@given(st.binary(max_size=64) | st.dictionaries(st.text(max_size=4), anything, max_size=3).map(packed))
def test_no_bytes_crash_the_header_parser(data):
    try:
        parse_header(data, len(data))
    except AdapterError as error:
        assert error.reason == "broken_weights"
