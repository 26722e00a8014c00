"""A small hub for the fault matrix: what is planted, what can go wrong, and each call that can meet it."""

import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import HfApi, constants
from safetensors.numpy import save_file

from rocket_hub.discovery import crawl as crawling
from rocket_hub.discovery import discover_adapters, download
from rocket_hub.discovery.hub import client as hub_calls
from rocket_hub.discovery.hub.client import reason_of
from rocket_hub.errors import HubError, RocketError
from rocket_hub.localhub import Fault, LocalHub, User
from rocket_hub.options import DiscoverOptions
from tests.helping import table

BASE, COPY, WIDE = "matrix/base", "matrix/base-again", 160
WEIGHTS = "adapter_model.safetensors"
Q_PROJ = "model.layers.{}.self_attn.q_proj"
PEFT = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4}
CARD = f"---\nbase_model: {BASE}\nlibrary_name: peft\n---\n"
USABLE = {f"zoo/{name}": "usable" for name in ("plain", "large", "twin", "other")}
DUE = USABLE | {"zoo/wrong": "wrong_base"}
SECONDS = 0.08
"""After which an answer is given up here; the fault `stall` lasts twice as long."""

# Which request each call of discovery sends; and, if it fails for good, which adapter alone is rejected.
CALLS = {
    "list": (r"GET /api/models\?(?!.*cursor)", None),
    "next page": (r"GET /api/models\?.*cursor", None),
    "base record": (r"GET /api/models/matrix/base\?", None),
    "base config": (r"GET /matrix/base/resolve/.*/config\.json", None),
    "base header": (r"GET /matrix/base/resolve/.*safetensors", None),
    "copy record": (r"GET /api/models/matrix/base-again\?", "zoo/twin"),
    "copy config": (r"GET /matrix/base-again/resolve/.*/config\.json", "zoo/twin"),
    "copy header": (r"GET /matrix/base-again/resolve/.*safetensors", "zoo/twin"),
    "adapter config": (r"GET /zoo/plain/resolve/.*adapter_config", "zoo/plain"),
    "adapter header": (r"GET /zoo/plain/resolve/.*safetensors", "zoo/plain"),
    "large header": (r"GET /zoo/large/resolve/.*safetensors", "zoo/large"),
}
DOWNLOADS = {
    "paths-info": r"POST /api/models/zoo/plain/paths-info",
    "head": r"HEAD /zoo/plain/resolve/.*safetensors",
    "weights": r"GET /zoo/plain/resolve/.*safetensors",
}
FAULTS = {name: told for name, told, _ in table("discovery/matrix_faults.jsonl")}
# Of faults that are much the same for good, one is enough; refusals are the same once and for good.
FOR_GOOD = [name for name, _, lasting in table("discovery/matrix_faults.jsonl") if lasting]


def plant(folder, rank=2, base=BASE, seed=0):
    """Write one adapter of both layers."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | {"r": rank, "base_model_name_or_path": base}))
    (folder / "README.md").write_text(CARD)
    shapes = {"lora_A": (rank, WIDE), "lora_B": (WIDE, rank)}
    tensors = {
        f"base_model.model.{Q_PROJ.format(layer)}.{part}.weight": np.full(shape, seed, "f4")
        for layer in range(2)
        for part, shape in shapes.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")


def plant_all(root):
    """Write a base, a copy of it that was saved again, and five adapters; returns repository id -> folder."""
    for number, name in enumerate((BASE, COPY)):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps({"num_hidden_layers": 2, "transformers_version": number}))
        (root / name / "tokenizer.json").write_text("{}")
        weights = {f"{Q_PROJ.format(layer)}.weight": np.zeros((WIDE, WIDE), "f4") for layer in range(2)}
        save_file(weights, root / name / "model.safetensors", {"number": str(number)})
    plant(root / "zoo/plain", seed=1)
    plant(root / "zoo/large", seed=2, rank=64)
    plant(root / "zoo/twin", seed=3, base=COPY)
    plant(root / "zoo/other", seed=4)
    plant(root / "zoo/wrong", seed=5, base="someone/else")
    return {name: root / name for name in (BASE, COPY, *DUE)}


def forget(patch, folder):
    """Begin with an empty cache."""
    patch.setattr(constants, "HF_HOME", str(folder))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A hub, the same content at another origin, the clean result, and the request of each call."""
    root, tokens = tmp_path_factory.mktemp("matrix"), {"hf_guest": User("guest")}
    repositories = plant_all(root / "repositories")
    with LocalHub(root / "hub", tokens=tokens, page=3) as hub, LocalHub(root / "other", tokens={}, page=3) as other:
        for name, folder in repositories.items():
            for one in (hub, other):
                one.import_folder("model", name, folder)
        api = HfApi(endpoint=hub.url, token="hf_guest")
        revision = api.model_info("zoo/plain").sha
        world = SimpleNamespace(hub=hub, other=other, api=api, weights=("zoo/plain", revision, WEIGHTS))
        with pytest.MonkeyPatch.context() as patch:
            forget(patch, root / "first")
            assert crawl(world) == DUE
            load(world)
        world.lines = [f"{record.method} {record.path}" for record in hub.log]
        yield world


@pytest.fixture
def anew(world, tmp_path, monkeypatch):
    """Nothing is remembered, and a second of waiting lasts a millisecond."""
    clock = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 1000), time=time.time)
    forget(monkeypatch, tmp_path)
    monkeypatch.setattr(hub_calls, "time", clock)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    monkeypatch.setattr(hub_calls, "PACER", hub_calls.Pacer(lambda: time.monotonic() * 1000, clock.sleep))
    monkeypatch.setattr(crawling, "REFUSED_FOR", 0.0)
    for one in (world.hub, world.other):
        one.faults.clear()
        one.log.clear()
    yield world
    world.hub.faults.clear()
    world.other.faults.clear()


def crawl(world, **hooks):
    """Discover; returns repository id -> verdict."""
    found = discover_adapters(world.api, BASE, options=DiscoverOptions(workers=2), **hooks)
    return {item.repo_id: "usable" for item in found.selected} | {item.item: item.reason for item in found.rejected}


def load(world):
    """Download the weights of one adapter."""
    return download(world.api, *world.weights, max_bytes=10**6).read_bytes() != b""


def inject(world, call, fault, times):
    """Let a fault happen; a redirect leads to the same content at another origin, or to a closed door there."""
    pattern, told = (CALLS.get(call) or (DOWNLOADS[call],))[0], dict(FAULTS[fault])
    if "elsewhere" in fault:
        line = next(line for line in world.lines if re.search(pattern, line))
        told["headers"] = {"Location": world.other.url + line.partition(" ")[2]}
        pattern = re.escape(line)
    if fault == "refused elsewhere":
        world.other.faults.append(Fault("", "status", times=-1, status=403))
    world.hub.faults.append(fault(pattern, times=times, **told))


def outcome(function, *args, **kwargs):
    """Return what a function returns, or the error of ours that it raises."""
    try:
        return function(*args, **kwargs)
    except RocketError as error:
        return f"{type(error).__name__} {reason_of(error) if isinstance(error, HubError) else ''}".strip()
