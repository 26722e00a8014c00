"""What a stock huggingface_hub sees of the hub; the client runs once, in its own process."""

import os
from typing import Any, NamedTuple

import pytest

from rocket_hub.localhub import LocalHub, User
from tests.helping import lines, put, table

from .conftest import LOCAL, ask, check, name_of, run_client, write_adapter


class World(NamedTuple):
    """The results of the client, and the hub it talked to."""

    results: dict[str, Any]
    hub: LocalHub

    def requests(self, name):
        """The requests between two marks in the hub's log."""
        paths = [record.path for record in self.hub.log]
        lines = [f"{record.method} {record.path}" for record in self.hub.log]
        return lines[paths.index(f"/api/telemetry/{name}") + 1 : paths.index(f"/api/telemetry/{name}-end")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub-client")
    tokens = {"hf_local": User("local"), "hf_owner": User("owner", orgs=("secret",))}
    with LocalHub(folder / "store", tokens=tokens, page=10) as hub:
        fill(hub, folder)
        results = run_client("hub_client.py", folder / "home", str(folder), HF_ENDPOINT=hub.url, **LOCAL)
        yield World(results, hub)


def fill(hub, folder):
    """Put everything in the hub that the client looks for."""
    adapter = write_adapter(folder / "adapter")
    for number in range(25):
        hub.import_folder("model", f"acme/lora-{number:02}", adapter, downloads=number)
    hub.import_folder("model", "acme/gated", adapter, gated="auto")
    hub.import_folder("model", "acme/friends", adapter, gated="manual", allowed=["local"])
    hub.import_folder("model", "secret/model", adapter, private=True)
    put(hub, "model", "acme/nested", {path: path for path in ("README.md", "data/a/b.txt", "data/c.txt")})
    put(hub, "model", "acme/many", {f"{number}.txt": "" for number in range(1001)})
    card = "license: mit\nlanguage: [en]\ntask_categories: [question-answering]\n"
    put(hub, "dataset", "acme/questions", {"train.jsonl": lines([{"question": "1 + 1", "answer": "2"}])}, card)
    push = folder / "push"
    push.mkdir()
    (push / "README.md").write_text("---\nlicense: mit\n---\nhello\n")
    (push / "config.json").write_text("{}")
    (push / "empty.bin").touch()
    (push / "weights.safetensors").write_bytes(os.urandom(12 * 2**20))


@pytest.mark.parametrize("row", table("localhub/clients/hub_client.jsonl"), ids=name_of)
def test_what_the_client_found(world, row):
    check(world.results, row)


def test_lists_follow_pages_in_order(world):
    lists = world.results["lists"]
    expected = [*(f"acme/lora-{n:02}" for n in reversed(range(25))), "acme/friends", "acme/gated"]
    assert lists["ids"][:24] == expected[:24]
    assert set(lists["ids"]) == set(expected)  # lora-00, friends and gated all have no downloads
    assert len(world.requests("list")) == 3
    assert len(lists["two"]) == 2
    assert sorted(lists["gated"]) == ["acme/friends", "acme/gated"]


def test_lists_expand_what_was_asked_for(world):
    downloads, base, files, tags = world.results["lists"]["first"]
    assert (downloads, base) == (24, "acme/base")
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    computed = {"peft", "safetensors", "base_model:acme/base", "base_model:adapter:acme/base", "arxiv:2408.15915"}
    assert computed | {"lora", "license:mit"} <= set(tags)
    [[name, licence, tags]] = world.results["lists"]["datasets"]
    assert (name, licence) == ("acme/questions", "mit")
    assert {"format:json", "task_categories:question-answering", "language:en"} <= set(tags)


def test_info(world):
    info = world.results["info"]
    size, lfs_size, digits = info["weights"]
    assert (info["sha"], size, digits) == (info["pinned"], lfs_size, 64)


def test_a_pinned_download_asks_once_and_a_header_is_one_part_of_the_file(world):
    assert world.results["downloads"]["config"]["peft_type"] == "LORA"
    assert world.results["downloads"]["missing"] in ("EntryNotFoundError", "RemoteEntryNotFoundError")
    assert world.requests("pinned") == world.requests("snapshot") == []
    [request] = world.requests("header")
    assert request.startswith("GET")
    record = next(record for record in world.hub.log if record.range)
    assert record.status == 206 or record.range == "bytes=0-100000"


def test_large_files_travel_as_lfs(world):
    lines = [(record.method, record.path.split("/")[1], record.auth) for record in world.hub.log]
    assert ("PUT", "_lfs", False) in lines


def test_a_repository_that_is_there_has_its_address(world):
    writes = world.results["writes"]
    assert writes["url"] == writes["exists"] == f"{world.hub.url}/local/push"


def test_xet_is_refused_and_never_offered(world):
    answer = ask(world.hub.url, "/api/models/local/xet/xet-write-token/main")
    assert answer.status == 404
    assert "HF_HUB_DISABLE_XET=1" in answer.json()["error"]
    assert "HF_HUB_DISABLE_XET=1" in answer.headers["X-Error-Message"]
    assert b"xetHash" not in ask(world.hub.url, "/api/models/local/push/tree/main").body
