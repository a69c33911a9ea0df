"""`Connection.stopping`: whether a `stop` or the peer has ended the input."""

import contextlib
import errno
import socket

import pytest

import pymux

from . import util
from .peers import talking

LINES = pymux.Lines()


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
            util.in_form(form, util.capitals), backend, place, framing=framing
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
        with talking(sock):
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
