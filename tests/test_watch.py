"""Files of the user that a mux watches beside its connections."""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading

import pytest

import pymux

from . import util
from .interrupts import at_each_place, interrupted, needs_tracing
from .util import harvest_until, pair

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
BOTH = READ | WRITE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are no sockets there")


@pytest.fixture
def socks():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


class Calls(list):
    """A function to be called that keeps its arguments."""

    def __call__(self, *args):
        self.append(args)


def until(mux, calls, count):
    """Harvest until there are so many calls."""
    harvest_until(mux, lambda _: len(calls) >= count)


def test_a_readable_pipe_is_told_to_the_function(mux, pipe):
    read, write = pipe
    calls = Calls()
    watch = mux.watch(read, READ, calls)
    assert not mux.harvest(0)
    assert calls == []
    os.write(write, b"x")
    until(mux, calls, 1)
    assert calls[0] == (read, READ)
    assert (watch.fileobj, watch.number, watch.events) == (read, read, READ)


def test_a_file_object_is_watched_by_its_descriptor(mux, socks):
    ours, theirs = socks
    calls = Calls()
    mux.watch(ours, READ, calls)
    theirs.send(b"x")
    until(mux, calls, 1)
    assert calls[0] == (ours, READ)


def test_a_file_that_stays_ready_is_told_again_by_each_harvest(mux, pipe):
    read, write = pipe
    calls = Calls()
    mux.watch(read, READ, calls)
    os.write(write, b"xyz")
    for count in range(1, 5):
        mux.harvest(5)
        assert len(calls) == count
    os.read(read, 10)
    mux.harvest(0)
    mux.harvest(0)
    assert len(calls) == 4
    os.write(write, b"x")
    mux.harvest(5)
    assert len(calls) == 5


def test_a_part_that_is_left_unread_is_told_again(mux, pipe):
    read, write = pipe
    found = []
    mux.watch(read, READ, lambda fd, _: found.append(os.read(fd, 1)))
    os.write(write, b"abc")
    until(mux, found, 3)
    assert found == [b"a", b"b", b"c"]
    mux.harvest(0)
    assert len(found) == 3


def test_a_writable_file_is_told_while_it_is_writable(mux, pipe):
    read, write = pipe
    calls = Calls()
    mux.watch(write, WRITE, calls)
    for count in range(1, 4):
        mux.harvest(5)
        assert len(calls) == count
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(65536))
    mux.harvest(0)  # may tell of what was so before the pipe was full
    before = len(calls)
    mux.harvest(0)
    assert len(calls) == before
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(read, 1 << 20)
    until(mux, calls, before + 1)
    assert calls[-1] == (write, WRITE)


def test_only_the_events_that_were_asked_for_are_told(mux, socks):
    ours, theirs = socks
    calls = Calls()
    watch = mux.watch(ours, WRITE, calls)
    theirs.send(b"x")
    mux.harvest(5)
    assert calls.pop() == (ours, WRITE)
    watch.change(BOTH)
    harvest_until(mux, lambda _: (ours, BOTH) in calls or both_told(calls))
    watch.change(READ)
    calls.clear()
    mux.harvest(5)
    assert calls == [(ours, READ)]
    assert watch.events == READ


def both_told(calls):
    """Whether each of the events has been told, be it one after the other."""
    return {events for _, events in calls} >= {READ, WRITE}


def test_the_end_of_a_pipe_counts_as_readable(mux, pipe):
    read, write = pipe
    calls = Calls()
    mux.watch(read, READ, calls)
    os.close(write)
    until(mux, calls, 2)
    assert set(calls) == {(read, READ)}
    assert os.read(read, 1) == b""


def test_a_pipe_without_a_reader_counts_as_writable(mux, pipe):
    read, write = pipe
    calls = Calls()
    os.close(read)
    mux.watch(write, WRITE, calls)
    until(mux, calls, 2)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")


def test_a_closed_watch_tells_nothing_more(mux, pipe):
    read, write = pipe
    calls = Calls()
    watch = mux.watch(read, READ, calls)
    assert not watch.closed
    watch.close()
    watch.close()
    assert watch.closed
    os.write(write, b"x")
    mux.harvest(0)
    assert calls == []
    with pytest.raises(RuntimeError, match="closed"):
        watch.change(READ)
    assert os.read(read, 1) == b"x"  # the file is the caller's


