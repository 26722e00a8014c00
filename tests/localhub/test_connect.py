"""`--hub demo | FOLDER | URL`, each in a fresh process: it is about the environment and about what is imported when."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rocket_hub.localhub import LocalHub, import_tree
from rocket_hub.localhub.store import Store

from .conftest import client_environment, run_client, write_adapter


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    """A plain folder of repositories."""
    folder = tmp_path / "my hub"
    write_adapter(folder / "models/acme/lora")
    (folder / "gsm8k.yaml").write_text("task: gsm8k\n")
    (folder / "hub.json").write_text(json.dumps({"name": "mine", "recipes": {"gsm8k": "gsm8k.yaml"}}))
    return folder


def connecting(home, mode, *hub, **variables):
    """Run the script and return its result, which must not be an error."""
    answer = run_client("connecting.py", home, mode, *hub, **variables)
    assert "error" not in answer, answer
    return answer["result"]


def test_nothing_changes_for_the_real_hub(home):
    result = connecting(home, "once", HF_ENDPOINT="https://mirror.example")
    assert result["url"] == "https://mirror.example"
    assert result["recipes"] == {}
    assert result["cache"] == str(home)
    assert result["before"] == result["inside"] == result["after"]
    assert connecting(home, "once")["url"] is None


def test_a_plain_folder_is_imported_and_served(home, folder):
    result = connecting(home, "once", str(folder), HF_HUB_CACHE="/elsewhere", HF_HUB_OFFLINE="1", HF_TOKEN="hf_real")
    inside = result["inside"]
    assert result["name"] == "mine"
    assert result["recipes"] == {"gsm8k": "task: gsm8k\n"}
    assert inside["HF_ENDPOINT"] == result["url"]
    assert inside["HF_HOME"] == result["cache"] != str(home)
    assert Path(result["cache"]).is_relative_to(home / "rocket_hub" / "hubs")
    assert inside["HF_TOKEN"] == "hf_local"  # a real token has no business here
    assert inside["HF_HUB_DISABLE_XET"] == "1"
    assert inside["HF_HUB_CACHE"] is inside["HF_HUB_OFFLINE"] is None
    assert "127.0.0.1" in inside["NO_PROXY"]
    assert result["cache folder"] == str(home / "rocket_hub")
    assert result["before"] == result["after"]
    assert not result["modules"]
    assert sorted(path.name for path in folder.iterdir()) == ["gsm8k.yaml", "hub.json", "models"]


def test_a_store_is_served_as_it_is(home, folder, tmp_path):
    import_tree(Store(tmp_path / "store"), folder)
    result = connecting(home, "once", str(tmp_path / "store"))
    assert result["name"] == "mine"
    assert not list((home / "rocket_hub").rglob("blobs"))


def test_an_address_brings_its_recipes(home, folder, tmp_path):
    import_tree(Store(tmp_path / "store"), folder)
    with LocalHub(tmp_path / "store") as hub:
        result = connecting(home, "once", hub.url + "/", HF_TOKEN="hf_mine")
    assert (result["url"], result["name"]) == (hub.url, "mine")
    assert result["recipes"] == {"gsm8k": "task: gsm8k\n"}
    assert result["inside"]["HF_TOKEN"] == "hf_mine"
    assert Path(result["cache"]).is_relative_to(home / "rocket_hub")


def test_an_address_elsewhere_sets_the_endpoint_only(home):
    result = connecting(home, "once", "https://mirror.example")
    assert result["inside"] == {**result["before"], "HF_ENDPOINT": "https://mirror.example"}
    assert result["cache"] == str(home)


def test_connecting_twice_at_once_shares_the_server(home, folder):
    one, two, *caches = connecting(home, "nested", str(folder))
    assert one == two
    assert caches[0] == caches[1]


def test_connecting_again_finds_the_same_address(home, folder):
    first, second, still_there, cache = connecting(home, "again", str(folder))
    assert first == second
    assert still_there is True
    assert cache == str(home / "rocket_hub")


def test_a_lasting_server_is_shared_by_other_processes(home, folder, tmp_path):
    import_tree(Store(tmp_path / "store"), folder)
    program = "import sys; from rocket_hub.localhub import LocalHub; LocalHub(sys.argv[1]).serve_forever()"
    server = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "store")], env=client_environment(home))
    announcement = tmp_path / "store" / "server.json"
    try:
        for _ in range(200):
            if announcement.exists():
                break
            time.sleep(0.05)
        url = json.loads(announcement.read_text())["url"]
        assert connecting(home, "once", str(tmp_path / "store"))["url"] == url
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait(20)
    assert announcement.exists()  # the dead cannot withdraw; nobody believes them either
    assert connecting(home, "once", str(tmp_path / "store"))["url"] != url


def test_the_demo_is_a_hub_of_its_own(home):
    result = connecting(home, "once", "demo")
    assert result["cache"] == str(home / "rocket_hub" / "hubs" / "demo" / "home")


@pytest.mark.parametrize(
    ("hub", "message"),
    [("none", "is not there"), ("empty", "has neither"), ("file", "is a file"), ("http://", "no host")],
)
def test_anything_else_is_refused(home, tmp_path, hub, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    answer = run_client("connecting.py", home, "once", hub if "://" in hub else str(tmp_path / hub))
    assert answer["error"] == "InputError"
    assert message in answer["message"]


def test_nobody_at_an_address(home):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answer = run_client("connecting.py", home, "once", f"http://127.0.0.1:{port}")
    assert answer["error"] == "HubUnreachableError"
    assert f"127.0.0.1:{port}" in answer["message"]


def test_too_late_for_another_endpoint(home, folder):
    answer = run_client("connecting.py", home, "late", str(folder))
    assert answer["error"] == "EndpointError"
    assert "before the first import" in answer["message"]
