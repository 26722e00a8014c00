"""Hostile content: whatever an adapter, its header or a list holds, the answer is a verdict, within bounded memory."""

import json
import tracemalloc
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.discovery.bases import BaseShapes
from rocket_hub.discovery.crawl import check_base, check_header, claimed_base
from rocket_hub.discovery.hub.answers import MAX_HEADER, header_end, parse_header
from rocket_hub.discovery.listing import check_listed, read_item
from rocket_hub.errors import AdapterError
from rocket_hub.lora.config import ADALORA, HARMLESS, UNSUPPORTED, parse_config
from rocket_hub.options import DiscoverOptions
from rocket_hub.serialization import to_dict

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
BASE = BaseShapes("base/tiny", 1, {"model.layers.0.self_attn.q_proj.weight": (16, 16)})
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
          "base_model_name_or_path": "base/tiny"}  # fmt: skip
HEADER = {
    f"{MODULE}.lora_A.weight": {"dtype": "F32", "shape": [2, 16], "data_offsets": [0, 128]},
    f"{MODULE}.lora_B.weight": {"dtype": "F32", "shape": [16, 2], "data_offsets": [128, 256]},
}
fuzzed = settings(max_examples=60, deadline=None)

numbers = st.integers() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, 1e-320]) | st.floats()
texts = st.text(max_size=8) | st.sampled_from(
    ["", "../../x", "x" * 4_000, "\x00", "\x1b[2J", "\ud800", "(a+)+$", "[", "a/b"]
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
options = st.sampled_from(sorted({*HARMLESS, *ADALORA, *UNSUPPORTED}))
# Values that get further than a wrong type does.
likely = st.sampled_from(["LORA", "ADALORA", "CAUSAL_LM", "pissa", "olora", True, 1, 12, {}, [], {"q_proj": 4}])


@contextmanager
def at_most(bytes_):
    """Fail if more memory than this is taken at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < bytes_
    finally:
        tracemalloc.stop()


def judge(data, header):
    """Judge an adapter as a crawl does; returns the reason, empty if it fits."""
    try:
        config = parse_config(data)
        claimed_base(config)
        flags = check_base(config, BASE)
        check_header(header, config, BASE, verified="base_unverified" not in flags)
    except AdapterError as error:
        text = str(error)
        assert error.reason and text and len(text) < 2_000
        return error.reason
    return ""


def tensors_of(header, size=None):
    """Parse a header; returns the tensors, or the reason."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text
    try:
        return parse_header(data, len(data) + 256 if size is None else size)
    except AdapterError as error:
        assert len(str(error)) < 500
        return error.reason


def test_what_is_changed_below_fits():
    assert judge(json.dumps(CONFIG).encode(), tensors_of(HEADER)) == ""


@fuzzed
@given(st.dictionaries(options | texts, likely | anything, max_size=4), st.booleans())
def test_any_configuration_gets_a_verdict(change, whole):
    judge(json.dumps(change if whole else CONFIG | change).encode(), tensors_of(HEADER))


@fuzzed
@given(st.binary(max_size=80), st.integers(0, 120), st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig"]))
def test_any_bytes_of_a_configuration_get_a_verdict(junk, at, encoding):
    text = json.dumps(CONFIG).encode(encoding)
    judge(junk, {})
    judge(text[:at] + junk + text[at:], tensors_of(HEADER))
    judge(text[:at], tensors_of(HEADER))


entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I4", "F8_E4M3", "BOOL"]) | anything,
        "shape": st.lists(st.sampled_from([0, 1, 2, 16, 2**49, 2**50, 2**64, -1, True, 1.5]), max_size=9) | anything,
        "data_offsets": st.lists(st.sampled_from([0, 128, 256, 2**49, 2**63, -1]), max_size=3) | anything,
    },
)
names = (
    st.sampled_from([*HEADER, f"{MODULE}.lora_A.default.weight", "lm_head.weight", "x" * 4_000, "__metadata__"]) | texts
)


@fuzzed
@given(st.dictionaries(names, entries | anything, max_size=4), st.booleans(), st.integers(0, 2**63))
def test_any_header_gets_a_verdict(change, whole, size):
    header = change if whole else {name: entry | change.get(name, {}) if isinstance(change.get(name, {}), dict) else
                                   change[name] for name, entry in HEADER.items()}  # fmt: skip
    for claimed in (None, size):
        tensors = tensors_of(header, claimed)
        if isinstance(tensors, dict):
            judge(json.dumps(CONFIG).encode(), tensors)
        else:
            assert tensors == "broken_weights"


