"""`pymux.Selector` beside signals, in several threads, and in a forked child."""

import contextlib
import os
import selectors
import signal
import socket
import threading
import time

import pytest

import pymux

from . import inside
from .alarms import needs_alarms, on_alarm
from .processes import in_child
from .util import ready, wait_until

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
BOTH = READ | WRITE
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


# --- signals --------------------------------------------------------------------


@contextlib.contextmanager
def alarm(handler):
    """Call the handler once, soon."""
    with on_alarm(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        yield


@needs_alarms
def test_a_signal_does_not_end_a_wait(selector):
    calls = []
    start = time.monotonic()
    with alarm(lambda *_: calls.append(1)):
        assert selector.select(0.1) == []
    assert time.monotonic() - start >= 0.1
    assert calls == [1]


@needs_alarms
def test_a_signals_handler_may_end_an_endless_wait_by_making_something_ready(
    selector, pair
):
    ours, theirs = pair
    selector.register(ours, READ)
    with alarm(lambda *_: theirs.send(b"x")):
        assert ready(selector, None) == {ours: READ}


@needs_alarms
def test_a_signals_handler_that_raises_leaves_select(selector, pair):
    class Enough(Exception):
        pass

    def handler(*_):
        raise Enough

    ours, theirs = pair
    selector.register(ours, READ)
    with alarm(handler), pytest.raises(Enough):
        selector.select()
    theirs.send(b"x")
    assert ready(selector) == {ours: READ}


# --- threads --------------------------------------------------------------------


class Thread(threading.Thread):
    """A thread whose outcome `result()` returns or raises."""

    def __init__(self, fn):
        super().__init__(daemon=True)
        self.fn = fn
        self.start()

    def run(self):
        try:
            self.outcome = (self.fn(), None)
        except BaseException as exc:
            self.outcome = (None, exc)

    def result(self):
        self.join(20)
        assert not self.is_alive()
        value, exc = self.outcome
        if exc is not None:
            raise exc
        return value


def test_a_registration_reaches_a_wait_that_has_begun(selector, backend, pair):
    if backend not in ("epoll", "kqueue"):
        pytest.skip("waits on what was registered before")
    ours, _ = pair
    waiting = Thread(lambda: ready(selector, None))
    wait_until(lambda: not inside.has_spare_memory(selector))  # it has taken its memory
    selector.register(ours, WRITE)
    assert waiting.result() == {ours: WRITE}


def test_two_threads_may_wait_at_once(selector, pair):
    ours, theirs = pair
    selector.register(ours, READ)
    waiting = [Thread(lambda: ready(selector, None)) for _ in range(2)]
    wait_until(lambda: not inside.has_spare_memory(selector))
    theirs.send(b"x")
    assert [thread.result() for thread in waiting] == [{ours: READ}] * 2


def test_threads_may_wait_while_others_register(selector):
    """Each of the keys that select() returns is one that was registered."""
    reading, writing = os.pipe()
    held = [os.dup(writing) for _ in range(100)]
    stop = threading.Event()

    def wait():
        turns = 0
        while not stop.is_set():
            for key, events in selector.select(turns % 2 * 0.001):
                assert key.fd in held
                assert events == WRITE
            turns += 1
        return turns

    def change(numbers):
        for _ in range(30):
            for number in numbers:
                selector.register(number, WRITE)
            for number in numbers:
                selector.modify(number, BOTH)
                selector.modify(number, WRITE)
            for number in numbers:
                selector.unregister(number)

    try:
        waiting = [Thread(wait) for _ in range(2)]
        changing = [Thread(lambda k=k: change(held[k::2])) for k in range(2)]
        for thread in changing:
            thread.result()
        stop.set()
        for thread in waiting:
            assert thread.result()
        assert selector.select(0) == []
    finally:
        stop.set()
        for number in (reading, writing, *held):
            os.close(number)


def test_one_of_two_threads_that_register_the_same_gets_a_key_error(selector, pair):
    ours, _ = pair
    barrier = threading.Barrier(2)

    def register():
        barrier.wait(10)
        with contextlib.suppress(KeyError):
            return selector.register(ours, WRITE)

    for _ in range(50):
        both = [Thread(register), Thread(register)]
        got = [thread.result() for thread in both]
        assert got.count(None) == 1
        assert ready(selector) == {ours: WRITE}
        selector.unregister(ours)


def test_a_selector_may_be_closed_while_threads_use_it(backend):
    def use(selector):
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(ValueError, match="closed selector"):
            while True:
                selector.register(ours, WRITE)
                for key, _ in selector.select(0.001):
                    key.fileobj.fileno()
                with contextlib.suppress(KeyError):  # closed meanwhile
                    selector.unregister(ours)

    for _ in range(10):
        selector = pymux.Selector(backend)
        using = [Thread(lambda s=selector: use(s)) for _ in range(3)]
        wait_until(lambda s=selector: len(s.get_map()))
        closing = [Thread(selector.close) for _ in range(2)]
        for thread in closing + using:
            thread.result()


# --- fork -----------------------------------------------------------------------


@needs_fork
def test_a_child_may_close_what_it_was_born_with(selector, pair):
    ours, theirs = pair
    selector.register(ours, READ)
    in_child(selector.close)
    theirs.send(b"x")
    assert ready(selector) == {ours: READ}


@needs_fork
def test_a_child_may_use_a_selector_on_poll_or_select_by_itself(
    selector, backend, pair
):
    if backend not in ("poll", "select"):
        pytest.skip("shared, or not inherited")
    ours, _ = pair
    selector.register(ours, READ)

    def child():
        selector.modify(ours, WRITE)
        assert ready(selector) == {ours: WRITE}
        selector.unregister(ours)

    in_child(child)
    assert selector.select(0) == []
    assert selector.get_key(ours).events == READ
