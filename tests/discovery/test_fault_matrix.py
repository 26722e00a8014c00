"""Every call that discovery makes x everything that can go wrong with it: the right result, or a named error.

After each fault the same is done once more without one: nothing that was half read is trusted then.
"""

import json
import logging
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import HfApi, constants, get_session
from safetensors.numpy import save

from rocket_hub.discovery import crawl as crawling
from rocket_hub.discovery import discover_adapters, download
from rocket_hub.discovery.hub import answers
from rocket_hub.discovery.hub import client as hub_calls
from rocket_hub.discovery.hub import download as downloads
from rocket_hub.discovery.hub.client import reason_of
from rocket_hub.errors import HubError, RocketError
from rocket_hub.localhub import Fault, LocalHub, User
from rocket_hub.options import DiscoverOptions
from tests import helping
from tests.helping import put, table

# A small hub: what is planted, what can go wrong, and each call that can meet it ---------------------------------

BASE, COPY, WIDE = "matrix/base", "matrix/base-again", 160
WEIGHTS = "adapter_model.safetensors"
Q_PROJ = "model.layers.{}.self_attn.q_proj"
PEFT = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4}
CARD = f"base_model: {BASE}\nlibrary_name: peft\n"
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


def adapter(seed, rank=2, base=BASE):
    """The files of an adapter of both layers."""
    shapes = {"lora_A": (rank, WIDE), "lora_B": (WIDE, rank)}
    tensors = {
        f"base_model.model.{Q_PROJ.format(layer)}.{part}.weight": np.full(shape, seed, "f4")
        for layer in range(2)
        for part, shape in shapes.items()
    }
    return {
        "adapter_config.json": json.dumps(PEFT | {"r": rank, "base_model_name_or_path": base}),
        WEIGHTS: save(tensors),
    }


def fill(hub):
    """Put a base, a copy of it that was saved again, and five adapters into a hub."""
    weights = {f"{Q_PROJ.format(layer)}.weight": np.zeros((WIDE, WIDE), "f4") for layer in range(2)}
    for number, name in enumerate((BASE, COPY)):
        config = json.dumps({"num_hidden_layers": 2, "transformers_version": number})
        files = {"tokenizer.json": "{}", "model.safetensors": save(weights, {"number": str(number)})}
        put(hub, "model", name, {"config.json": config, **files})
    made = {"plain": adapter(1), "large": adapter(2, rank=64), "twin": adapter(3, base=COPY), "other": adapter(4)}
    for name, files in {**made, "wrong": adapter(5, base="someone/else")}.items():
        put(hub, "model", f"zoo/{name}", files, CARD)


