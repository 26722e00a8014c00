"""Requests that no well-behaved client sends, and the edges of those that one does."""

import base64
import hashlib
import json
import socket
from urllib.parse import quote, urlsplit

import pytest

from rocket_hub.localhub import LocalHub, User
from rocket_hub.localhub.commits import LARGEST_UPLOAD
from tests.helping import put, table

from .conftest import ask

ADAPTER = "/api/models/local/lora"
FILE = "/local/lora/resolve/main/adapter_model.safetensors"


@pytest.fixture(autouse=True)
def filled(hub, adapter):
    hub.import_folder("model", "local/lora", adapter)


def commit(hub, *operations, **header):
    """Send a commit by hand."""
    lines = [("header", {"summary": "by hand", **header}), *operations]
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return ask(hub.url, f"{ADAPTER}/commit/main", "POST", body.encode(), Content_Type="application/x-ndjson")


def file(path, content="x"):
    """An operation that adds a file."""
    return "file", {"path": path, "content": base64.b64encode(content.encode()).decode(), "encoding": "base64"}


@pytest.mark.parametrize("path", [
    "/etc/passwd", "../up.txt", "a/../../up.txt", ".git/config", "a/.GIT/hooks", "./a", "a//b", "", "a\\..\\b", "C:/x",
    "a\nb", "x" * 2000,
])  # fmt: skip
def test_a_commit_cannot_leave_the_repository(hub, path):
    answer = commit(hub, file("fine.txt"), file(path))
    assert answer.status == 400
    assert "Invalid path" in answer.json()["error"]
    assert ask(hub.url, "/local/lora/resolve/main/fine.txt").status == 404


@pytest.mark.parametrize("operation", table("localhub/operation_faults.jsonl"))
def test_a_bad_operation_changes_nothing(hub, operation):
    before, (kind, *told) = ask(hub.url, ADAPTER).json()["sha"], operation
    assert commit(hub, file("fine.txt"), file(*told) if kind == "add" else (kind, *told)).status in (400, 404)
    assert ask(hub.url, ADAPTER).json()["sha"] == before


def test_commits_add_copy_and_delete(hub):
    copy = ("copyFile", {"path": "copy.md", "srcPath": "README.md"})
    assert commit(hub, file("a/b.txt"), file("a/c.txt"), copy).status == 200
    assert commit(hub, ("deletedFolder", {"path": "a"}), ("deletedFile", {"path": "README.md"})).status == 200
    paths = [node["path"] for node in ask(hub.url, f"{ADAPTER}/tree/main?recursive=true").json()]
    assert paths == ["adapter_config.json", "adapter_model.safetensors", "copy.md"]


def test_a_stale_parent_is_refused(hub):
    head = ask(hub.url, ADAPTER).json()["sha"]
    assert commit(hub, file("a.txt"), parentCommit=head).status == 200
    assert commit(hub, file("b.txt"), parentCommit=head).status == 412


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "..", "%2e%2e/store/manifest.json"])
def test_resolve_never_looks_at_the_disk(hub, path):
    for address in (path, quote(path, safe="")):
        answer = ask(hub.url, f"/local/lora/resolve/main/{address}")
        assert answer.status == 404
        assert answer.headers["X-Error-Code"] == "EntryNotFound"


@pytest.mark.parametrize("name", ["../x", "a b", ".hidden", "x" * 200, "a--b", "a..b", "x.git", ""])
def test_repository_ids_are_checked(hub, name):
    assert ask(hub.url, "/api/repos/create", "POST", {"name": name}).status == 400
    assert ask(hub.url, "/api/repos/create", "POST", {"name": "ok", "type": "../model"}).status == 400
    assert [path.name for path in (hub.store.root / "repositories").rglob("*.json")] == ["lora.json"]


@pytest.mark.parametrize(("header", "status", "part"), table("localhub/ranges.jsonl"))
def test_parts_of_files(hub, adapter, header, status, part):
    data = (adapter / "adapter_model.safetensors").read_bytes()
    answer = ask(hub.url, FILE, Range=header)
    assert answer.status == status
    if part is not None:
        assert answer.body == data[slice(*part)]
    else:
        assert answer.headers["Content-Range"] == f"bytes */{len(data)}"


