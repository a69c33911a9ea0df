"""stop: what was there is answered, nothing later is read, the rest is reset."""

import contextlib
import errno
import socket
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
    log = util.Ends(answer)
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
        assert util.until_end(sock)[0] == b"x" * (LONG - 2) + b"\n"
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
        util.talking(sock),
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
        return bytes(LONG)

    with (
        util.serving(handler, backend, place, drain_timeout=60) as server,
        util.connect_narrow(server.address) as sock,
        util.talking(sock),
    ):
        util.recv_exactly(sock, 1)
        util.in_server(server, lambda mux: server.stop())
        assert util.until_end(sock) == (bytes(LONG - 1), None)


def test_who_never_acknowledges_is_reset_at_the_deadline_and_it_says_so(backend):
    """Its answer is with the kernel whole, so that nothing is queued here."""
    log = util.Ends(lambda data: bytes(200_000))
    with (
        util.serving(log, backend, drain_timeout=60) as server,
        util.connect_narrow(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: server.stats().bytes_out == 200_000)
        server.stop(0.2)
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


def paused(backend, path, then=lambda sock, conn: None, drain_timeout=1):
    """(log, seconds, end) of a stop with a connection that the server had paused."""
    log = util.Ends(answer)
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
    assert seconds < 0.9
    assert end == (b"", None)
    assert log.errors() == [None]


def test_input_of_a_paused_connection_is_answered_if_it_is_resumed(backend, tmp_path):
    def send_and_resume(sock, conn):
        sock.sendall(b"late")
        conn.mux.call_threadsafe(conn.mux.call_later, 0.05, conn.resume)

    log, seconds, end = paused(backend, tmp_path / "s", send_and_resume)
    assert seconds < 0.9
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
    log = util.Ends(answer)
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


# -- whose end it is ---------------------------------------------------------------


class Seen:
    """What handlers of each form see of `Connection.stopping`."""

    def __init__(self):
        self.conns = []
        self.messages = []  # (message, stopping)
        self.ends = []  # stopping: at the end of a coroutine, in closed()

    def note(self, conn, data):
        self.conns.append(conn)
        self.messages.append((bytes(data), conn.stopping))

    def in_form(self, form):
        @pymux.batched
        def batch(batch):
            for conn, data in batch:
                self.note(conn, data)

        async def coroutine(conn):
            async for data in conn:
                self.note(conn, data)
            self.ends.append(conn.stopping)

        methods = {"closed": lambda _, conn, error: self.ends.append(conn.stopping)}
        methods["received"] = lambda _, conn, data: self.note(conn, data)
        if form == "batched object":
            methods["received"] = pymux.batched(lambda _, b: batch(b))
        return {
            "function": self.note,
            "batch": batch,
            "coroutine": coroutine,
        }.get(form) or type("Handler", (), methods)()


def stopped_behind(sent, form, backend, place, end=lambda sock: None):
    """What a handler saw whose client had sent this, and perhaps its end, before the
    server stopped."""
    seen = Seen()
    with (
        util.serving(
            seen.in_form(form), backend, place, framing=LINES, drain_timeout=60
        ) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().accepted)
        with util.then_stopped(server):
            sock.sendall(sent)
            end(sock)
        assert util.until_end(sock) == (b"", None)
    return seen


@pytest.mark.parametrize("form", util.FORMS)
def test_an_upload_that_a_stop_cuts_says_so(backend, place, form):
    seen = stopped_behind(b"a\nhalf of", form, backend, place)
    assert seen.messages[-1] == (b"half of", True)
    assert set(seen.ends) <= {True}
    assert {conn.stopping for conn in seen.conns} == {True}  # the mux is closed


@pytest.mark.parametrize("form", util.FORMS)
def test_an_upload_that_its_peer_had_ended_is_whole(backend, place, form):
    seen = stopped_behind(
        b"a\nthe last", form, backend, place, lambda sock: sock.shutdown(socket.SHUT_WR)
    )
    assert seen.messages == [(b"a", False), (b"the last", False)]
    assert set(seen.ends) <= {False}
    assert {conn.stopping for conn in seen.conns} == {False}


@pytest.mark.parametrize("form", util.FORMS)
def test_whole_lines_are_cut_too_where_their_peer_had_not_ended(backend, place, form):
    seen = stopped_behind(b"a\nb\n", form, backend, place)
    assert [data for data, _ in seen.messages] == [b"a", b"b"]
    assert set(seen.ends) <= {True}
    assert {conn.stopping for conn in seen.conns} == {True}


@pytest.mark.parametrize("ended", [False, True])
def test_it_is_known_with_the_last_rows_of_several_batches(backend, place, ended):
    """More than one harvest takes in, all of it there when the server stops."""

    def end(sock):
        if ended:
            sock.shutdown(socket.SHUT_WR)

    seen = stopped_behind(b"x\n" * 10_000, "function", backend, place, end)
    assert len(seen.messages) == 10_000
    assert seen.messages[0] == (b"x", False)
    assert seen.messages[-1] == (b"x", not ended)
    assert seen.conns[0].stopping is not ended


def test_an_unfinished_frame_is_an_error_and_cut(backend, place):
    seen = []

    class Handler:
        def closed(self, conn, error):
            seen.append((error.errno, conn.stopping))

    framing = pymux.LengthPrefix(1)
    with (
        util.serving(Handler(), backend, place, framing=framing) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().accepted)
        with util.then_stopped(server):
            sock.sendall(b"\5unf")
        server.stop()
    assert seen == [(errno.EPROTO, True)]


@pytest.mark.parametrize("form", util.FORMS)
def test_a_stop_inside_a_frame_resets_nobody(backend, place, form):
    """The peer has broken nothing; a reset would cost some systems' clients what
    they have not read."""
    framing = pymux.LengthPrefix(1)
    with (
        util.serving(
            util.in_form(form, answer), backend, place, framing=framing
        ) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().accepted)
        with util.then_stopped(server):
            sock.sendall(b"\1a\5unf")
        assert util.until_end(sock) == (b"\1A", None)
        server.stop()
        assert server.stats().reset == 0


def test_a_coroutine_answers_what_it_has_though_a_frame_was_cut(backend, place):
    gate, seen = util.Gate(), []

    async def handler(conn):
        data = await conn.recv()
        await gate.wait()
        conn.send(data.upper())
        seen.append((await conn.recv(), conn.stopping))

    framing = pymux.LengthPrefix(1)
    with (
        util.serving(
            handler, backend, place, framing=framing, drain_timeout=60
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"\1a\5unf")
        util.wait_until(lambda: server.stats().messages_in == 1)
        util.in_server(server, lambda mux: server.stop())
        util.wait_until(lambda: not server.stats().listeners)  # all input is cut
        gate.open()
        assert util.until_end(sock) == (b"\1A", None)
    assert seen == [(None, True)]


def test_without_a_stop_no_connection_is_stopping(backend, place):
    seen = Seen()
    with util.serving(seen.in_form("object"), backend, place, framing=LINES) as server:
        assert util.everything(server.address, b"a\nlast") == b""
        util.wait_until(lambda: seen.ends)
        assert seen.messages == [(b"a", False), (b"last", False)]
        assert seen.ends == [False]


def test_what_a_handler_has_closed_itself_no_stop_has_cut(backend, place):
    """Its peer stays and the connection lingers, when the server stops."""
    seen = Seen()

    class Handler:
        def received(self, conn, data):
            conn.close()

        def closed(self, conn, error):
            seen.ends.append(conn.stopping)

    with (
        util.serving(Handler(), backend, place, drain_timeout=60) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        assert util.recv_all(sock) == b""
        server.stop()
    assert seen.ends == [False]


def test_a_coroutine_is_told_while_it_runs_on(backend, place):
    """Its connection is open yet, and what the peer sends goes nowhere."""
    seen = []

    async def handler(conn):
        async for _ in conn:
            pass
        seen.append(conn.stopping)
        await pymux.sleep(0.01)
        seen.append(conn.stopping)
        conn.send(b"half" if conn.stopping else b"whole")

    with (
        util.serving(handler, backend, place, drain_timeout=60) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().accepted)
        with util.talking(sock):
            util.wait_until(lambda: server.stats().bytes_in)
            util.in_server(server, lambda mux: server.stop())
            assert util.until_end(sock) == (b"half", None)
    assert seen == [True, True]


def test_connections_that_the_server_made_are_not_cut(backend):
    """They are closed when no other is left."""
    seen = {}

    class Handler:
        def closed(self, conn, error):
            seen[conn.peer] = (error, conn.stopping)

    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
        util.serving(Handler(), backend, drain_timeout=60) as server,
        contextlib.ExitStack() as stack,
    ):
        for other in one, two:
            util.in_server(server, pymux.Mux.connect, other.getsockname())
            other.settimeout(10)
            peer = stack.enter_context(other.accept()[0])
            peer.settimeout(10)
        util.wait_until(lambda: server.stats().connected == 2)
        util.in_server(server, lambda mux: None)
        with util.then_stopped(server):
            peer.shutdown(socket.SHUT_WR)
        assert util.recv_all(peer) == b""
        server.stop()
        assert seen == {
            one.getsockname(): (None, False),
            two.getsockname(): (None, False),
        }


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
