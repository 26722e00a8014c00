import threading
import time

import pytest

from rocket_hub.discovery.hub.client import collect, for_each


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
