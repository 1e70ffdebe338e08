"""A thread that follows: in order, not too far behind, and never silent about a failure."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from qupath_bridge.engine.follower import Follower
from qupath_bridge.wanted import check_wanted


def test_what_is_told_is_done_in_order_before_it_is_left():
    done: list[int] = []
    with Follower("test") as follower:
        for number in range(50):
            follower.do(done.append, number)
    assert done == list(range(50))


def test_the_caller_waits_when_too_much_is_waiting():
    go, begun = threading.Event(), []

    def slow(number: int) -> None:
        begun.append(number)
        go.wait(10)

    def tell() -> None:
        with Follower("test", ahead=2) as follower:
            for number in range(10):
                follower.do(slow, number)
                told.append(number)

    told: list[int] = []
    caller = threading.Thread(target=tell)
    caller.start()
    caller.join(0.5)
    assert caller.is_alive()
    assert told == [0, 1]
    go.set()
    caller.join(10)
    assert told == begun == list(range(10))


def fail() -> None:
    raise ValueError("no")


def test_a_failure_reaches_the_caller():
    with pytest.raises(ValueError, match="no"), Follower("test") as follower:
        follower.do(fail)
    with pytest.raises(ValueError, match="no"), Follower("test") as follower:
        for _ in range(5):
            follower.do(fail)


def test_when_the_caller_fails_the_rest_is_dropped():
    done: list[int] = []
    with pytest.raises(KeyError), Follower("test", ahead=100) as follower:
        started, go = threading.Event(), threading.Event()

        def first() -> None:
            started.set()
            go.wait(10)
            done.append(0)

        follower.do(first)
        for number in range(1, 20):
            follower.do(done.append, number)
        started.wait(10)
        threading.Timer(0.2, go.set).start()
        raise KeyError
    assert done == [0]


def until_dropped(begun: threading.Event) -> None:
    begun.set()
    while True:
        check_wanted()
        time.sleep(0.001)


def test_what_takes_long_ends_when_the_caller_fails():
    begun = threading.Event()
    with pytest.raises(KeyError), Follower("test") as follower:
        follower.do(until_dropped, begun)
        begun.wait(10)
        raise KeyError


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_what_takes_long_ends_when_waiting_for_it_is_interrupted():
    def interrupted() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        until_dropped(threading.Event())

    with pytest.raises(KeyboardInterrupt), Follower("test") as follower:
        follower.do(interrupted)


def test_what_a_follower_tells_another_is_done_before_both_are_left():
    done: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.01)
        check_wanted()
        done.append(number)

    with Follower("last", ahead=1) as last, Follower("first", leads=last) as first:
        for number in range(20):
            first.do(last.do, slow, number)
    assert done == list(range(20))


def test_a_failure_of_the_last_reaches_the_caller():
    with (
        pytest.raises(ValueError, match="no"),
        Follower("last") as last,
        Follower("first", leads=last) as first,
    ):
        for _ in range(9):
            first.do(last.do, fail)


@pytest.mark.timeout(30)
def test_both_end_when_the_caller_fails_though_one_waits_for_the_other():
    begun = threading.Event()
    with (
        pytest.raises(KeyError),
        Follower("last", ahead=1) as last,
        Follower("first", leads=last) as first,
    ):
        for _ in range(3):  # more than the last takes
            first.do(last.do, until_dropped, begun)
        begun.wait(10)
        raise KeyError


def test_what_follows_nobody_is_wanted():
    done: list[int] = []
    with Follower("test") as follower:
        follower.do(lambda: check_wanted() or done.append(1))
    check_wanted()
    assert done == [1]
