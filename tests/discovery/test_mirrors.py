"""Copies of a base model: accepted when they are proven to be copies, whatever they are called."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from rocket_hub.discovery import discover_adapters
from rocket_hub.discovery.bases import known_copies
from rocket_hub.errors import HubUnreachableError
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions
from tests.helping import put, table

from .conftest import changed

BASE = "twin/model"


def pack(weights):
    """Write weights the way bitsandbytes does: two numbers a byte, and beside them what is needed to unpack them."""
    packed = {}
    for name, weight in weights.items():
        if "proj" not in name:
            packed[name] = weight
            continue
        packed[name] = np.zeros((weight.size // 2, 1), np.uint8)
        packed |= {f"{name}.absmax": np.ones(4, "f4"), f"{name}.quant_state.bitsandbytes__nf4": np.ones(4, np.uint8)}
    return packed


@pytest.fixture(scope="module")
def copies(hub, tiny_model, lora_bank):
    """Plant a base, copies and would-be copies of it, and one adapter for each; returns the reason that is due."""
    weights = load_file(tiny_model / "model.safetensors")
    norm = "model.norm.weight"
    planted = {
        # name of the copy -> (change of config.json, its weights, its tokenizer, settings)
        "same/model": ({}, None, None, {}),
        "closed/model": ({}, None, None, {"gated": "manual"}),
        "resaved/model": ({"transformers_version": "0", "unsloth_fixed": True}, weights, None, {}),
        "packed/model-bnb-4bit": ({"quantization_config": {"bits": 4}}, pack(weights), None, {}),
        "words/model": ({}, None, b"{}", {}),
        "turned/model": ({"rms_norm_eps": 0.5}, None, None, {}),
        "more/model": ({"x": 1}, weights | {"model.extra.weight": np.ones(3, "f4")}, None, {}),
        "less/model": ({"x": 2}, {name: weights[name] for name in weights if name != norm}, None, {}),
        "wide/model": ({"x": 3}, weights | {norm: np.ones(17, "f4")}, None, {}),
        "badly/model-bnb-4bit": ({"quantization_config": {"bits": 4}},
                                 pack(weights) | {norm: np.ones(9, "f4")}, None, {}),
    }  # fmt: skip
    due = {name: "wrong_base" for name in (*planted, "gone/model", "other/name")}
    due |= dict.fromkeys(["same/model", "closed/model", "resaved/model", "packed/model-bnb-4bit"], "")
    own = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    put(hub, "model", BASE, own)
    for name, (change, tensors, tokenizer, settings) in planted.items():
        files = {"config.json": json.dumps(json.loads(own["config.json"]) | change)} if change else {}
        files |= {"model.safetensors": save(tensors, {"format": "np", "name": name})} if tensors else {}
        put(hub, "model", name, own | files | ({"tokenizer.json": tokenizer} if tokenizer else {}), **settings)
    for number, name in enumerate(due):
        adapter = changed(lora_bank[0], {"name": name, "config": {"base_model_name_or_path": name}})
        tagged = BASE if number % 2 else name  # half of them are only found under the copy's own name
        put(hub, "model", f"on/{name.replace('/', '-')}", adapter, f"base_model: {tagged}\nlibrary_name: peft\n")
    return {f"on/{name.replace('/', '-')}": (name, reason) for name, reason in due.items()}


def crawl(api, copies):
    return discover_adapters(api, BASE, options=DiscoverOptions(mirrors=tuple(name for name, _ in copies.values())))


def test_only_what_is_proven_to_be_a_copy_counts(api, copies):
    found = crawl(api, copies)
    verdicts = {rejection.item: rejection.reason for rejection in found.rejected}
    verdicts |= {item.repo_id: "" for item in found.selected}
    assert verdicts == {item: reason for item, (_, reason) in copies.items()}
    flags = {item.repo_id: item.flags for item in found.selected}
    assert flags.pop("on/packed-model-bnb-4bit") == ("mirror_base", "quantized_base")
    assert set(flags.values()) == {("mirror_base",)}


def test_the_reason_says_what_differs(api, copies):
    details = {rejection.item: rejection.detail for rejection in crawl(api, copies).rejected}
    for name, text in {
        "words-model": "its tokenizer.json is another one than that of twin/model",
        "turned-model": "its config.json has rms_norm_eps 0.5, the base has 1e-06",
        "more-model": "model.extra.weight, which the base has not",
        "less-model": "no such tensor for model.norm.weight",
        "wide-model": "shape [17] for model.norm.weight, the base has [16]",
        "badly-model-bnb-4bit": "shape [9] for model.norm.weight",
        "gone-model": "not found on the Hub",
    }.items():
        assert f"made for '{copies[f'on/{name}'][0]}', not for twin/model (" in details[f"on/{name}"]
        assert text in details[f"on/{name}"]


def test_equal_hashes_are_proof_without_reading_a_file(hub, api, copies):
    crawl(api, copies)
    read = {record.path.split("/resolve/")[0][1:] for record in hub.log if "/resolve/" in record.path}
    assert not {"same/model", "closed/model", "words/model"} & read
    assert {"resaved/model", "packed/model-bnb-4bit"} <= read


def test_only_names_that_are_alike_are_asked_about(hub, api, copies):
    discover_adapters(api, BASE, options=DiscoverOptions())
    asked = {record.path.removeprefix("/api/models/").partition("?")[0] for record in hub.log if "blobs" in record.path}
    assert "closed/model" in asked
    assert "other/name" not in asked


def test_a_base_that_was_renamed_is_the_same(hub, api, copies, lora_bank):
    """The Hub leads from the old name to the new one; adapters go on naming the old one."""
    moved = Fault(r"GET /api/models/twin/old-name\?", "status", times=-1, status=307,
                  headers={"Location": f"/api/models/{BASE}?blobs=true"})  # fmt: skip
    hub.faults.append(moved)
    adapter = changed(lora_bank[0], {"name": "moved", "config": {"base_model_name_or_path": "twin/old-name"}})
    put(hub, "model", "on/the-old-name", adapter, "base_model: twin/old-name\n")
    for base in ("twin/old-name", BASE):
        found = discover_adapters(api, base, options=DiscoverOptions(mirrors=("twin/old-name",)))
        assert found.base.repo_id == BASE
        assert {item.repo_id: item.flags for item in found.selected}["on/the-old-name"] == ()
    with hub.store.change("model", "on/the-old-name") as repository:
        repository.settings["private"] = True


def test_an_outage_proves_nothing(hub, api, copies):
    hub.faults.append(Fault(r"GET /api/models/same/model\?", "reset", times=-1))
    with pytest.raises(HubUnreachableError, match="same/model"):
        crawl(api, copies)


@pytest.mark.parametrize(("base", "some"), table("discovery/popular_copies.jsonl"))
def test_copies_of_popular_models_are_known(base, some):
    assert set(some) <= set(known_copies(base))
    assert base not in known_copies(base)
    assert len(known_copies(base)) <= 10


def test_nothing_is_known_of_others():
    assert known_copies("rocket-demo/tiny-llama") == known_copies("gpt2") == ()
