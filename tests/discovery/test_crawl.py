"""A crawl when things go wrong around it: offline, an outage, Ctrl-C, a cache that went bad."""

import os
import signal
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants

from rocket_hub.discovery import discover_adapters, plan_adapters
from rocket_hub.discovery.hub import answers
from rocket_hub.errors import HubError, HubUnreachableError
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions

BASE = "base/tiny"


def crawl(api, **options):
    return discover_adapters(api, BASE, options=DiscoverOptions(**options))


def test_offline_a_crawl_works_from_what_was_read(hub, api, planted, monkeypatch):
    before = crawl(api)
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = crawl(api)
    assert (offline.base, offline.selected, offline.rejected[:3]) == (before.base, before.selected, before.rejected[:3])
    assert offline.note.startswith("offline (HF_HUB_OFFLINE): the list of adapters is that of 20")
    assert hub.log == [] and before.note == ""


def test_offline_what_was_not_read_is_said(hub, api, planted, monkeypatch):
    plan_adapters(api, BASE, options=DiscoverOptions())  # only the list
    crawl(api, max_adapters=1)  # all configurations, and a few headers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = crawl(api)
    missing = {rejection.item for rejection in found.rejected if rejection.reason == "not_cached"}
    assert missing and missing < set(planted)
    assert found.selected


def test_offline_without_anything_is_unreachable(api, planted, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match=r"base/tiny: not in the cache, and the Hub cannot be asked"):
        crawl(api)


def test_an_outage_is_no_verdict(hub, api, planted):
    hub.faults.append(Fault("adapter_config", "status", times=-1, status=503, headers={"Retry-After": "0"}))
    with pytest.raises(HubError, match="failed with status 503"):
        crawl(api)
    hub.faults[:] = [Fault("adapter_config", "reset", times=-1)]
    with pytest.raises(HubUnreachableError):
        crawl(api)
    hub.faults.clear()
    reasons = {rejection.item: rejection.reason for rejection in crawl(api).rejected}
    assert reasons == {name: reason for name, reason in planted.items() if reason}


def test_a_ban_is_not_argued_with(hub, api, planted):
    hub.faults.append(Fault("adapter_config", "status", times=-1, status=429, headers={"Retry-After": "86400"}))
    with pytest.raises(HubError, match="limits the rate"):
        crawl(api)
    assert sum(record.status == 429 for record in hub.log) < 30


def test_a_single_dead_adapter_does_not_stop_a_crawl(hub, api, planted):
    hub.faults.append(Fault("zoo/plain/resolve", "reset", times=-1))
    hub.faults.append(Fault("zoo/rslora/resolve", "status", times=-1, status=429, headers={"Retry-After": "86400"}))
    reasons = {rejection.item: rejection.reason for rejection in crawl(api).rejected}
    assert (reasons["zoo/plain"], reasons["zoo/rslora"]) == ("unreachable", "rate_limited")
    hub.faults.clear()
    assert {"zoo/plain", "zoo/rslora"} <= {item.repo_id for item in crawl(api).selected}


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"~", lambda _: b""])
def test_a_spoiled_cache_is_read_again(hub, api, planted, spoil):
    before = crawl(api)
    for path in answers.folder().rglob("*"):
        if path.is_file():
            path.write_bytes(spoil(path.read_bytes()))
    assert crawl(api) == before


def test_a_closed_door_is_not_knocked_at_again_at_once(hub, api, planted, monkeypatch):
    def gated():
        return next(item for item in crawl(api).rejected if item.item == "zoo/gated").detail

    assert "ask for access at" in gated()
    hub.log.clear()
    assert "ask for access at" in (told := gated()) and "asked again after 60" in told
    assert not any("zoo/gated" in record.path for record in hub.log)
    monkeypatch.setattr("rocket_hub.discovery.crawl.REFUSED_FOR", 0.0)
    gated()
    assert any("zoo/gated" in record.path for record in hub.log)


SCRIPT = """
import sys
from huggingface_hub import HfApi
from rocket_hub.discovery import discover_adapters
from rocket_hub.options import DiscoverOptions
api = HfApi(endpoint=sys.argv[1], token="hf_guest")
found = discover_adapters(api, "base/tiny", options=DiscoverOptions(workers=2), verdict=lambda *_: print(flush=True))
print(len(found.selected))
"""


def test_ctrl_c_ends_it_at_once_and_loses_nothing(hub, api, planted, tmp_path):
    command = [sys.executable, "-c", SCRIPT, hub.url]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    hub.faults.append(Fault("zoo/.*adapter_config", "delay", times=12))
    hub.faults.append(Fault("zoo/.*adapter_config", "delay", times=2, seconds=20))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while hub.faults[1].times and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)  # until both threads wait for the Hub
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode != 0 and "KeyboardInterrupt" in error
    read = sum("adapter_config" in record.path and record.status == 200 for record in hub.log)
    assert read >= 10
    hub.log.clear()
    hub.faults.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) == sum(not reason for reason in planted.values())
    again = sum("adapter_config" in record.path for record in hub.log)
    assert again <= len(planted) - 10
