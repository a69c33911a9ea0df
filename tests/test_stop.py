"""stop: what was there is answered, nothing later is read, the rest is reset."""

import contextlib
import errno
import os
import socket
import threading
import time

import pytest

import pymux
from tests import util

LINES = pymux.Lines()
LONG = 1 << 20  # bytes, more than a Unix socket takes at once
SOON = 5  # seconds, far under the patience of these tests' servers


def answer(data):
    """The message in capitals; a long answer to `long`."""
    return b"x" * (LONG - 1) if data == b"long" else data.upper()


@pytest.fixture(params=util.FORMS)
def server(request, backend, tmp_path):
    """A patient server on a Unix socket, in each form on each backend."""
    handler = util.in_form(request.param, answer)
    with util.serving(
        handler, backend, tmp_path / "s", framing=LINES, drain_timeout=60
    ) as server:
        yield server


@contextlib.contextmanager
def stuck(server):
    """A client whose long answer is under way, and which does not read it."""
    with util.connect(server.address) as sock:
        sock.sendall(b"long\n")
        util.recv_exactly(sock, 1)
        yield sock


class Log:
    """An object handler that keeps how its connections ended."""

    def __init__(self):
        self.open = []
        self.ended = []

    def opened(self, conn):
        self.open.append(conn)

    def received(self, conn, data):
        return answer(data)

    def closed(self, conn, error):
        self.ended.append((conn, error))


def test_who_is_in_the_backlog_is_accepted_and_answered(server):
    with contextlib.ExitStack() as stack:
        with util.then_stopped(server):
            socks = [
                stack.enter_context(util.connect(server.address)) for _ in range(20)
            ]
            for k, sock in enumerate(socks):
                sock.sendall(b"a%d\n" % k)
        for k, sock in enumerate(socks):
            assert util.recv_all(sock) == b"A%d\n" % k


def test_what_had_arrived_is_answered(server):
    sent = b"".join(b"a%d\n" % k for k in range(10_000))
    with util.connect(server.address) as sock:
        sock.sendall(b"before\n")
        assert util.recv_exactly(sock, 7) == b"BEFORE\n"
        with util.then_stopped(server):
            arrived = sent[: util.fill(sock, len(sent), sent)]
        got = util.recv_all(sock)
    # What the kernel cut off inside a line is a last line without its end.
    assert got.rstrip(b"\n") == arrived.upper().rstrip(b"\n")


def test_what_had_arrived_is_answered_at_the_pace_of_its_reader(backend, tmp_path):
    few = pymux.Limits(high_water=20_000, low_water=5_000)
    with (
        util.serving(
            lambda conn, data: data * 20,
            backend,
            tmp_path / "s",
            framing=LINES,
            limits=few,
            drain_timeout=60,
        ) as server,
        util.connect(server.address) as sock,
    ):
        with util.then_stopped(server):
            sock.sendall(b"abcd\n" * 10_000)
        assert util.recv_all(sock) == (b"abcd" * 20 + b"\n") * 10_000


def test_an_unfinished_line_is_a_last_message(server):
    with util.connect(server.address) as sock:
        with util.then_stopped(server):
            sock.sendall(b"a\nunfinished")
        assert util.recv_all(sock) == b"A\nUNFINISHED\n"


def test_an_unfinished_frame_is_an_error_after_the_answers(backend, tmp_path):
    log = Log()
    with (
        util.serving(
            log, backend, tmp_path / "s", framing=pymux.LengthPrefix(1)
        ) as server,
        util.connect(server.address) as sock,
    ):
        with util.then_stopped(server):
            sock.sendall(b"\1a\5unf")
        assert util.until_end(sock)[0] == b"\1A"
        util.wait_until(lambda: log.ended)
    ((_conn, error),) = log.ended
    assert error.errno == errno.EPROTO


def test_nothing_later_is_read(server, tmp_path):
    with stuck(server) as sock:
        util.in_server(server, lambda mux: server.stop())
        util.wait_until(lambda: not (tmp_path / "s").exists())
        sock.sendall(b"late\n")
        assert util.until_end(sock)[0] == b"x" * (LONG - 2) + b"\n"
    server.stop()
    assert server.stats().messages_in == 1


def test_nobody_can_connect_while_it_drains(backend):
    with (
        util.serving(
            lambda conn, data: b"x" * (16 << 20), backend, drain_timeout=60
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"long")
        util.recv_exactly(sock, 1)
        util.in_server(server, lambda mux: server.stop())
        util.wait_until(lambda: server.stats().listeners == 0)
        with pytest.raises(ConnectionRefusedError):
            util.connect(server.address)
        assert len(util.recv_all(sock)) == (16 << 20) - 1


def test_idle_connections_close_at_once(server):
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(10)]
        util.wait_until(lambda: server.stats().connections == 10)
        before = time.monotonic()
        server.stop()
        assert time.monotonic() - before < SOON
        for sock in socks:
            assert util.recv_all(sock) == b""
    assert server.stats().reset == 0


