"""`stop`: its time, what is left when it is over, and which callers it may have."""

import contextlib
import errno
import os
import threading
import time

import pytest

import pymux

from . import inside, util
from .processes import descriptors_allowed, python
from .stops import started, stop, stopping

LINES = pymux.Lines()
PATIENT = pymux.Limits(close_timeout=1000)
SOON = 5  # seconds, far under the patience of these tests' servers


def answering(backend, path, **options):
    """A server on a Unix socket that answers lines."""
    return util.serving(
        util.Ends(util.capitals), backend, path, framing=pymux.Lines(), **options
    )


@contextlib.contextmanager
def stuck(server):
    """A client whose long answer is under way, and which does not read it."""
    with util.connect(server.address) as sock:
        sock.sendall(b"long\n")
        util.recv_exactly(sock, 1)
        yield sock


def test_after_its_time_the_rest_is_reset_and_counted(backend, tmp_path, clock):
    log = util.Ends(util.capitals)
    with (
        util.serving(
            log, backend, tmp_path / "s", framing=LINES, limits=PATIENT
        ) as server,
        stuck(server),
        stuck(server),
        util.connect(server.address),
    ):
        util.wait_until(lambda: len(log.open) == 3)
        with stopping(server, 60) as thread:
            clock.advance(59, server)
            assert thread.is_alive()
            assert server.stats().reset == 0
            clock.advance(2, server)
        assert server.stats().reset == 2
        assert server.stats().connections == 0
    assert {conn for conn, _ in log.ended} == set(log.open)
    assert len(log.ended) == 3


