"""The floods of floods.py in a size that takes seconds, and single hostile moves."""

import contextlib
import errno
import inspect
import socket
import sys
import threading
import time

import pytest

import pymux

from . import floods, inside, util
from .processes import no_descriptor_left, python

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="processes and limits as Linux has them"
)


@linux
@pytest.mark.timeout(180)
@pytest.mark.parametrize("flood", floods.FLOODS)
def test_a_flood_costs_those_who_behave_nothing_but_time(backend, flood):
    assert floods.run(flood, backend)


# -- resets, at each stage ---------------------------------------------------------


def test_a_reset_in_the_backlog_harms_nobody(backend):
    # Before accept: what is accepted then is gone already.
    handler = util.Ends()
    with util.serving(handler, backend) as server:
        with util.held(server):
            socks = [util.connect(server.address) for _ in range(20)]
            for sock in socks[::2]:
                sock.sendall(b"never mind")
                util.reset(sock)
        for sock in socks[1::2]:
            sock.sendall(b"hello")
            assert util.recv_exactly(sock, 5) == b"hello"
            sock.close()
        util.wait_until(lambda: server.stats().connections == 0)
        util.wait_until(lambda: len(handler.ended) == server.stats().accepted)
    assert set(handler.errors()) <= {None, errno.ECONNRESET}
    assert handler.errors().count(None) == 10


@pytest.mark.parametrize("stage", ["flushing", "lingering", "half-closed"])
def test_a_reset_while_it_closes_is_reported_and_frees_all(backend, stage):
    def answer(data):
        if stage == "lingering":
            handler.open[0].close()
        return b"x" * (10 if stage == "lingering" else 8_000_000)

    handler = util.Ends(answer)
    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        sock.sendall(b"go")
        assert util.recv_exactly(sock, 10) == b"x" * 10
        if stage == "half-closed":
            sock.shutdown(socket.SHUT_WR)
            util.settle(server)
        elif stage == "lingering":
            assert sock.recv(1) == b""
        util.reset(sock)
        util.wait_until(lambda: handler.ended)
        assert handler.errors() == [errno.ECONNRESET]
        stats = server.stats()
        assert (stats.connections, stats.queued, stats.buffers) == (0, 0, 0)


# -- memory of what waits ----------------------------------------------------------


