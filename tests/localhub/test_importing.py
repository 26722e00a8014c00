"""Folders become repositories: the same ones every time."""

import json
import subprocess
import sys
import threading

import pytest

from rocket_hub.errors import InputError, StorageError
from rocket_hub.localhub import LocalHub, import_tree
from rocket_hub.localhub.store import RefusedError, Repository, Store
from tests.helping import table

from .conftest import ask, client_environment, write_adapter


@pytest.fixture
def tree(tmp_path):
    """A folder of repositories with a manifest."""
    folder = tmp_path / "tree"
    write_adapter(folder / "models/acme/lora")
    (folder / "datasets/acme/data").mkdir(parents=True)
    (folder / "datasets/acme/data/train.jsonl").write_text("{}\n")
    (folder / "recipes").mkdir()
    (folder / "recipes/gsm8k.yaml").write_text("task: gsm8k\n")
    write_manifest(
        folder,
        name="small",
        token="hf_own",
        repositories={"models/acme/lora": {"gated": "auto", "downloads": 12, "createdAt": "2025-05-05T00:00:00.000Z"}},
        recipes={"gsm8k": "recipes/gsm8k.yaml"},
    )
    return folder


def write_manifest(folder, **content):
    (folder / "hub.json").write_text(json.dumps(content))


