"""The pacer against a clock that only moves when somebody sleeps, and against a Hub with a quota."""

import threading
import time

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.utils import httpx

from rocket_hub.discovery.hub.client import LONGEST_WAIT, Pacer, call, collect, for_each, watch
from rocket_hub.discovery.hub.download import fetch
from rocket_hub.localhub import Fault, LocalHub
from tests.helping import put

FILE = httpx.URL("https://hub.example/a/b/resolve/main/x.json")
API = httpx.URL("https://hub.example/api/models")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pacer(clock):
    return Pacer(lambda: clock.now, clock.sleep)


def told(remaining, seconds, kind="resolvers", limit=100, window=60):
    return {"RateLimit": f'"{kind}";r={remaining};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={limit};w={window}'}  # fmt: skip


def waited(pacer, clock, url=FILE, token=""):
    before = clock.now
    pacer.wait(url, token)
    return clock.now - before


def test_without_a_limit_nobody_waits(pacer, clock):
    for _ in range(1000):
        assert waited(pacer, clock) == 0
        pacer.learn(FILE, "", 200, {})


def test_the_window_is_not_used_up(pacer, clock):
    pacer.wait(FILE)
    pacer.learn(FILE, "", 200, told(11, 30))
    assert sum(waited(pacer, clock) == 0 for _ in range(3)) == 3  # 11 are left, of which 8 are kept back
    assert waited(pacer, clock) == 31  # until the window is over for certain
    assert waited(pacer, clock) == 0


def test_what_was_sent_and_not_answered_counts(pacer, clock):
    for _ in range(5):
        pacer.wait(FILE)
    pacer.learn(FILE, "", 200, told(14, 30))  # four more are on their way, and eight are kept back
    assert [waited(pacer, clock) for _ in range(3)] == [0, 0, 31]


def test_answers_in_the_wrong_order_do_not_raise_the_count(pacer, clock):
    for _ in range(3):
        pacer.wait(FILE)
    for remaining in (9, 11, 10):
        pacer.learn(FILE, "", 200, told(remaining, 30))
    assert waited(pacer, clock) == 31


def test_kinds_of_requests_and_tokens_have_limits_of_their_own(pacer, clock):
    pacer.wait(FILE)
    pacer.learn(FILE, "", 200, told(0, 30))
    assert waited(pacer, clock, API) == waited(pacer, clock, FILE, "Bearer x") == 0
    assert waited(pacer, clock, httpx.URL("https://elsewhere.example/a/resolve/main/x")) == 0
    assert waited(pacer, clock) == 31


def test_the_hub_names_the_limit_that_counts(pacer, clock):
    pages = httpx.URL("https://hub.example/somebody/something")
    for url in (API, pages):
        pacer.wait(url)
        pacer.learn(url, "", 200, told(0, 30, kind="api"))
    assert waited(pacer, clock, pages) == 31
    assert waited(pacer, clock, API) == 0  # the same window, which is new by now


def test_retry_after_holds_for_all(pacer, clock):
    pacer.learn(FILE, "", 429, {"Retry-After": "7"})
    assert waited(pacer, clock) == 7
    pacer.learn(FILE, "", 503, {"Retry-After": "3"})
    assert waited(pacer, clock) == 3
    pacer.learn(FILE, "", 200, {"Retry-After": "3"})
    assert waited(pacer, clock) == 0


@pytest.mark.parametrize("headers", [{"Retry-After": "86400"}, {"Retry-After": "9" * 400}, told(0, 10**9),
                                     {"RateLimit": "nonsense"}, {"Retry-After": "soon"}])  # fmt: skip
def test_nobody_waits_for_ever(pacer, clock, headers):
    pacer.wait(FILE)
    pacer.learn(FILE, "", 429, headers)
    assert waited(pacer, clock) <= LONGEST_WAIT


def test_the_limit_that_was_told_is_known(pacer):
    assert pacer.limit_of(FILE) is None
    pacer.learn(FILE, "", 200, told(9, 9, limit=5000, window=300))
    assert pacer.limit_of(FILE) == (5000, 300)


def test_a_session_is_watched_once():
    session = httpx.Client()
    for _ in range(3):
        watch(session)
    assert [len(hooks) for hooks in session.event_hooks.values()] == [1, 1]
    call("x", lambda: None)
    assert len(get_session().event_hooks["request"]) == 2  # the library's own comes first


def test_threads_together_are_never_refused(tmp_path):
    with LocalHub(tmp_path / "hub", quota=(30, 1)) as hub:
        revision = put(hub, "model", "a/b", {"a.json": "{}"})
        hub.faults.append(Fault("resolve", "status", status=429, headers={"Retry-After": "1"}))
        api = HfApi(endpoint=hub.url, token="hf_local")
        started = time.monotonic()
        collect(lambda _: fetch(api, "a/b", revision, "a.json", length=9), range(50), 8)
        assert time.monotonic() - started < 10
        assert [record.fault for record in hub.log if record.status == 429] == ["status"]
        assert len(hub.log) == 51


@pytest.mark.parametrize("workers", [0, 1, 3, 50])
def test_results_come_in_the_order_of_the_items(workers):
    def slow_first(number):
        time.sleep(0.01 if number == 0 else 0)
        return number * number

    assert collect(slow_first, range(20), workers) == [number * number for number in range(20)]
    assert collect(slow_first, [], workers) == []


def test_no_more_threads_than_told_and_really_at_once():
    running, most, lock = set(), [0], threading.Lock()

    def work(_):
        with lock:
            running.add(threading.get_ident())
            most[0] = max(most[0], len(running))
        time.sleep(0.01)
        with lock:
            running.discard(threading.get_ident())

    collect(work, range(24), 4)
    assert 1 < most[0] <= 4


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_here_and_ends_the_work(error):
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.002)
        if number == 3:
            raise error("three")

    with pytest.raises(error, match="three"):
        collect(work, range(1000), 2)
    time.sleep(0.02)
    assert len(begun) < 50


def test_what_the_receiver_raises_ends_it_at_once_although_a_thread_hangs():
    hang, begun = threading.Event(), []

    def work(number):
        begun.append(number)
        if number:
            hang.wait(20)

    def receive(position, result):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(100), 3, receive)
    assert time.monotonic() - started < 5
    hang.set()
    time.sleep(0.05)
    assert len(begun) <= 6
