"""`stop`: what had arrived is answered, nothing later is read, the rest is reset."""

import contextlib
import errno
import time

import pytest

import pymux

from . import util
from .peers import talking
from .stops import stopping

LINES = pymux.Lines()
PATIENT = pymux.Limits(close_timeout=1000)
SOON = 5  # seconds, far under the patience of these tests' servers


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


def test_the_backlog_is_accepted_even_over_max_connections(backend, tmp_path):
    limits = pymux.Limits(max_connections=1)
    with (
        util.serving(
            lambda conn, data: data.upper(), backend, tmp_path / "s", limits=limits
        ) as server,
        util.connect(server.address) as inside,
        util.connect(server.address) as waiting,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        waiting.sendall(b"hello")
        util.settle(server)
        server.stop()
        assert util.until_end(inside) == (b"", None)
        assert util.until_end(waiting) == (b"HELLO", None)


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
    log = util.Ends(util.capitals)
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
    assert log.errors() == [errno.EPROTO]


def test_nothing_later_is_read(server, tmp_path):
    with util.connect(server.address) as sock:
        sock.sendall(b"long\n")
        util.recv_exactly(sock, 1)
        util.in_server(server, lambda mux: server.stop())
        util.wait_until(lambda: not (tmp_path / "s").exists())
        sock.sendall(b"late\n")
        assert util.until_end(sock)[0] == b"x" * (util.LONG - 2) + b"\n"
    server.stop()
    assert server.stats().messages_in == 1


def test_what_comes_later_destroys_no_answer(backend):
    """A close with input unread would be a reset, which throws away what was sent."""
    size = 16 << 20
    with (
        util.serving(
            lambda conn, data: b"x" * size, backend, drain_timeout=60
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"long")
        util.recv_exactly(sock, 1)
        util.in_server(server, lambda mux: server.stop())
        util.wait_until(lambda: server.stats().listeners == 0)
        sock.sendall(b"late" * 1000)
        assert util.until_end(sock) == (b"x" * (size - 1), None)


@pytest.mark.parametrize("form", util.FORMS)
def test_a_client_that_goes_on_sending_gets_every_answer(backend, place, form):
    """It sends while the server stops, and has answers to read yet."""
    handler = util.in_form(form, lambda data: data * 100)
    with (
        util.serving(
            handler, backend, place, framing=LINES, drain_timeout=60
        ) as server,
        util.connect_narrow(server.address) as sock,
        talking(sock),
    ):
        got = len(util.recv_exactly(sock, 100_000))
        util.in_server(server, lambda mux: server.stop())
        data, error = util.until_end(sock)
        server.stop()
        assert (got + len(data), error) == (server.stats().bytes_out, None)
        assert server.stats().reset == server.stats().discarded == 0


def test_a_client_that_ends_with_a_close_of_ours_gets_every_answer(backend, place):
    """The handler has closed before the stop; the client sends on all the same."""

    def handler(conn, data):
        conn.close()
        return bytes(util.LONG)

    with (
        util.serving(handler, backend, place, drain_timeout=60) as server,
        util.connect_narrow(server.address) as sock,
        talking(sock),
    ):
        util.recv_exactly(sock, 1)
        util.in_server(server, lambda mux: server.stop())
        assert util.until_end(sock) == (bytes(util.LONG - 1), None)


def test_who_never_acknowledges_is_reset_at_the_deadline_and_it_says_so(backend, clock):
    """Its answer is with the kernel whole, so that nothing is queued here."""
    log = util.Ends(lambda data: bytes(200_000))
    with (
        util.serving(log, backend, limits=PATIENT) as server,
        util.connect_narrow(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: server.stats().bytes_out == 200_000)
        with stopping(server, 60):
            clock.advance(59, server)
            assert server.stats().reset == 0
            clock.advance(2, server)
        assert server.stats().reset == 1
        assert util.until_end(sock)[1] == errno.ECONNRESET
    assert log.errors() == [errno.ETIMEDOUT]


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


def paused(backend, path, then=lambda sock, conn: None, drain_timeout=60):
    """(log, seconds, end) of a stop with a connection that the server had paused."""
    log = util.Ends(util.capitals)
    with (
        util.serving(log, backend, path, drain_timeout=drain_timeout) as server,
        util.connect(path) as sock,
    ):
        util.wait_until(lambda: log.open)
        util.in_server(server, lambda mux: log.open[0].pause())
        then(sock, log.open[0])
        before = time.monotonic()
        server.stop()
        return log, time.monotonic() - before, util.until_end(sock)


def test_a_paused_connection_without_input_closes_at_once(backend, tmp_path):
    log, seconds, end = paused(backend, tmp_path / "s")
    assert seconds < SOON
    assert end == (b"", None)
    assert log.errors() == [None]


def test_input_of_a_paused_connection_is_answered_if_it_is_resumed(backend, tmp_path):
    def send_and_resume(sock, conn):
        sock.sendall(b"late")
        conn.mux.call_threadsafe(conn.mux.call_later, 0.05, conn.resume)

    log, seconds, end = paused(backend, tmp_path / "s", send_and_resume)
    assert seconds < SOON
    assert end == (b"LATE", None)
    assert log.errors() == [None]


def test_input_that_nobody_takes_in_time_is_an_error(backend, tmp_path):
    log, _, end = paused(
        backend, tmp_path / "s", lambda sock, conn: sock.send(b"x"), drain_timeout=0.05
    )
    assert end[0] == b""
    assert log.errors() == [errno.ETIMEDOUT]


def test_timers_do_not_hold_it_up(backend):
    with util.serving(lambda conn, data: data, backend, drain_timeout=60) as server:
        util.in_server(server, lambda mux: mux.call_later(3600, print))
        before = time.monotonic()
        server.stop()
        assert time.monotonic() - before < SOON


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
    log = util.Ends(util.capitals)
    with (
        util.listening() as other,
        util.serving(log, backend, drain_timeout=60) as server,
    ):
        util.in_server(server, pymux.Mux.connect, other.getsockname())
        peer, _ = other.accept()
        with peer:
            peer.settimeout(10)
            util.wait_until(lambda: log.open)
            server.stop()
            assert util.recv_all(peer) == b""
    assert [conn for conn, _ in log.ended] == log.open


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_fatal_error_of_the_thread_is_raised_by_stop(backend, error, logged):
    def handler(conn, data):
        raise error("fatal")

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address) as sock:
        sock.sendall(b"go")
        util.until_end(sock)
    with pytest.raises(error, match="fatal"):
        server.stop()


def test_a_fatal_error_leaves_a_with_block(backend, logged):
    def handler(conn, data):
        raise SystemExit("fatal")

    with (
        pytest.raises(SystemExit, match="fatal"),
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.until_end(sock)
