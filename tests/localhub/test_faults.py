"""Each kind of fault, seen from the other end of the wire."""

import http.client
import socket
import time
from urllib.parse import urlsplit

import pytest

from rocket_hub.localhub import Fault, LocalHub

from .conftest import ask

FILE = "/acme/lora/resolve/main/adapter_config.json"


@pytest.fixture(autouse=True)
def filled(hub, adapter):
    hub.import_folder("model", "acme/lora", adapter)


def test_status_comes_instead_of_the_answer_as_often_as_told(hub):
    hub.faults.append(Fault("GET /acme/lora", "status", times=2, status=429, headers={"Retry-After": "7"}))
    answers = [ask(hub.url, FILE) for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert [record.fault for record in hub.log] == ["status", "status", None]


def test_match_is_searched_in_method_and_path(hub):
    hub.faults.append(Fault("HEAD .*config", "status", times=-1))
    assert ask(hub.url, FILE).status == 200
    assert ask(hub.url, FILE, "HEAD").status == 503
    assert ask(hub.url, FILE, "HEAD").status == 503


@pytest.mark.parametrize("fault", [Fault("config", "reset"), Fault("config", "reset", after=5)])
def test_reset(hub, fault):
    hub.faults.append(fault)
    with pytest.raises(ConnectionResetError):
        ask(hub.url, FILE)
    assert ask(hub.url, FILE).status == 200


def test_lost_reply_comes_after_the_deed(hub):
    hub.faults.append(Fault("repos/create", "lost_reply"))
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        ask(hub.url, "/api/repos/create", "POST", {"name": "new"})
    assert ask(hub.url, "/api/models/local/new").status == 200


def test_truncate_ends_cleanly(hub):
    hub.faults.append(Fault("config", "truncate", after=10))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(hub.url, FILE)
    assert len(caught.value.partial) == 10


def test_delay(hub):
    hub.faults.append(Fault("config", "delay", seconds=0.3))
    start = time.monotonic()
    assert ask(hub.url, FILE).status == 200
    assert time.monotonic() - start >= 0.3


def test_corrupt_keeps_the_length(hub):
    true = ask(hub.url, FILE)
    hub.faults.append(Fault("config", "corrupt"))
    spoilt = ask(hub.url, FILE)
    assert len(spoilt.body) == len(true.body)
    assert spoilt.body != true.body
    assert spoilt.headers["ETag"] == true.headers["ETag"]


def test_wrong_headers(hub):
    true = ask(hub.url, FILE, "HEAD")
    for kind in ("etag", "size", "no_commit"):
        hub.faults.append(Fault("config", kind))
    etag, size, no_commit = (ask(hub.url, FILE, "HEAD") for _ in range(3))
    assert etag.headers["ETag"] != true.headers["ETag"]
    assert int(size.headers["X-Linked-Size"]) != int(true.headers["Content-Length"])
    assert true.headers["X-Repo-Commit"]
    assert no_commit.headers["X-Repo-Commit"] is None


def test_ignore_range(hub):
    hub.faults.append(Fault("config", "ignore_range"))
    whole, part = (ask(hub.url, FILE, Range="bytes=0-3") for _ in range(2))
    assert (whole.status, part.status) == (200, 206)
    assert len(whole.body) > len(part.body) == 4


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="truncate"):
        Fault(".", "explode")


def test_a_connection_outlives_a_refused_body(hub):
    """The unread body of a refused request must not be taken for the next request."""
    hub.faults.append(Fault("preupload", "status"))
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=10)
    statuses = []
    for _ in range(2):
        connection.request("POST", "/api/models/acme/lora/preupload/main", b'{"files": []}' + b" " * 100_000)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    assert statuses == [503, 401]


def test_a_stopped_hub_answers_nobody(hub):
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=10)
    connection.request("GET", FILE)
    connection.getresponse().read()
    hub.stop()
    with pytest.raises(OSError):
        connection.request("GET", FILE)
        connection.getresponse()
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(hub.url).port), timeout=5)


def test_quota(tmp_path):
    with LocalHub(tmp_path / "limited", quota=(2, 60)) as hub:
        answers = [ask(hub.url, "/api/models") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].headers["RateLimit"].startswith('"api";r=1;t=')
        assert answers[2].headers["RateLimit-Policy"] == '"fixed window";"api";q=2;w=60'
        assert ask(hub.url, "/a/b/resolve/main/c").status == 404  # files have a quota of their own
        assert ask(hub.url, "/api/models", token=None).status == 200  # and so has everybody