def test_a_peer_that_is_reset_hears_of_it(backend):
    with (
        util.serving(
            lambda conn, data: b"x" * (16 << 20), backend, drain_timeout=0.05
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"long")
        util.recv_exactly(sock, 1)
        server.stop()
        assert util.until_end(sock)[1] == errno.ECONNRESET


def test_the_servers_own_drain_timeout_holds_where_stop_names_none(
    backend, tmp_path, clock
):
    with (
        util.serving(
            util.Ends(util.capitals),
            backend,
            tmp_path / "s",
            framing=LINES,
            limits=PATIENT,
            drain_timeout=60,
        ) as server,
        stuck(server),
        stopping(server, None) as thread,
    ):
        clock.advance(59, server)
        assert thread.is_alive()
        assert server.stats().reset == 0
        clock.advance(2, server)
    assert server.stats().reset == 1


def test_no_time_at_all_resets_at_once(backend, tmp_path):
    with (
        util.serving(
            util.Ends(util.capitals), backend, tmp_path / "s", framing=LINES
        ) as server,
        stuck(server),
    ):
        before = time.monotonic()
        server.stop(drain_timeout=0)
        assert time.monotonic() - before < SOON
    assert server.stats().reset == 1


def test_after_its_time_a_coroutine_is_closed_at_its_await(backend):
    ended = []

    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            ended.append("finally")

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        before = time.monotonic()
        server.stop(drain_timeout=0.05)
        assert time.monotonic() - before < SOON
        assert ended == ["finally"]


def test_after_its_time_a_call_in_a_thread_is_abandoned(backend):
    gate, ended = util.Gate(), []

    async def handler(conn):
        try:
            await gate.wait()
        finally:
            ended.append("finally")

    with util.serving(handler, backend) as server, util.connect(server.address):
        assert gate.reached.wait(10)
        before = time.monotonic()
        server.stop(drain_timeout=0.05)
        assert time.monotonic() - before < SOON
        assert ended == ["finally"]
        gate.open()


ABANDON = """
import sys, time
import pymux

async def handler(conn):
    conn.send(b"x")
    await pymux.to_thread(time.sleep, 3600)

with pymux.Server(handler, sys.argv[1], backend=sys.argv[2]) as server:
    sys.stdin.readline()
    server.stop(0.05)
"""


def test_an_abandoned_call_does_not_hold_up_the_end_of_the_process(backend, tmp_path):
    with (
        python("-c", ABANDON, tmp_path / "s", backend) as child,
        util.connect_when_up(tmp_path / "s") as sock,
    ):
        assert sock.recv(1) == b"x"
        assert child.communicate("\n", timeout=20) == ("", "")
    assert child.returncode == 0


def test_from_a_handler_it_returns_at_once_and_the_answer_is_sent(backend):
    took = []

    def handler(conn, data):
        before = time.monotonic()
        server.stop()
        took.append(time.monotonic() - before)
        return data.upper()

    with util.serving(handler, backend, drain_timeout=60) as server:
        with util.connect(server.address) as sock:
            sock.sendall(b"stop")
            assert util.recv_all(sock) == b"STOP"
        server.stop()
    assert took[0] < SOON


def test_any_number_of_threads_may_call_it(backend):
    with util.serving(lambda conn, data: data, backend) as server:
        threads = [threading.Thread(target=server.stop) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("timeouts", [(60, 0.05), (0.05, 60)])
def test_of_two_calls_the_smaller_timeout_holds(backend, tmp_path, timeouts):
    first, second = timeouts
    with (
        util.serving(
            util.Ends(util.capitals), backend, tmp_path / "s", framing=LINES
        ) as server,
        stuck(server),
    ):
        before = time.monotonic()
        util.in_server(server, lambda mux: server.stop(first))
        server.stop(second)
        assert time.monotonic() - before < SOON
        assert server.stats().reset == 1


def test_after_its_end_it_does_nothing(backend):
    with util.serving(lambda conn, data: data, backend) as server:
        server.stop()
        server.stop(0)
    server.stop()


def test_before_the_start_it_does_nothing(backend):
    server = pymux.Server(lambda conn, data: data, ("127.0.0.1", 0), backend=backend)
    server.stop()
    with server:
        assert util.everything(server.address, b"go") == b"go"


def test_closed_is_called_for_every_connection(backend, tmp_path):
    log = util.Ends(util.capitals)
    with (
        util.serving(log, backend, tmp_path / "s", framing=LINES) as server,
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(stuck(server))
        for _ in range(5):
            stack.enter_context(util.connect(server.address))
        with util.then_stopped(server):
            stack.enter_context(util.connect(server.address)).sendall(b"a\n")
        server.stop(0.05)
        assert len(log.open) == 7
        assert sorted(c.id for c in log.open) == sorted(c.id for c, _ in log.ended)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_when_it_returns_every_descriptor_is_closed(backend, tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    with util.serving(
        util.Ends(util.capitals), backend, tmp_path / "s", framing=LINES
    ) as server:
        for _ in range(3):
            util.everything(server.address, b"a\n")
        with stuck(server):
            server.stop(0)
        assert set(os.listdir("/proc/self/fd")) == before


class Struck(Exception):
    """What a signal's handler raises."""


def test_a_stop_that_is_cut_short_where_it_begins_begins_again(backend):
    def strike():
        striking.stop()  # once
        raise Struck

    errors = []
    server = pymux.Server(
        lambda conn, data: data,
        ("127.0.0.1", 0),
        backend=backend,
        on_error=lambda conn, error: errors.append(error),
    ).start()
    with util.connect(server.address) as sock:
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"
        striking = inside.draining_calls(strike)
        striking.start()
        server.stop(60)
        assert util.recv_all(sock) == b""
    assert [type(error) for error in errors] == [Struck]


LARGE = 60 << 20  # bytes, more than the kernel takes for a peer that does not read


def test_stop_returns_where_a_paused_coroutine_is_reset(backend, tmp_path):
    ended = []

    async def handler(conn):
        conn.pause()
        try:
            await conn.recv()
        except pymux.ConnectionClosed as error:
            ended.append(error.errno)
            raise

    with (
        started(handler, backend, tmp_path / "s") as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        sock.sendall(b"not read")
        stop(server, 0)
    assert ended == [errno.ETIMEDOUT]


def test_stop_returns_where_a_coroutine_is_reset_in_drain(backend):
    ended = []

    async def handler(conn):
        conn.send(bytes(LARGE))
        try:
            await conn.drain()
        except pymux.ConnectionClosed as error:
            ended.append(error.errno)
            raise

    with (
        started(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        util.recv_exactly(sock, 1)
        stop(server, 0)
    assert ended == [errno.ETIMEDOUT]


@pytest.mark.parametrize("act", ["close", "send"])
def test_stop_returns_where_closed_reaches_for_its_connection(backend, act):
    ended = []

    class Handler:
        def received(self, conn, data):
            return bytes(LARGE)

        def closed(self, conn, error):
            ended.append(error.errno)
            conn.close() if act == "close" else conn.send(b"bye")

    with (
        started(Handler(), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.recv_exactly(sock, 1)
        stop(server, 0)
    assert ended == [errno.ETIMEDOUT]


def test_a_system_exit_of_a_coroutine_closed_at_the_stop_leaves_stop(backend, logged):
    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            raise SystemExit("last words")

    with (
        started(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        with pytest.raises(SystemExit, match="last words"):
            stop(server, 0)
        util.until_end(sock)


def test_stop_without_time_resets_a_long_backlog(backend, tmp_path):
    count = 300

    async def handler(conn):
        await pymux.sleep(3600)

    with (
        descriptors_allowed(2 * count + 100),
        started(handler, backend, tmp_path / "s", backlog=count) as server,
        contextlib.ExitStack() as stack,
    ):
        with util.held(server, lambda: server.stop(0)):
            socks = [
                stack.enter_context(util.connect(server.address)) for _ in range(count)
            ]
        stop(server, 0)
        for sock in socks:
            assert util.until_end(sock)[0] == b""
    stats = server.stats()
    assert (stats.accepted, stats.connections, stats.listeners) == (count, 0, 0)