def test_a_function_may_close_its_watch_and_its_file(mux, pipe):
    read, write = pipe
    calls = Calls()

    def end(fd, events):
        calls(fd, events)
        watch.close()
        os.close(fd)

    watch = mux.watch(read, READ, end)
    os.write(write, b"x")
    until(mux, calls, 1)
    mux.harvest(0)
    assert len(calls) == 1


def test_a_function_may_close_the_watch_of_another_ready_file(mux, socks):
    calls, watches = Calls(), {}

    def end(sock, events):
        calls(sock, events)
        for other, watch in watches.items():
            if other is not sock:
                watch.close()

    for sock in socks:
        watches[sock] = mux.watch(sock, WRITE, end)
    mux.harvest(5)
    assert len(calls) == 1


def test_a_watch_that_was_closed_may_be_made_again(mux, pipe):
    read, write = pipe
    old, new = Calls(), Calls()
    os.write(write, b"x")
    mux.watch(read, READ, old).close()
    mux.watch(read, READ, new)
    until(mux, new, 1)
    assert old == []


def test_a_new_file_of_the_same_number_has_its_own_events(mux, pipe):
    read, write = pipe
    old, new = Calls(), Calls()

    def replace(fd, events):
        old(fd, events)
        watch.close()
        os.dup2(other[0], fd)
        mux.watch(fd, READ, new)

    other = os.pipe()
    watch = mux.watch(read, READ, replace)
    os.write(write, b"x")
    until(mux, old, 1)
    mux.harvest(0)
    assert new == []
    os.write(other[1], b"y")
    until(mux, new, 1)
    for end in other:
        os.close(end)


def test_a_watch_ends_the_wait_of_a_harvest(mux, pipe):
    read, write = pipe
    calls = Calls()
    mux.watch(read, READ, calls)
    thread = threading.Thread(target=os.write, args=(write, b"x"))
    thread.start()
    batch = mux.harvest(30)  # returns long before that
    thread.join()
    assert not batch
    assert calls == [(read, READ)]


def test_messages_come_beside_watched_files(mux, pipe):
    read, write = pipe
    conn, peer = pair(mux)
    calls = Calls()
    mux.watch(read, READ, calls)
    with peer:
        peer.sendall(b"hello")
        os.write(write, b"x")
        acc = harvest_until(mux, lambda acc: calls and acc.received(conn))
        assert acc.received(conn) == b"hello"


def test_a_ready_file_ends_the_gathering_of_a_batch(mux, pipe):
    conn, peer = pair(mux)
    calls = Calls()
    mux.watch(pipe[0], READ, calls)
    with peer:
        peer.sendall(b"hello")
        os.write(pipe[1], b"x")
        acc = harvest_until(mux, lambda _: calls, min_messages=100, max_delay=600)
        harvest_until(mux, lambda acc: acc.received(conn) == b"hello", into=acc)


def test_many_files_are_told_in_one_harvest(mux):
    ends = [os.pipe() for _ in range(100)]
    calls = Calls()
    for read, write in ends:
        mux.watch(read, READ, calls)
        os.write(write, b"x")
    mux.harvest(5)
    assert sorted(fd for fd, _ in calls) == sorted(read for read, _ in ends)
    mux.close()
    for end in ends:
        os.close(end[0])
        os.close(end[1])


def test_an_exception_leaves_the_harvest_and_the_watch_goes_on(mux, pipe):
    read, write = pipe
    calls = Calls()

    def fail(fd, events):
        calls(fd, events)
        raise ZeroDivisionError

    mux.watch(read, READ, fail)
    os.write(write, b"x")
    for count in (1, 2):
        with pytest.raises(ZeroDivisionError):
            mux.harvest(5)
        assert len(calls) == count


def test_an_exception_keeps_no_event_from_other_files(mux, socks):
    calls = Calls()

    def fail(sock, events):
        calls(sock, events)
        raise ZeroDivisionError

    for sock in socks:
        mux.watch(sock, WRITE, fail)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            mux.harvest(5)
    assert {sock for sock, _ in calls} == set(socks)


