"""The list pass: paging, what lists may hold, and what of it is believed."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub import HfApi, constants

from rocket_hub.discovery.hub import client as hub_calls
from rocket_hub.discovery.hub.answers import pages
from rocket_hub.discovery.listing import DATASET_EXPAND, Listed, check_listed, list_adapters, named_dataset, read_item
from rocket_hub.errors import AdapterError, HubError
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions
from tests.helping import table

BASE = "base/tiny"
SHA = "0123456789" * 4
GOOD = Listed("a/b", SHA, ("adapter_config.json", "adapter_model.safetensors"))


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """A server that answers with one scripted (body, Link) after the other, and notes what it was asked."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(hub_calls, "BACK_OFF", 0.01)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append((self.path, self.headers.get("Authorization")))
            body, link = self.server.script[min(len(self.server.asked), len(self.server.script)) - 1]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if link:
                self.send_header("Link", f'<{link}>; rel="next"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.script = [], []
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    server.api = HfApi(endpoint=f"http://127.0.0.1:{server.server_address[1]}", token="hf_secret")
    yield server
    server.shutdown()
    server.server_close()


def listed(server):
    return [item for page in pages(server.api, "x", "/api/models", [("filter", "a")]) for item in page]


def test_pages_are_followed_over_an_empty_one(scripted):
    scripted.script = [(b"[1]", "/api/models?cursor=1"), (b"[]", "/api/models?cursor=2"), (b"[2]", None)]
    assert listed(scripted) == [1, 2]
    assert [path for path, _ in scripted.asked] == [
        "/api/models?filter=a", "/api/models?cursor=1", "/api/models?cursor=2",
    ]  # fmt: skip


def test_a_link_to_elsewhere_gets_no_token_and_is_not_followed_there(scripted):
    scripted.script = [(b"[1]", "https://elsewhere.example/api/models?cursor=1"), (b"[2]", None)]
    assert listed(scripted) == [1, 2]
    assert scripted.asked[1] == ("/api/models?cursor=1", "Bearer hf_secret")  # the same Hub


def test_pages_that_lead_in_a_circle_end(scripted):
    scripted.script = [(b"[1]", "/api/models?cursor=1")] * 2
    assert listed(scripted) == [1, 1]


@pytest.mark.parametrize("body", [b"{", b"{}", b"<html>", b"null", b"[" * 200_000, b"\xff"])
def test_a_page_that_is_no_list_is_asked_for_again_and_then_named(scripted, body):
    scripted.script = [(body, None), (b"[1]", None)]
    assert listed(scripted) == [1]
    scripted.script, scripted.asked = [(body, None)], []
    with pytest.raises(HubError, match="x: the answer is "):
        listed(scripted)
    assert len(scripted.asked) == 4


def test_a_huge_page_is_not_read(scripted, monkeypatch):
    monkeypatch.setattr("rocket_hub.discovery.hub.answers.MAX_ANSWER", 100)
    scripted.script = [(json.dumps(["x" * 100]).encode(), None)]
    with pytest.raises(HubError, match="more than 100 bytes"):
        listed(scripted)


def test_one_adapter_under_several_tags_and_pages_is_listed_once(scripted):
    item = {"id": "a/b", "sha": SHA, "siblings": [{"rfilename": "adapter_config.json"}], "downloads": 7}
    other = item | {"downloads": 8}
    scripted.script = [(json.dumps([item, other]).encode(), None)]
    found, date = list_adapters(scripted.api, [BASE], 1)
    assert found == (Listed("a/b", SHA, ("adapter_config.json",), downloads=7, text="b"),)
    assert date == 0
    assert len(scripted.asked) == 3


def test_faults_in_the_middle_of_a_list_are_survived(hub, api, planted):
    whole, _ = list_adapters(api, [BASE], 2)
    hub.faults += [
        Fault("GET /api/models", "status", status=503, headers={"Retry-After": "0"}),
        Fault("GET /api/models", "reset"),
        Fault("GET /api/models", "truncate", after=500),
        Fault("GET /api/models", "reset", after=500),
        Fault("GET /api/models", "corrupt"),
    ]
    assert list_adapters(api, [BASE], 3) == (whole, 0)
    assert all(fault.times == 0 for fault in hub.faults)


@pytest.mark.parametrize(("change", "reason"), table("discovery/listed_faults.jsonl"))
def test_what_the_list_alone_decides(change, reason):
    options, closed = DiscoverOptions(leave_task_out=True), ["openai/gsm8k"]
    assert check_listed(GOOD, options, closed) == ()
    with pytest.raises(AdapterError) as caught:
        check_listed(Listed(**{**GOOD.__dict__, **change}), options, closed)
    assert caught.value.reason == reason


def test_a_named_data_set_is_asked_for_as_in_a_list(scripted):
    item = {"id": "a/b", "sha": SHA, "description": "Sums.", "mainSize": 7, "gated": "auto"}
    scripted.script = [(json.dumps(item).encode(), None)]
    found = named_dataset(scripted.api, "a/b")
    assert (found.text, found.size, found.gated) == ("b; Sums.", 7, True)
    assert set(scripted.asked[0][0].partition("?")[2].split("&")) == {f"expand={field}" for field in DATASET_EXPAND}


def test_somebody_elses_data_set_of_the_same_name_is_another_one():
    item = Listed(**{**GOOD.__dict__, "datasets": ("someone/gsm8k",)})
    assert check_listed(item, DiscoverOptions(), ["openai/gsm8k"]) == ()


def test_what_an_adapter_is_about_comes_from_its_card():
    item = {"id": "me/math-lora_v2", "tags": ["peft", "math", "base_model:x/y", "math"],
            "cardData": {"datasets": "gsm8k", "model_name": "Maths\x1b[31m expert"}}  # fmt: skip
    assert read_item(item).text == "math lora v2; Maths?[31m expert; math; gsm8k"
