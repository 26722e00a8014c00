import hashlib

import pytest
from huggingface_hub import HfApi

from rocket_hub.discovery.hub import download as downloads
from rocket_hub.discovery.hub.client import call, reason_of
from rocket_hub.discovery.hub.download import download, fetch, is_plain_path
from rocket_hub.errors import HubError, HubUnreachableError
from rocket_hub.localhub import Fault, LocalHub
from tests.helping import put

AT_ONCE = {"Retry-After": "0"}
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def repo(hub, api, tmp_path, request):
    """A repository of its own for each test, so that nothing is in the cache yet."""
    (tmp_path / "weights.safetensors").write_bytes(CONTENT)
    (tmp_path / "notes.txt").write_text(f"for {request.node.name}")
    (tmp_path / "empty.txt").touch()
    repo_id = f"files/r{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    revision = hub.import_folder("model", repo_id, tmp_path)
    hub.log.clear()
    return repo_id, revision


def read(api, repo, name, **span):
    """Read a part of a file: its bytes, and the size of the whole."""
    return fetch(api, *repo, name, **span)[:2]


def weights(api, repo):
    return download(api, *repo, "weights.safetensors", max_bytes=10**6).read_bytes()


def notes(api, repo):
    return download(api, *repo, "notes.txt", max_bytes=100).read_text()


def model_info_fails(hub, api, repo, message, **fault):
    """Ask for a record while a fault lasts; returns the error."""
    hub.faults.append(Fault("GET /api/models/", "status", times=-1, **fault))
    with pytest.raises(HubError, match=message) as caught:
        call("base x", api.model_info, repo[0])
    return caught.value


def test_a_file_is_downloaded_once(hub, api, repo):
    path = download(api, *repo, "weights.safetensors", max_bytes=10**6)
    assert path.read_bytes() == CONTENT
    asked = len(hub.log)
    assert download(api, *repo, "weights.safetensors", max_bytes=10**6) == path
    assert asked == len(hub.log) == 3
    assert notes(api, repo).startswith("for test_")


def test_a_file_above_the_bound_is_not_fetched(hub, api, repo):
    with pytest.raises(HubError, match="10,240 bytes, more than the 10,239"):
        download(api, *repo, "weights.safetensors", max_bytes=10_239)
    assert [record.method for record in hub.log] == ["POST"]


def test_a_corrupted_file_is_fetched_once_more(hub, api, repo):
    hub.faults += [Fault("GET .*/resolve/.*weights", "corrupt"), Fault("GET .*/resolve/.*notes", "corrupt")]
    assert weights(api, repo) == CONTENT
    assert notes(api, repo).startswith("for test_")
    assert [fault.times for fault in hub.faults] == [0, 0]


def test_a_file_that_stays_corrupted_is_refused_and_not_kept(hub, api, repo):
    hub.faults.append(Fault(r"GET .*/resolve/", "corrupt", times=-1))
    with pytest.raises(HubError, match="wrong hash, twice"):
        weights(api, repo)
    hub.faults.clear()
    assert weights(api, repo) == CONTENT


def test_a_file_that_went_bad_in_the_cache_is_fetched_again(api, repo):
    path = download(api, *repo, "weights.safetensors", max_bytes=10**6)
    path.resolve().write_bytes(b"x" * len(CONTENT))
    assert weights(api, repo) == CONTENT


def test_a_missing_file_is_named(api, repo):
    with pytest.raises(HubError, match=r"nothing\.txt: no such file"):
        download(api, *repo, "nothing.txt", max_bytes=100)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/../../b", "a\\b", "", ".", "x" * 600])
def test_a_path_that_leads_elsewhere_is_refused(hub, api, repo, path):
    assert not is_plain_path(path)
    with pytest.raises(HubError, match="not a plain relative path"):
        download(api, *repo, path, max_bytes=100)
    assert hub.log == []


@pytest.mark.parametrize("fault", [None, "ignore_range"])
def test_a_part_is_read_with_one_request(hub, api, repo, fault):
    hub.faults += [Fault("resolve", fault)] if fault else []
    assert read(api, repo, "weights.safetensors", start=10, length=5) == (CONTENT[10:15], len(CONTENT))
    assert len(hub.log) == 1


def test_a_part_behind_the_end_is_shorter_or_empty(api, repo):
    assert read(api, repo, "weights.safetensors", start=10_238, length=50) == (CONTENT[-2:], len(CONTENT))
    assert read(api, repo, "weights.safetensors", start=20_000, length=50) == (b"", len(CONTENT))
    assert read(api, repo, "empty.txt", length=50) == (b"", 0)


@pytest.mark.parametrize(("status", "headers"), [(503, AT_ONCE), (429, AT_ONCE), (429, {"RateLimit": '"api";r=0;t=0'})])
def test_a_call_is_tried_again(hub, api, repo, status, headers):
    hub.faults.append(Fault("GET /api/models/", "status", status=status, headers=headers))
    assert call("x", api.model_info, repo[0]).sha == repo[1]
    assert [record.status for record in hub.log] == [status, 200]


def test_a_call_gives_up_after_its_tries(hub, api, repo):
    error = model_info_fails(
        hub, api, repo, r"base x: the Hub failed with status 500, 4 times", status=500, headers=AT_ONCE
    )
    assert not isinstance(error, HubUnreachableError)
    assert (len(hub.log), reason_of(error)) == (4, "hub_error")