def forget(patch, folder):
    """Begin with an empty cache."""
    patch.setattr(constants, "HF_HOME", str(folder))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A hub, the same content at another origin, the clean result, and the request of each call."""
    root, tokens = tmp_path_factory.mktemp("matrix"), {"hf_guest": User("guest")}
    with LocalHub(root / "hub", tokens=tokens, page=3) as hub, LocalHub(root / "other", tokens={}, page=3) as other:
        fill(hub)
        fill(other)
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
    world.hub.faults.append(helping.fault(pattern, times=times, **told))


def outcome(function, *args, **kwargs):
    """Return what a function returns, or the error of ours that it raises."""
    try:
        return function(*args, **kwargs)
    except RocketError as error:
        return f"{type(error).__name__} {reason_of(error) if isinstance(error, HubError) else ''}".strip()


# What is due -----------------------------------------------------------------------------------------------------

GONE = ("private", "deleted", "revision gone", "file gone")
REFUSED = {"gated": "gated", "refused elsewhere": "hub_error", **dict.fromkeys(GONE, "not_found")}
"""By what it is called; not tried again."""
LASTING = REFUSED | {
    **dict.fromkeys(("429 with Retry-After", "429 with RateLimit", "429"), "rate_limited"),
    **dict.fromkeys(("500", "503"), "hub_error"),
    **dict.fromkeys(("reset", "reset in the body", "truncated", "stall"), "unreachable"),
    **dict.fromkeys(("corrupt", "wrong ETag", "short part", "no length", "a web page", "another JSON"), "damaged"),
}
"""What is in neither table does no harm."""
API = ("list", "next page", "base record", "copy record", "paths-info")
PARTS = ("base header", "copy header", "large header")
"""Too large to be checked against a hash."""


def fault_of(call, fault, times):
    """Name the fault that is due, as `reason_of` does; empty if there is none, `content` if the file is to blame."""
    if fault in ("a web page", "another JSON") and call not in API:  # they come with status 200, and no hash
        return "content" if times < 0 or call.endswith("config") else ""
    if (fault == "wrong ETag" and call in (*API, *PARTS)) or (
        fault == "another JSON" and call in ("list", "next page")
    ):
        return ""
    if fault == "corrupt" and call in PARTS:
        return "content" if times < 0 else ""
    return (LASTING if times < 0 else REFUSED).get(fault, "")


def error_due(reason):
    """Name the error of ours for a fault."""
    if reason == "content":
        return "InputError"
    return f"{'HubUnreachableError' if reason == 'unreachable' else 'HubError'} {reason}"


def due(call, fault, times):
    """Return the verdicts that are due, or the error."""
    reason, hit = fault_of(call, fault, times), CALLS[call][1]
    if not reason:
        more = {"7": "bad_name", "'x'": "bad_name"} if fault == "another JSON" and call in ("list", "next page") else {}
        return DUE | more
    if not hit or (call.startswith("copy") and reason == "unreachable"):
        return error_due(reason)
    if call.startswith("copy"):
        return DUE | {hit: "wrong_base"}  # nothing was proven
    broken = "broken_config" if call == "adapter config" else "broken_weights"
    return DUE | {hit: broken if reason == "content" else reason}


HEAD = ("short part", "no length", "no commit", "elsewhere", "refused elsewhere", "a web page", "another JSON")
"""Then the client does not know which commit it would get."""
HEAD_LASTING = ("429 with Retry-After", "429 with RateLimit", "429", "500", "503", "reset", "wrong length")


def error_of_a_download(call, fault, times):
    """Name the error that is due for a download; empty if there is none."""
    if call == "head" and fault not in ("gated", *GONE):
        return "unreachable" if fault in HEAD or (fault in HEAD_LASTING and times < 0) else ""
    if call == "weights" and fault in ("short part", "a web page", "another JSON"):
        return "unreachable" if times < 0 else ""  # not as long as it was said to be
    if (call, fault) == ("weights", "no length"):
        return "hub_error"
    if fault == "wrong ETag" or (call, fault, times) == ("paths-info", "elsewhere", 1):
        return "not_found" if fault == "elsewhere" else ""  # a redirected POST is a GET
    return (LASTING if times < 0 else REFUSED).get(fault, "")


# The matrix ------------------------------------------------------------------------------------------------------

CASES = [(fault, 1) for fault in FAULTS] + [(fault, -1) for fault in FOR_GOOD]


def set_timeouts(fault, monkeypatch):
    """Let a stall be given up soon."""
    if fault == "stall":
        for module, name in ((downloads, "TIMEOUT"), (answers, "TIMEOUT"), (constants, "HF_HUB_DOWNLOAD_TIMEOUT"),
                             (constants, "HF_HUB_ETAG_TIMEOUT")):  # fmt: skip
            monkeypatch.setattr(module, name, SECONDS)


def with_fault(place, call, fault, times, run):
    """Return the outcome with a fault, and that without it afterwards."""
    inject(place, call, fault, times)
    first = outcome(run, place)
    assert place.hub.faults[0].times != times or times < 0, "the fault hit nothing"
    place.hub.faults.clear()
    place.other.faults.clear()
    return first, outcome(run, place)


@pytest.mark.parametrize(("fault", "times"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("call", CALLS)
def test_a_crawl_ends_well_or_with_a_name(anew, monkeypatch, call, fault, times):
    set_timeouts(fault, monkeypatch)
    first, again = with_fault(anew, call, fault, times, crawl)
    assert first == due(call, fault, times)
    if (fault, times) == ("corrupt", -1) and call in PARTS:
        return  # told twice, and cannot be checked: believed
    assert again == DUE


@pytest.mark.parametrize(("fault", "times"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("call", DOWNLOADS)
def test_a_download_ends_well_or_with_a_name(anew, monkeypatch, call, fault, times):
    set_timeouts(fault, monkeypatch)
    first, again = with_fault(anew, call, fault, times, load)
    reason = error_of_a_download(call, fault, times)
    assert (first, again) == (error_due(reason) if reason else True, True)


# What happens between two requests, and over pages ---------------------------------------------------------------


@pytest.mark.parametrize(("setting", "value", "reason"), [("gated", "manual", "gated"), ("private", True, "not_found")])
def test_a_door_that_closes_after_the_list(anew, setting, value, reason):
    def close(_):
        with anew.hub.store.change("model", "zoo/plain") as repository:
            repository.settings[setting] = value

    try:
        assert crawl(anew, planned=close) == DUE | {"zoo/plain": reason}
    finally:
        with anew.hub.store.change("model", "zoo/plain") as repository:
            repository.settings[setting] = False
    assert crawl(anew) == DUE


def test_an_adapter_that_is_deleted_after_the_list(anew):
    store = anew.hub.store
    put(anew.hub, "model", "zoo/short-lived", adapter(9), CARD)
    found = crawl(anew, planned=lambda _: store.delete(store.find("model", "zoo/short-lived")))
    assert found == DUE | {"zoo/short-lived": "not_found"}
    assert crawl(anew) == DUE


def listed(place, **change):
    """Return what the hub lists, all on one page, each item changed."""
    path = "/api/models?filter=base_model:matrix/base&filter=peft&sort=createdAt&expand=sha&expand=siblings&expand="
    first = get_session().get(f"{place.hub.url}{path}cardData")
    second = get_session().get(first.links["next"]["url"])
    return json.dumps([item | change for item in (*first.json(), *second.json())]).encode()


def test_lists_with_doubles_empty_pages_and_broken_cards(anew):
    next_page = re.compile("GET (/api/models.*cursor.*)")
    link = next(found[1] for line in anew.lines if (found := next_page.fullmatch(line)))
    onward = {"Link": f'<{anew.hub.url}{link}>; rel="next"'}
    whole, unread = listed(anew), listed(anew, cardData="{not: [yaml", tags=None, downloads="many")
    for body in (whole, b"[]", unread):  # each is followed by the true second page
        anew.hub.faults[:] = [Fault(r"GET /api/models\?(?!.*cursor)", "status", status=200, body=body, headers=onward)]
        assert crawl(anew) == DUE
        assert anew.hub.faults[0].times == 0


# The token -------------------------------------------------------------------------------------------------------


def test_the_token_stays_with_the_hub(anew, tmp_path, monkeypatch, caplog):
    """No other origin gets it, and no message, log or file has it."""
    secret, texts = "hf_guest", []
    for name in ("huggingface_hub", "rocket_hub"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.DEBUG, name)
    for call in (*CALLS, *DOWNLOADS):
        for fault in ("elsewhere", "gated", "a web page"):
            forget(monkeypatch, tmp_path / f"{call} {fault}")
            inject(anew, call, fault, -1)
            try:
                run = load if call in DOWNLOADS else crawl
                run(anew)
            except RocketError as error:
                texts += [str(error), str(error.__cause__)]
            anew.hub.faults.clear()
            anew.other.faults.clear()
    assert len(anew.other.log) > 20 and not any(record.auth for record in anew.other.log)
    assert any(record.auth for record in anew.hub.log)
    assert len(texts) > 20 and secret not in " ".join(texts)
    assert caplog.records and not [record for record in caplog.records if secret in record.getMessage()]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 20 and not [path for path in kept if secret.encode() in path.read_bytes()]