@fuzzed
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5), st.binary(max_size=20), st.floats(0, 1))
def test_a_damaged_header_gets_a_verdict(damage, junk, cut):
    text = json.dumps(HEADER).encode()
    data = bytearray(len(text).to_bytes(8, "little") + text)
    for where, byte in damage:
        data[int(where * (len(data) - 1))] = byte
    for broken in (bytes(data), bytes(data[: int(cut * len(data))]), junk + bytes(data)):
        try:
            tensors = parse_header(broken, len(broken) + 256)
        except AdapterError as error:
            assert error.reason == "broken_weights"
        else:
            judge(json.dumps(CONFIG).encode(), tensors)


@pytest.mark.parametrize("claimed", [2 * 2**30, 2**63, 2**64 - 1, MAX_HEADER + 1])
def test_a_header_of_gigabytes_is_only_claimed(claimed):
    data = claimed.to_bytes(8, "little") + b"{" * 100_000
    with at_most(2**20), pytest.raises(AdapterError, match="header"):
        header_end(data, 2**63)
        parse_header(data, 2**63)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 500 + b"]" * 500, b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": 1e999}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"\\ud800": {}}', b"\xff\xfe{", b"null", b"",
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_deep_and_odd_json_gets_a_verdict(text):
    with at_most(2**26):
        assert tensors_of(text) == "broken_weights"
        assert judge(text, {}) in ("broken_config", "not_lora")


def test_a_tensor_that_is_there_twice_does_not_add_up():
    (name, entry), (other, last) = HEADER.items()
    text = "{" + ", ".join(f'"{key}": {json.dumps(value)}' for key, value in
                           ((name, entry), (name, last), (other, last))) + "}"  # fmt: skip
    tensors = tensors_of(text.encode())
    assert judge(json.dumps(CONFIG).encode(), tensors) if isinstance(tensors, dict) else tensors == "broken_weights"


def test_long_names_stay_short_in_messages():
    long = "x" * 4_000
    for name in (long, f"{long}.lora_A.weight", f"{'a.' * 2_000}lora_B.weight"):
        entry = {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}
        assert judge(json.dumps(CONFIG).encode(), tensors_of({name: entry}))
        assert tensors_of({name: {}}) == "broken_weights"
        judge(json.dumps(CONFIG | {"base_model_name_or_path": name}).encode(), tensors_of(HEADER))
        judge(json.dumps(CONFIG | {name: name, "rank_pattern": {name: 2}}).encode(), tensors_of(HEADER))


files = st.lists(
    st.fixed_dictionaries({"rfilename": texts | st.sampled_from(["adapter_config.json", "adapter_model.safetensors"])})
    | anything
)
cards = st.dictionaries(
    st.sampled_from(["license", "license_name", "license_link", "datasets", "model_name", "base_model", "tags"])
    | texts,
    st.sampled_from(["mit", "other", "cc-by-nc-4.0", ["mit"], ["gsm8k", None]]) | anything,
    max_size=5,
)
items = st.fixed_dictionaries(
    {"id": st.just("a/b") | texts | anything, "sha": st.just("0" * 40) | anything, "siblings": files | anything},
    optional={
        "cardData": cards | anything,
        "tags": st.lists(texts | anything, max_size=5) | anything,
        "downloads": anything,
        "lastModified": anything,
        "disabled": anything,
    },
)


@fuzzed
@given(items | anything, st.booleans())
def test_any_item_of_a_list_gets_a_verdict(item, leave_out):
    item = json.loads(json.dumps(item))
    read = read_item(item)
    assert read.repo_id.isprintable() and read.text.isprintable() and len(read.text) <= 500
    assert len(json.dumps(to_dict(read))) < 200_000
    try:
        check_listed(read, DiscoverOptions(leave_task_out=leave_out), ["openai/gsm8k"])
    except AdapterError as error:
        assert error.reason and len(str(error)) < 1_000


def test_an_item_of_megabytes_is_kept_short():
    text, many = "x" * 10**6, [{"rfilename": f"{number}/adapter_config.json"} for number in range(10_000)]
    item = {"id": text, "sha": text, "siblings": many, "tags": [text] * 100, "lastModified": text,
            "cardData": {"license": text, "datasets": [text] * 1_000, "model_name": text}}  # fmt: skip
    with at_most(2**23):
        read = read_item(item)
    assert read.files == ()
    assert len(json.dumps(to_dict(read))) < 100_000