def test_clients_need_not_close_for_the_stop_to_end(backend):
    """It is enough that the kernel has the output and the end of the stream."""
    with (
        util.serving(
            lambda conn, data: data.upper(), backend, drain_timeout=60
        ) as server,
        util.connect(server.address) as sock,
    ):
        with util.then_stopped(server):
            sock.sendall(b"last")
        before = time.monotonic()
        server.stop()
        assert time.monotonic() - before < SOON
        assert util.recv_all(sock) == b"LAST"


def test_a_coroutine_sees_the_end_and_may_send_and_return(backend):
    async def handler(conn):
        assert await conn.recv() is None
        conn.send(b"one ")
        await pymux.sleep(0.01)
        conn.send(b"two ")
        conn.send(await pymux.to_thread(lambda: b"three"))

    with (
        util.serving(handler, backend, drain_timeout=60) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        server.stop()
        assert util.recv_all(sock) == b"one two three"


def test_a_coroutine_gets_what_it_had_not_taken_before_the_end(backend):
    gate, got = util.Gate(), []

    async def handler(conn):
        await gate.wait()
        for _ in range(4):
            got.append(await conn.recv())

    with (
        util.serving(handler, backend, framing=LINES, drain_timeout=60) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\nb\nc\n")
        util.wait_until(lambda: server.stats().messages_in == 3)
        util.in_server(server, lambda mux: server.stop())
        gate.open()
        assert util.recv_all(sock) == b""
    assert got == [b"a", b"b", b"c", None]


def test_after_its_time_the_rest_is_reset_and_counted(backend, tmp_path):
    log = Log()
    with (
        util.serving(log, backend, tmp_path / "s", framing=LINES) as server,
        stuck(server),
        stuck(server),
        util.connect(server.address),
    ):
        util.wait_until(lambda: len(log.open) == 3)
        before = time.monotonic()
        server.stop(drain_timeout=0.05)
        assert 0.049 <= time.monotonic() - before < SOON
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


def test_the_servers_own_drain_timeout_holds_where_stop_names_none(backend, tmp_path):
    with (
        util.serving(
            Log(), backend, tmp_path / "s", framing=LINES, drain_timeout=0.05
        ) as server,
        stuck(server),
    ):
        before = time.monotonic()
        server.stop()
        assert 0.049 <= time.monotonic() - before < SOON
    assert server.stats().reset == 1


def test_no_time_at_all_resets_at_once(backend, tmp_path):
    with (
        util.serving(Log(), backend, tmp_path / "s", framing=LINES) as server,
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
        util.python("-c", ABANDON, tmp_path / "s", backend) as child,
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
        util.serving(Log(), backend, tmp_path / "s", framing=LINES) as server,
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
    log = Log()
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


def test_it_ends_the_wait_for_more_messages(backend):
    handler = pymux.batched(
        lambda batch: batch.reply(batch.messages), min_messages=100, max_delay=30
    )
    with (
        util.serving(handler, backend, drain_timeout=60) as server,
        util.connect(server.address) as sock,
        util.connect(server.address),
    ):
        util.wait_until(lambda: server.stats().connections == 2)
        sock.sendall(b"waits")
        server.stop()
        assert util.recv_all(sock) == b"waits"


def test_connections_that_the_server_made_end_too(backend):
    log = Log()
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(10)
        with util.serving(log, backend, drain_timeout=60) as server:
            util.in_server(server, pymux.Mux.connect, other.getsockname())
            peer, _ = other.accept()
            with peer:
                peer.settimeout(10)
                util.wait_until(lambda: log.open)
                server.stop()
                assert util.recv_all(peer) == b""
    assert [conn for conn, _ in log.ended] == log.open


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_when_it_returns_every_descriptor_is_closed(backend, tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    with util.serving(Log(), backend, tmp_path / "s", framing=LINES) as server:
        for _ in range(3):
            util.everything(server.address, b"a\n")
        with stuck(server):
            server.stop(0)
        assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_fatal_error_of_the_thread_is_raised_by_stop(backend, error):
    def handler(conn, data):
        raise error("fatal")

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address) as sock:
        sock.sendall(b"go")
        util.until_end(sock)
    with pytest.raises(error, match="fatal"):
        server.stop()


def test_a_fatal_error_leaves_a_with_block(backend):
    def handler(conn, data):
        raise SystemExit("fatal")

    with (
        pytest.raises(SystemExit, match="fatal"),
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.until_end(sock)
