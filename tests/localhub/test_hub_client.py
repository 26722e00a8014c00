"""What a stock huggingface_hub sees of the hub; the client runs once, in its own process."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rocket_hub.localhub import LocalHub, User

from .conftest import LOCAL, ask, run_client, write_adapter


class World(NamedTuple):
    """The results of the client, and the hub it talked to."""

    results: dict[str, Any]
    hub: LocalHub

    def requests(self, name: str) -> list[str]:
        """The requests between two marks in the hub's log."""
        paths = [record.path for record in self.hub.log]
        lines = [f"{record.method} {record.path}" for record in self.hub.log]
        return lines[paths.index(f"/api/telemetry/{name}") + 1 : paths.index(f"/api/telemetry/{name}-end")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hub-client")
    tokens = {"hf_local": User("local"), "hf_owner": User("owner", orgs=("secret",))}
    with LocalHub(folder / "store", tokens=tokens, page=10) as hub:
        fill(hub, folder)
        results = run_client("hub_client.py", folder / "home", str(folder), HF_ENDPOINT=hub.url, **LOCAL)
        yield World(results, hub)


def fill(hub: LocalHub, folder: Path) -> None:
    """Put everything in the hub that the client looks for."""
    adapter = write_adapter(folder / "adapter")
    for number in range(25):
        hub.import_folder("model", f"acme/lora-{number:02}", adapter, downloads=number)
    hub.import_folder("model", "acme/gated", adapter, gated="auto")
    hub.import_folder("model", "acme/friends", adapter, gated="manual", allowed=["local"])
    hub.import_folder("model", "secret/model", adapter, private=True)
    nested = folder / "nested"
    for path in ("README.md", "data/a/b.txt", "data/c.txt"):
        (nested / path).parent.mkdir(parents=True, exist_ok=True)
        (nested / path).write_text(path)
    hub.import_folder("model", "acme/nested", nested)
    many = folder / "many"
    many.mkdir()
    for number in range(1001):
        (many / f"{number}.txt").touch()
    hub.import_folder("model", "acme/many", many)
    data = folder / "data"
    data.mkdir()
    card = "---\nlicense: mit\nlanguage: [en]\ntask_categories: [question-answering]\n---\n"
    (data / "README.md").write_text(card)
    (data / "train.jsonl").write_text(json.dumps({"question": "1 + 1", "answer": "2"}) + "\n")
    hub.import_folder("dataset", "acme/questions", data)
    push = folder / "push"
    push.mkdir()
    (push / "README.md").write_text("---\nlicense: mit\n---\nhello\n")
    (push / "config.json").write_text("{}")
    (push / "empty.bin").touch()
    (push / "weights.safetensors").write_bytes(os.urandom(12 * 2**20))


def test_lists_follow_pages_in_order(world: World) -> None:
    lists = world.results["lists"]
    expected = [*(f"acme/lora-{n:02}" for n in reversed(range(25))), "acme/friends", "acme/gated"]
    assert lists["ids"][:24] == expected[:24]
    assert set(lists["ids"]) == set(expected)  # lora-00, friends and gated all have no downloads
    assert len(world.requests("list")) == 3


def test_lists_expand_what_was_asked_for(world: World) -> None:
    downloads, base, files, tags = world.results["lists"]["first"]
    assert (downloads, base) == (24, "acme/base")
    assert files == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    computed = {"peft", "safetensors", "base_model:acme/base", "base_model:adapter:acme/base", "arxiv:2408.15915"}
    assert computed | {"lora", "license:mit"} <= set(tags)
    assert "invalid value" in world.results["lists"]["forbidden"][1]


def test_lists_filter(world: World) -> None:
    lists = world.results["lists"]
    assert len(lists["two"]) == 2
    assert lists["search"] == [f"acme/lora-{n}" for n in range(10, 20)]
    assert (lists["author"], lists["private"], lists["no datasets"]) == ([], [], [])
    assert sorted(lists["gated"]) == ["acme/friends", "acme/gated"]
    [[name, licence, tags]] = lists["datasets"]
    assert (name, licence) == ("acme/questions", "mit")
    assert {"format:json", "task_categories:question-answering", "language:en"} <= set(tags)


def test_info(world: World) -> None:
    info = world.results["info"]
    assert info["sha"] == info["pinned"]
    assert info["card"] == ["peft", "mit", False, False]
    size, lfs_size, digits = info["weights"]
    assert (size, digits) == (lfs_size, 64)
    assert info["security"] == {"scansDone": True, "filesWithIssues": []}
    base_models, parameters, sha = info["expanded"]
    assert base_models == {"relation": "adapter", "models": [{"id": "acme/base"}]}
    assert (parameters, sha) == (64, None)


def test_a_pinned_download_asks_once(world: World) -> None:
    downloads = world.results["downloads"]
    assert downloads["config"]["peft_type"] == "LORA"
    assert downloads["snapshot"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert world.requests("pinned") == []
    assert world.requests("snapshot") == []


def test_the_header_of_safetensors_is_one_part_of_the_file(world: World) -> None:
    assert world.results["downloads"]["tensors"] == {"a": [2, 16], "b": [16, 2]}
    [request] = world.requests("header")
    assert request.startswith("GET")
    record = next(record for record in world.hub.log if record.range)
    assert record.status == 206 or record.range == "bytes=0-100000"


def test_a_missing_file_is_remembered(world: World) -> None:
    assert world.results["downloads"]["missing"] in ("EntryNotFoundError", "RemoteEntryNotFoundError")
    assert world.results["downloads"]["remembered"] == 1


def test_trees(world: World) -> None:
    trees = world.results["trees"]
    assert trees["all"] == ["README.md", "data", "data/a", "data/a/b.txt", "data/c.txt"]
    assert trees["top"] == [["RepoFile", "README.md"], ["RepoFolder", "data"]]
    assert trees["below"] == ["data/a", "data/c.txt"]
    assert trees["many"] == 1001  # two pages
    assert trees["paths"] == ["data", "data/a/b.txt"]
    assert trees["refs"] == [["main"], [], []]
    assert trees["commits"] == ["import"]


@pytest.mark.parametrize(
    ("check", "error"),
    [
        ("repository", "RepositoryNotFoundError"),
        ("no namespace", "RepositoryNotFoundError"),
        ("revision", "RevisionNotFoundError"),
        ("file", "RemoteEntryNotFoundError"),
        ("folder", "RemoteEntryNotFoundError"),
        ("private, nobody", "RepositoryNotFoundError"),
        ("auth_check", "GatedRepoError"),
        ("wrong token", "HfHubHTTPError"),
    ],
)
def test_errors_have_their_own_class(world: World, check: str, error: str) -> None:
    assert world.results["errors"][check] == error


def test_gated_and_private(world: World) -> None:
    errors = world.results["errors"]
    nobody, somebody = errors["gated, nobody"], errors["gated, somebody"]
    assert nobody[0] == somebody[0] == "GatedRepoError"
    assert "401" in nobody[1]
    assert "403" in somebody[1]
    assert errors["gated, its record"] == "auto"
    assert errors["gated, a friend"] == "README.md"
    assert errors["private, somebody"][0] == "RepositoryNotFoundError"
    assert "404" in errors["private, somebody"][1]
    assert errors["private, its owner"] is True
    assert "403" in errors["write"][1]


def test_a_folder_is_pushed_whole(world: World) -> None:
    writes = world.results["writes"]
    assert writes["equal"]
    assert writes["files"] == [".gitattributes", "README.md", "config.json", "empty.bin", "weights.safetensors"]
    assert writes["same"]  # nothing to do the second time
    assert writes["bytes"]
    assert writes["deleted"] is None
    assert writes["good card"]
    assert writes["no folder"] == "RemoteEntryNotFoundError"
    assert writes["bad card"] == "ValueError"


def test_large_files_travel_as_lfs(world: World) -> None:
    lines = [(record.method, record.path.split("/")[1], record.auth) for record in world.hub.log]
    assert ("PUT", "_lfs", False) in lines


def test_repositories_are_created_once(world: World) -> None:
    writes = world.results["writes"]
    assert writes["url"] == writes["exists"] == f"{world.hub.url}/local/push"
    assert "409" in writes["taken"][1]
    assert "403" in writes["foreign"][1]
    assert writes["nobody"] == "HfHubHTTPError"


def test_a_commit_is_all_or_nothing(world: World) -> None:
    writes = world.results["writes"]
    assert "412" in writes["stale"][1]
    assert "none.txt" in writes["atomic"][1]
    assert writes["head stays"]


def test_pull_requests_by_both_routes(world: World) -> None:
    requests = world.results["requests"]
    assert requests["numbers"] == [1, 2, 3, 4]
    assert requests["before"] == [".gitattributes"]
    assert requests["after"] == [".gitattributes", "one.txt", "two.txt"]
    assert requests["details"] == "merged"
    assert "409" in requests["conflict"][1]
    assert requests["open"] == ["three"]
    assert requests["requests"] == 3
    assert requests["talk"] == ["closed", ["comment", "comment", "status-change"], "because"]
    assert requests["foreign"] == 1  # anybody may propose


def test_branches_and_tags(world: World) -> None:
    references = world.results["references"]
    assert references["branches"] == ["main", "work"]
    assert references["tags"] == ["v1"]
    assert references["at tag"] == [".gitattributes", "on-work.txt"]
    assert references["at main"] == [".gitattributes"]
    assert references["twice"] == "HfHubHTTPError"
    assert references["exist_ok"] is None
    assert references["gone"] == "RevisionNotFoundError"
    assert references["settings"] == ["auto", True]
    assert references["deleted"] is False
    assert references["missing_ok"] is None


def test_the_rest(world: World) -> None:
    others = world.results["others"]
    assert others["whoami"] == "local"
    assert others["limits"] == ["api", 1_000_000]


def test_xet_is_refused_and_never_offered(world: World) -> None:
    # hf_xet shows the status and the address of a refusal, not its text.
    assert "404" in world.results["others"]["xet"][1]
    assert "xet-write-token" in world.results["others"]["xet"][1]
    answer = ask(world.hub.url, "/api/models/local/xet/xet-write-token/main")
    assert answer.status == 404
    assert "HF_HUB_DISABLE_XET=1" in answer.json()["error"]
    assert "HF_HUB_DISABLE_XET=1" in answer.headers["X-Error-Message"]
    assert b"xetHash" not in ask(world.hub.url, "/api/models/local/push/tree/main").body