@pytest.mark.parametrize("size", [100, 5000, 100_000])
@pytest.mark.parametrize(
    "framing", [pymux.Raw(), pymux.Lines(), pymux.LengthPrefix(8)], ids=repr
)
@pytest.mark.parametrize("way", ["send", "send_many", "both"])
def test_what_waits_takes_little_more_memory_than_its_bytes(mux, way, framing, size):
    # The head of each shared message had a block of 64 KiB to itself.
    conn, peer = util.pair(mux, framing)
    with peer:
        conn.send(b"x" * 8_000_000)  # what the kernel takes, and more
        mux.harvest(0)
        before = mux.stats()
        data = b"y" * size
        for k in range(1_000_000 // size):
            if way != "send":
                mux.send_many([conn], data)
            if way != "send_many":
                conn.send(data if way == "send" else data[:100])
            if not k % 100:
                mux.harvest(0)
        mux.harvest(0)
        after = mux.stats()
        queued = after.queued - before.queued
        taken = after.buffers - before.buffers
        assert queued >= 900_000
        assert taken <= queued * 1.06 + 2 * 65536
        conn.abort()
        mux.harvest(0)
        assert mux.stats().buffers == 0


# -- what handlers may do to others ------------------------------------------------


@pytest.mark.parametrize("form", ["function", "batch", "object"])
@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_handler_may_end_another_connection_of_its_harvest(
    backend, tmp_path, form, end
):
    # The other's answers given before stay, its messages after do not come.
    told, seen = [], []

    def row(conn, data):
        seen.append(data)
        if data == b"end them":
            for other in conns:
                if other is not conn:
                    getattr(other, end)()
        return data

    @pymux.batched
    def batch(batch):
        batch.reply([row(conn, data) for conn, data in batch])

    class Object:
        def opened(self, conn):
            conns.append(conn)

        def received(self, conn, data):
            return row(conn, data)

        def closed(self, conn, error):
            told.append(error)

    conns = []
    handler = {"function": row, "batch": batch, "object": Object()}[form]
    with (
        util.serving(handler, backend, tmp_path / "s", framing=pymux.Lines()) as server,
        util.connect(server.address) as first,
        util.connect(server.address) as two,
    ):
        first.sendall(b"who\n")
        assert util.recv_exactly(first, 4) == b"who\n"
        two.sendall(b"who\n")
        assert util.recv_exactly(two, 4) == b"who\n"
        if form != "object":
            conns += util.in_server(server, inside.connections)
        first.sendall(b"end them\n")
        assert util.recv_exactly(first, 9) == b"end them\n"
        assert util.until_end(two)[0] == b""
        first.sendall(b"still\n")
        assert util.recv_exactly(first, 6) == b"still\n"
    assert told == ([None, None] if form == "object" else [])


def test_a_handler_that_ends_everybody_gets_no_message_of_theirs(backend, tmp_path):
    class Tyrant(util.Ends):
        def received(self, conn, data):
            seen.append(data)
            for other in self.open:
                other.close()
            return b"last words"

    seen = []
    handler = Tyrant()
    with (
        util.serving(handler, backend, tmp_path / "s", framing=pymux.Lines()) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(5)]
        util.wait_until(lambda: len(handler.open) == 5)
        with util.held(server):
            for sock in socks:
                sock.sendall(b"one\ntwo\n")
        answers = [util.until_end(sock)[0] for sock in socks]
        for sock in socks:
            sock.close()
        util.wait_until(lambda: len(handler.ended) == 5)
    assert seen == [b"one"]
    assert sorted(answers) == [b""] * 4 + [b"last words\n"]
    assert handler.errors() == [None] * 5


@pytest.mark.parametrize("form", util.FORMS)
def test_while_a_handler_blocks_nobody_is_lost(backend, form):
    release, entered = threading.Event(), threading.Event()

    def answer(data):
        if data == b"block":
            entered.set()
            release.wait(10)
        return data

    handler = util.in_form(form, answer)
    with (
        util.serving(handler, backend, framing=pymux.Lines()) as server,
        util.connect(server.address) as blocker,
        util.connect(server.address) as other,
    ):
        blocker.sendall(b"block\n")
        assert entered.wait(10)
        other.sendall(b"am I next?\n")
        with util.connect(server.address) as late:  # the kernel accepts meanwhile
            late.sendall(b"and I?\n")
            release.set()
            assert util.recv_exactly(blocker, 6) == b"block\n"
            assert util.recv_exactly(other, 11) == b"am I next?\n"
            assert util.recv_exactly(late, 7) == b"and I?\n"


def test_time_in_a_handler_is_not_the_peers_idleness(mux, clock):
    # A peer that sent while the mux was busy elsewhere was not idle.
    limits = pymux.Limits(idle_timeout=60)
    conn, peer = util.pair(mux, limits=limits)
    with peer:
        util.assert_nothing(mux)
        peer.sendall(b"in time")
        clock.advance(61)  # a handler that blocks for longer than the timeout
        acc = util.harvest_until(mux, lambda acc: acc.messages or acc.closed)
        assert acc.messages == [(conn, b"in time")]


# -- the clock ---------------------------------------------------------------------


def test_a_wall_clock_that_jumps_moves_nothing(mux, monkeypatch):
    jumps = iter(range(10**9, 2 * 10**9, 86_400 * 365))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: next(jumps) * 10**9)
    limits = pymux.Limits(idle_timeout=60, close_timeout=60)
    conn, peer = util.pair(mux, limits=limits)
    with peer:
        ran = []
        mux.call_later(60, ran.append, "never")
        mux.call_later(0, ran.append, "now")
        begun = time.monotonic()
        acc = util.harvest_until(mux, lambda acc: ran)
        batch = mux.harvest(0.05, min_messages=2, max_delay=60)
        assert time.monotonic() - begun >= 0.05
        assert ran == ["now"]
        assert not acc.closed
        assert not batch.closed
        assert not conn.closed


# -- with no descriptor left -------------------------------------------------------

SERVES = """
import socket, sys, time
import pymux
from tests import inside, util

def answer(data):
    if data == b"raise":
        raise ValueError("as asked")
    return data

async def threaded(conn):
    async for data in conn:
        await pymux.sleep(0.001)
        conn.send(await pymux.to_thread(answer, data))

def ask(server, line):
    with util.connect(server.address) as sock:
        sock.sendall(line + b"\\n")
        sock.shutdown(socket.SHUT_WR)
        return util.until_end(sock)[0]

handlers = [util.in_form(form, answer) for form in util.FORMS] + [threaded]
with pymux.Mux() as mux:
    util.connect(mux.listen(("127.0.0.1", 0)).address).close()
before = set(sys.modules)
servers = [
    pymux.Server(
        handler, ("127.0.0.1", 0), framing=pymux.Lines(), on_error=lambda *args: None
    ).start()
    for handler in handlers
]
for server in servers:
    for _ in range(20):
        assert ask(server, b"hello") == b"hello\\n"
    assert ask(server, b"raise") == b""
    # as if another thread had had the GIL for long
    util.in_server(server, notice_a_busy_gil)
    for _ in range(20):
        assert ask(server, b"hello") == b"hello\\n"
for server in servers:
    server.stop()
print(sorted(set(sys.modules) - before))
"""


def test_serving_imports_nothing():
    # An import takes a descriptor. A server that was out of them ended by one: the
    # first that looked, late, how to keep the GIL.
    look = inspect.getsource(inside.notice_a_busy_gil)
    with python("-c", look + SERVES) as child:
        out, err = child.communicate(timeout=50)
    assert err == ""
    assert out == "[]\n"


def test_a_handler_that_raises_with_no_descriptor_left_is_logged(backend, logged):
    def handler(conn, data):
        raise ValueError("as asked")

    with util.serving(handler, backend) as server:
        with util.connect(server.address) as sock:
            util.wait_until(lambda: server.stats().connections == 1)
            with no_descriptor_left():
                sock.sendall(b"hello")
                assert util.until_end(sock)[0] == b""
        util.wait_until(lambda: server.stats().connections == 0)
    (record,) = logged
    assert record.exc_info[0] is ValueError
