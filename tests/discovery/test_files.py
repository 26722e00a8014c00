import hashlib

import pytest
from huggingface_hub import HfApi

from rocket_hub.discovery.files import download, is_plain_path, read_part
from rocket_hub.discovery.hub import call, reason_of
from rocket_hub.errors import HubError, HubUnreachableError
from rocket_hub.localhub import Fault

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


def test_a_file_is_downloaded_once(hub, api, repo):
    path = download(api, *repo, "weights.safetensors", max_bytes=10**6)
    assert path.read_bytes() == CONTENT
    asked = len(hub.log)
    assert download(api, *repo, "weights.safetensors", max_bytes=10**6) == path
    assert asked == 3
    assert len(hub.log) == asked


def test_a_small_file_is_downloaded_too(api, repo):
    assert download(api, *repo, "notes.txt", max_bytes=100).read_text().startswith("for test_")


def test_a_file_above_the_bound_is_not_fetched(hub, api, repo):
    with pytest.raises(HubError, match="10,240 bytes, more than the 10,239"):
        download(api, *repo, "weights.safetensors", max_bytes=10_239)
    assert [record.method for record in hub.log] == ["POST"]


def test_a_corrupted_file_is_fetched_once_more(hub, api, repo):
    hub.faults.append(Fault(r"GET .*/resolve/", "corrupt"))
    assert download(api, *repo, "weights.safetensors", max_bytes=10**6).read_bytes() == CONTENT
    assert hub.faults[0].times == 0


def test_a_file_that_stays_corrupted_is_refused_and_not_kept(hub, api, repo):
    hub.faults.append(Fault(r"GET .*/resolve/", "corrupt", times=-1))
    with pytest.raises(HubError, match="wrong hash, twice"):
        download(api, *repo, "weights.safetensors", max_bytes=10**6)
    hub.faults.clear()
    assert download(api, *repo, "weights.safetensors", max_bytes=10**6).read_bytes() == CONTENT


def test_a_file_that_went_bad_in_the_cache_is_fetched_again(api, repo):
    path = download(api, *repo, "weights.safetensors", max_bytes=10**6)
    path.resolve().write_bytes(b"x" * len(CONTENT))
    assert download(api, *repo, "weights.safetensors", max_bytes=10**6).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["status", "reset", "truncate", "etag", "size"])
def test_a_single_fault_is_survived(hub, api, repo, kind):
    hub.faults.append(Fault(r"GET .*/resolve/", kind, headers=AT_ONCE, after=100 if kind == "truncate" else 0))
    assert download(api, *repo, "weights.safetensors", max_bytes=10**6).read_bytes() == CONTENT


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
    assert read_part(api, *repo, "weights.safetensors", start=10, length=5) == (CONTENT[10:15], len(CONTENT))
    assert len(hub.log) == 1


def test_a_part_behind_the_end_is_shorter_or_empty(api, repo):
    assert read_part(api, *repo, "weights.safetensors", start=10_238, length=50) == (CONTENT[-2:], len(CONTENT))
    assert read_part(api, *repo, "weights.safetensors", start=20_000, length=50) == (b"", len(CONTENT))
    assert read_part(api, *repo, "empty.txt", length=50) == (b"", 0)


@pytest.mark.parametrize(("status", "headers"), [(503, AT_ONCE), (429, AT_ONCE), (429, {"RateLimit": '"api";r=0;t=0'})])
def test_a_call_is_tried_again(hub, api, repo, status, headers):
    hub.faults.append(Fault("GET /api/models/", "status", status=status, headers=headers))
    assert call("x", api.model_info, repo[0]).sha == repo[1]
    assert [record.status for record in hub.log] == [status, 200]


def test_a_call_gives_up_after_its_tries(hub, api, repo):
    hub.faults.append(Fault("GET /api/models/", "status", times=-1, status=500, headers=AT_ONCE))
    with pytest.raises(HubError, match=r"base x: the Hub failed with status 500, 4 times") as caught:
        call("base x", api.model_info, repo[0])
    assert not isinstance(caught.value, HubUnreachableError)
    assert (len(hub.log), reason_of(caught.value)) == (4, "hub_error")


def test_a_wait_that_is_too_long_is_not_waited_for(hub, api, repo):
    hub.faults.append(Fault("GET /api/models/", "status", times=-1, status=429, headers={"Retry-After": "86400"}))
    with pytest.raises(HubError, match="limits the rate"):
        call("x", api.model_info, repo[0])
    assert len(hub.log) == 1


def test_a_refusal_is_not_repeated(hub, api, repo):
    hub.faults.append(Fault("GET /api/models/", "status", times=-1, status=403, body=b'{"error": "banned"}'))
    with pytest.raises(HubError, match="refused with status 403: banned"):
        call("x", api.model_info, repo[0])
    assert len(hub.log) == 1


def test_an_answer_that_is_no_json_is_named(hub, api, repo):
    hub.faults.append(Fault("GET /api/models/", "status", times=-1, status=200, body=b"<html>"))
    with pytest.raises(HubError, match=r"cannot be read.*HF_ENDPOINT"):
        call("x", api.model_info, repo[0])


def test_a_private_repository_is_not_found(hub, api, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    hub.import_folder("model", "files/private", tmp_path, private=True)
    with pytest.raises(HubError, match="sign in if it is private") as caught:
        call("files/private", api.model_info, "files/private")
    assert reason_of(caught.value) == "not_found"


def test_without_a_token_no_token_is_sent(hub, api, repo):
    read_part(HfApi(endpoint=hub.url, token=False), *repo, "notes.txt", length=3)
    read_part(api, *repo, "notes.txt", length=3)
    assert [record.auth for record in hub.log] == [False, True]