def test_an_exception_in_a_server_goes_to_on_error(backend, pipe):
    read, write = pipe
    errors = []

    def fail(fd, events):
        os.read(fd, 1)
        raise ZeroDivisionError

    with util.serving(
        lambda conn, data: data,
        backend,
        on_error=lambda conn, error: errors.append((conn, type(error))),
    ) as server:
        util.in_server(server, lambda mux: mux.watch(read, READ, fail))
        os.write(write, b"x")
        util.wait_until(lambda: errors)
        os.write(write, b"x")
        util.wait_until(lambda: len(errors) == 2)
    assert errors == [(None, ZeroDivisionError)] * 2


def test_a_server_beside_a_process(backend):
    with (
        subprocess.Popen(
            [sys.executable, "-c", "print('ready', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
        util.serving(lambda conn, data: data, backend) as server,
    ):
        found = []

        def line(out, events):
            found.append(out.readline())
            watch.close()

        watch = util.in_server(server, lambda mux: mux.watch(child.stdout, READ, line))
        util.wait_until(lambda: found)
        assert found == [b"ready\n"]
        child.communicate(b"\n", timeout=20)


def test_a_file_that_was_closed_under_its_watch_is_an_error(backend, pipe):
    read, write = pipe
    with pymux.Mux(backend) as mux:
        mux.watch(read, READ, lambda fd, events: os.close(fd))
        os.write(write, b"x")
        if mux.backend in ("epoll", "kqueue"):
            with pytest.raises(OSError, match="cannot watch"):
                mux.harvest(5)
            assert not mux.harvest(0)  # the watch is closed


def test_a_file_is_watched_once(mux, pipe):
    mux.watch(pipe[0], READ, print)
    with pytest.raises(ValueError, match="watched already"):
        mux.watch(pipe[0], WRITE, print)


def test_a_number_over_the_limit_of_select_is_refused():
    import fcntl
    import resource

    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000:
        pytest.skip("so many descriptors are not allowed")
    read, write = os.pipe()
    high = fcntl.fcntl(read, fcntl.F_DUPFD, 1500)
    with pymux.Mux("select") as mux, pytest.raises(OSError, match="1024"):
        mux.watch(high, READ, print)
    for end in (read, write, high):
        os.close(end)


def test_a_mux_that_closes_closes_its_watches(mux, pipe):
    watch = mux.watch(pipe[0], READ, print)
    mux.close()
    assert watch.closed
    watch.close()
    with pytest.raises(RuntimeError):
        mux.watch(pipe[0], READ, print)


def test_a_function_may_close_the_mux(mux, socks):
    calls = Calls()

    def end(sock, events):
        calls(sock, events)
        mux.close()

    for sock in socks:
        mux.watch(sock, WRITE, end)
    assert not mux.harvest(5)
    assert len(calls) == 1


def test_another_thread_may_not_watch(mux, pipe):
    mux.harvest(0)
    errors = []

    def other():
        try:
            mux.watch(pipe[0], READ, print)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors


def test_the_pollers_descriptor_tells_of_watched_files(mux, pipe):
    read, write = pipe
    try:
        number = mux.fileno()
    except pymux.BackendUnavailable:
        pytest.skip("no descriptor")
    calls = Calls()
    mux.watch(read, READ, calls)
    with selectors.DefaultSelector() as selector:
        selector.register(number, READ)
        assert selector.select(0) == []
        os.write(write, b"x")
        for count in (1, 2):
            assert selector.select(10)
            mux.harvest(0)
            assert len(calls) == count
        os.read(read, 10)
        mux.harvest(0)
        assert selector.select(0) == []


@needs_tracing
def test_a_harvest_that_is_interrupted_forgets_no_file(backend, pipe):
    read, write = pipe
    os.write(write, b"x")

    def scene(nth):
        with pymux.Mux(backend) as mux:
            calls = Calls()
            watch = mux.watch(read, READ, calls)
            where, _ = interrupted(lambda: mux.harvest(5), nth)
            calls.clear()
            for _ in range(3):
                mux.harvest(0)
            assert calls, where
            watch.close()
        return where

    assert at_each_place(scene) > 10