def test_heads_of_files(hub, adapter):
    large, small = ask(hub.url, FILE, "HEAD"), ask(hub.url, "/local/lora/resolve/main/README.md", "HEAD")
    data = (adapter / "adapter_model.safetensors").read_bytes()
    assert large.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert int(large.headers["Content-Length"]) == len(data)
    assert large.headers["X-Repo-Commit"] == ask(hub.url, ADAPTER).json()["sha"]
    assert len(small.headers["ETag"]) == 42
    assert large.body == b""


def test_an_upload_must_have_its_hash(hub):
    oid = hashlib.sha256(b"right").hexdigest()
    assert ask(hub.url, f"/_lfs/{oid}", "PUT", b"wrong").status == 400
    assert ask(hub.url, f"/_lfs/{oid}").status == 404
    assert ask(hub.url, f"/_lfs/{oid}", "PUT", b"right").status == 200
    assert ask(hub.url, f"/_lfs/{oid}").body == b"right"
    assert ask(hub.url, f"/_lfs/{oid}/verify", "POST", {"oid": oid, "size": 5}).status == 200
    assert ask(hub.url, f"/_lfs/{oid}/verify", "POST", {"oid": oid, "size": 6}).status == 404
    assert list((hub.store.root / "incoming").iterdir()) == []


def raw(hub, text):
    """Send bytes as they are and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=10) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        return connection.recv(4096).decode().splitlines()[0]


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        (f"PUT /_lfs/{'0' * 64}", LARGEST_UPLOAD + 1, 413),
        ("POST /api/validate-yaml", 2**30, 413),
        ("POST /api/validate-yaml", "many", 400),
        ("POST /api/validate-yaml", -5, 400),
    ],
)
def test_bodies_have_a_bound(hub, path, length, status):
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=10) as connection:
        connection.sendall(f"{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(4096):
            received += piece
    assert received.split()[1] == str(status).encode()


def test_chunked_bodies(hub):
    body = json.dumps({"content": "---\nlicense: mit\n---\n"})
    head = "POST /api/validate-yaml HTTP/1.1\nHost: 127.0.0.1\nTransfer-Encoding: chunked\n\n"
    assert raw(hub, f"{head}{len(body):x}\n{body}\n0\n\n").split()[1] == "200"
    assert raw(hub, f"{head}zz\n{body}\n0\n\n").split()[1] == "400"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"content": 3}', b"\xff", b"[" * 100_000])
def test_bad_json_is_the_client_s_fault(hub, body):
    assert ask(hub.url, "/api/validate-yaml", "POST", body).status == 400


ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))


@pytest.mark.parametrize(
    "front", [f"a0: &a0 [x, x]\n{ALIASES}", "a: &a [*a]", "a: [", "a: 2024-99-99", "a: 0x" + "f" * 9000, "[1]", "3"]
)
def test_no_card_breaks_the_lists(hub, front):
    put(hub, "model", "acme/card", {}, f"{front}\n")
    records = ask(hub.url, "/api/models?full=true&cardData=true").json()
    assert [record["cardData"] for record in records if record["id"] == "acme/card"] == [{}]
    assert ask(hub.url, "/api/validate-yaml", "POST", {"content": f"---\n{front}\n---\n"}).status == 400


def test_cards_may_have_dates(hub):
    put(hub, "model", "acme/card", {}, "a: 2024-05-05\n1: x\n")
    assert ask(hub.url, "/api/models/acme/card").json()["cardData"] == {"a": "2024-05-05", "1": "x"}


def test_other_hosts_names_are_refused(hub):
    assert ask(hub.url, "/api/models", Host="evil.example").status == 421
    assert ask(hub.url, "/api/models", Host="localhost:1").status == 200


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "cursor=x", "sort=evil", "expand=none"])
def test_bad_queries_are_the_client_s_fault(hub, query):
    assert ask(hub.url, f"/api/models?{query}").status == 400


def test_a_reader_does_not_write(tmp_path, adapter):
    with LocalHub(tmp_path / "read", tokens={"hf_read": User("local", role="read")}) as hub:
        hub.import_folder("model", "local/lora", adapter)
        assert ask(hub.url, ADAPTER, token="hf_read").status == 200
        for path in ("branch/new", "commit/main", "preupload/main"):
            assert ask(hub.url, f"{ADAPTER}/{path}", "POST", {}, token="hf_read").status == 403
            assert ask(hub.url, f"{ADAPTER}/{path}", "POST", {}, token=None).status == 401


def test_there_is_no_manifest_without_one(hub):
    answer = ask(hub.url, "/api/rocket-hub/manifest")
    assert answer.status == 404
    assert answer.json() == {"error": "this hub has no manifest"}