@pytest.mark.parametrize(
    ("fault", "message", "asked"),
    [
        ({"status": 429, "headers": {"Retry-After": "86400"}}, "limits the rate", 1),  # too long to wait for
        ({"status": 403, "body": b'{"error": "banned"}'}, "refused with status 403: banned", 1),
        ({"status": 200, "body": b"<html>"}, r"cannot be read.*HF_ENDPOINT", None),
    ],
)
def test_what_another_try_cannot_help_is_told_at_once(hub, api, repo, fault, message, asked):
    model_info_fails(hub, api, repo, message, **fault)
    assert asked in (None, len(hub.log))


def test_a_private_repository_is_not_found(hub, api):
    put(hub, "model", "files/private", {"a.txt": "a"}, private=True)
    with pytest.raises(HubError, match="sign in if it is private") as caught:
        call("files/private", api.model_info, "files/private")
    assert reason_of(caught.value) == "not_found"


def test_without_a_token_no_token_is_sent(hub, api, repo):
    read(HfApi(endpoint=hub.url, token=False), repo, "notes.txt", length=3)
    read(api, repo, "notes.txt", length=3)
    assert [record.auth for record in hub.log] == [False, True]


@pytest.mark.parametrize("name", ["notes.txt", "weights.safetensors"])
def test_a_whole_file_of_the_wrong_hash_is_asked_for_again(hub, api, repo, name):
    right = read(api, repo, name, length=20_000)
    for kind in ("corrupt", "etag"):
        hub.faults.append(Fault("resolve", kind))
        assert read(api, repo, name, length=20_000) == right
        assert hub.faults.pop().times == 0


def test_a_file_that_stays_damaged_is_named(hub, api, repo):
    hub.faults.append(Fault("resolve", "corrupt", times=-1))
    with pytest.raises(HubError, match=r"notes\.txt: the bytes have a wrong hash, 4 times") as caught:
        read(api, repo, "notes.txt", length=100)
    assert reason_of(caught.value) == "damaged"


def test_a_part_cannot_be_checked_and_its_file_has_a_hash(api, repo):
    part = fetch(api, *repo, "weights.safetensors", length=10)
    assert part == (CONTENT[:10], len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_only_the_hub_itself_tells_the_hash_and_gets_the_token(hub, api, repo, tmp_path):
    """What a storage elsewhere calls an ETag may be anything."""
    with LocalHub(tmp_path / "elsewhere", tokens={}) as other:
        revision = other.import_folder("model", "x/y", tmp_path)
        other.faults.append(Fault("notes.txt", "etag", times=-1))
        led = {"Location": f"{other.url}/x/y/resolve/{revision}/notes.txt"}
        hub.faults.append(Fault("notes.txt", "status", status=302, headers=led))
        data, _, told = fetch(api, *repo, "notes.txt", length=100)
        assert data.startswith(b"for test_") and told == ""
        hub.faults.append(Fault("notes.txt", "status", times=-1, status=302, headers=led | {"X-Linked-Etag": "0" * 64}))
        with pytest.raises(HubError, match="wrong hash"):
            fetch(api, *repo, "notes.txt", length=100)
        assert {record.auth for record in other.log} == {False}


@pytest.mark.parametrize("place", ["file:///etc/passwd", "gopher://x/y", "https://[bad/x", "/"])
def test_a_redirect_to_nowhere_ends(hub, api, repo, place):
    hub.faults.append(Fault("notes.txt", "status", times=-1, status=302, headers={"Location": place}))
    with pytest.raises(HubError):
        read(api, repo, "notes.txt", length=100)
    assert len(hub.log) <= 4


def test_no_token_in_a_message(hub, repo):
    bad = HfApi(endpoint=hub.url, token="hf_top\nsecret")
    with pytest.raises(HubError) as caught:
        read(bad, repo, "notes.txt", length=100)
    hub.faults.append(
        Fault("notes", "status", status=400, body=b'{"error": "see http://x/?sig=top Bearer topsecret \x1b[1m"}')
    )
    with pytest.raises(HubError) as told:
        read(HfApi(endpoint=hub.url, token="hf_guest"), repo, "notes.txt", length=100)
    for text in (str(caught.value), str(told.value)):
        assert "secret" not in text and "top" not in text and text.isprintable()


def test_an_error_of_any_size_and_form_is_bounded(hub, api, repo):
    for body in (b"[1]", b'"x"', b"[" * 100_000, b"x" * 10**7, b'{"error": {"a": 1}}', b"\xff\xfe"):
        hub.faults[:] = [Fault("notes", "status", status=404, body=body)]
        with pytest.raises(HubError) as caught:
            read(api, repo, "notes.txt", length=100)
        assert len(str(caught.value)) < 600


def test_a_server_that_ignores_range_fills_no_memory(hub, api, repo):
    hub.faults.append(Fault("resolve", "ignore_range"))
    assert read(api, repo, "weights.safetensors", start=10_000, length=5)[0] == CONTENT[10_000:10_005]


def test_a_stall_is_given_up(hub, api, repo, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    hub.faults.append(Fault("resolve", "delay", seconds=1))
    assert read(api, repo, "notes.txt", length=3)[0] == b"for"
    assert len(hub.log) == 1  # the first one is still on its way


def test_a_file_that_the_hubs_scan_calls_unsafe_is_not_fetched(hub, api, repo):
    with hub.store.change("model", repo[0]) as repository:
        repository.settings["unsafe_files"] = {"weights.safetensors": "unsafe", "notes.txt": "suspicious"}
    with pytest.raises(HubError, match="scan calls it unsafe; leave it out") as caught:
        download(api, *repo, "weights.safetensors", max_bytes=10**6)
    assert reason_of(caught.value) == "unsafe_scan"
    assert notes(api, repo).startswith("for")