def test_the_same_files_and_date_give_the_same_commit(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.txt").write_text("a")
    shas = []
    for name in ("first", "second"):
        with LocalHub(tmp_path / name) as hub:
            shas.append(hub.import_folder("model", "acme/one", tmp_path / "one"))
            assert hub.import_folder("model", "acme/one", tmp_path / "one") == shas[0]
            other = hub.import_folder("model", "acme/other", tmp_path / "one", date="2025-01-01T00:00:00.000Z")
            assert other != shas[0]
    assert shas == ["bec1f8ded2e2b8db37baf5243fceb77a5e6caffe"] * 2  # a literal: it must not change between versions


def test_a_restarted_hub_knows_everything(tmp_path, adapter):
    with LocalHub(tmp_path / "store") as hub:
        sha = hub.import_folder("model", "local/lora", adapter, likes=3)
        ask(hub.url, "/api/models/local/lora/tag/main", "POST", {"tag": "v1"})
    with LocalHub(tmp_path / "store") as hub:
        record = ask(hub.url, "/api/models/local/lora").json()
        assert (record["sha"], record["likes"]) == (sha, 3)
        assert ask(hub.url, "/local/lora/resolve/v1/adapter_config.json").status == 200


def test_a_changed_folder_is_one_new_commit(tmp_path, tree):
    store = Store(tmp_path / "store")
    first = import_tree(store, tree)
    assert import_tree(store, tree) == first
    assert set(first) == {"models/acme/lora", "datasets/acme/data"}
    (tree / "models/acme/lora/new.txt").write_text("new")
    (tree / "models/acme/lora/README.md").unlink()
    second = import_tree(store, tree)
    assert second["datasets/acme/data"] == first["datasets/acme/data"]
    repository = store.find("model", "acme/lora")
    assert repository is not None
    history = repository.history(second["models/acme/lora"])
    assert [commit.id for commit in history] == [second["models/acme/lora"], first["models/acme/lora"]]
    assert set(history[0].tree) == {"adapter_config.json", "adapter_model.safetensors", "new.txt"}


def test_pushes_survive_the_next_import(tmp_path, tree):
    store = Store(tmp_path / "store")
    import_tree(store, tree)
    with store.change("dataset", "acme/data") as repository:
        head = repository.resolve("main")
        entry = store.add_bytes("pushed.txt", b"pushed")
        content = {**repository.tree(head), "pushed.txt": entry}
        repository.add_commit("main", content, title="push", author="local", date="2025", parents=[head])
    import_tree(store, tree)
    found = store.find("dataset", "acme/data")
    assert found is not None
    assert "pushed.txt" in found.tree("main")


def test_the_manifest_sets_up_the_hub(tmp_path, tree):
    with LocalHub(tmp_path / "store") as hub:
        hub.import_tree(tree)
        manifest = ask(hub.url, "/api/rocket-hub/manifest").json()
        assert manifest == {"name": "small", "recipes": {"gsm8k": "task: gsm8k\n"}}
        record = ask(hub.url, "/api/models/acme/lora").json()
        assert (record["gated"], record["downloads"]) == ("auto", 12)
        assert record["createdAt"] == "2025-05-05T00:00:00.000Z"
        assert ask(hub.url, "/acme/lora/resolve/main/README.md", token="hf_own").status == 403
        assert ask(hub.url, "/api/whoami-v2", token="hf_own").json()["name"] == "local"
    with LocalHub(tmp_path / "store") as hub:
        assert ask(hub.url, "/api/whoami-v2", token="hf_own").status == 200


@pytest.mark.parametrize(("manifest", "message"), table("localhub/manifest_faults.jsonl"))
def test_bad_manifests_say_what_is_wrong(tmp_path, tree, manifest, message):
    (tmp_path / "secret.yaml").write_text("secret")
    (tree / "recipes/link.yaml").symlink_to(tmp_path / "secret.yaml")
    write_manifest(tree, **manifest)
    with pytest.raises(InputError, match=message):
        import_tree(Store(tmp_path / "store"), tree)


def test_what_git_and_caches_leave_behind_is_not_imported(tmp_path, adapter):
    (adapter / ".git").mkdir()
    (adapter / ".git/config").write_text("x")
    (adapter / ".cache").mkdir()
    (adapter / ".cache/x").write_text("x")
    with LocalHub(tmp_path / "store") as hub:
        hub.import_folder("model", "acme/lora", adapter)
        assert len(ask(hub.url, "/api/models/acme/lora").json()["siblings"]) == 3


def test_bad_folders_say_what_is_wrong(tmp_path, tree):
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="neither models/ nor datasets/"):
        import_tree(store, tmp_path / "store")
    (tree / "hub.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        import_tree(store, tree)
    (tree / "hub.json").unlink()
    (tree / "models/acme/lora/link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out of"):
        import_tree(store, tree)
    with pytest.raises(InputError, match="namespace/name"), LocalHub(tmp_path / "store") as hub:
        hub.import_folder("model", "gpt2", tree)
    with pytest.raises(InputError, match="no folder"), LocalHub(tmp_path / "store") as hub:
        hub.import_folder("model", "acme/x", tmp_path / "none")
    with pytest.raises(StorageError, match="cannot use the folder"):
        LocalHub(tree / "datasets/acme/data/train.jsonl")


def test_a_change_is_saved_whole_or_not_at_all(tmp_path):
    store = Store(tmp_path)
    repository = Repository("model", "acme/x")
    repository.add_commit("main", {}, title="first", author="a", date="2024", parents=[])
    store.create(repository)
    with pytest.raises(RefusedError, match="already created"):
        store.create(repository)
    with pytest.raises(ZeroDivisionError), store.change("model", "acme/x") as changed:
        changed.settings["likes"] = 1 // 0
    with pytest.raises(RefusedError, match="not found"), store.change("model", "acme/none"):
        pass
    found = store.find("model", "acme/x")
    assert found is not None
    assert found.settings["likes"] == 0


ADD_BRANCHES = """
import sys
from pathlib import Path
from rocket_hub.localhub.store import Store
store = Store(Path(sys.argv[1]))
for number in range(20):
    with store.change("model", "acme/x") as repository:
        repository.branches[f"{sys.argv[2]}-{number}"] = repository.resolve("main")
"""


def test_two_processes_and_two_threads_lose_no_change(tmp_path):
    store = Store(tmp_path)
    repository = Repository("model", "acme/x")
    repository.add_commit("main", {}, title="first", author="a", date="2024", parents=[])
    store.create(repository)

    def change(name):
        for number in range(20):
            with store.change("model", "acme/x") as repository:
                repository.branches[f"{name}-{number}"] = repository.resolve("main")

    environment = client_environment(tmp_path / "home")
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_BRANCHES, str(tmp_path), name], env=environment) for name in "ab"
    ]
    threads = [threading.Thread(target=change, args=(name,)) for name in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0]
    found = store.find("model", "acme/x")
    assert found is not None
    assert len(found.branches) == 1 + 4 * 20
