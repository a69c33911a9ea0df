"""What handlers raise that ends the server, or only names an ended connection."""

import errno
import socket

import pytest

import pymux

from . import util
from .util import Boom, Panic

LINES = pymux.Lines()


# --- what leaves ------------------------------------------------------------


class Leaving(util.Ends):
    """An object handler one of whose methods raises what ends the server."""

    def __init__(self, where, error):
        super().__init__()
        self.where, self.error, self.armed = where, error, False

    def leave(self, where):
        if self.armed and self.where == where:
            self.armed = False
            raise self.error

    def opened(self, conn):
        super().opened(conn)
        self.leave("opened")

    def received(self, conn, data):
        self.leave("received")
        return data

    def closed(self, conn, error):
        super().closed(conn, error)
        self.leave("closed")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["opened", "received", "closed", "timer"])
def test_closed_is_called_for_every_connection_of_a_server_that_is_left(
    backend, tmp_path, where, error, logged
):
    log = Leaving(where, error)
    server = pymux.Server(log, tmp_path / "s", backend=backend).start()
    socks = [util.connect(server.address) for _ in range(4)]
    for sock in socks:
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"
    with util.held(server):
        log.armed = True
        if where == "opened":
            socks += [util.connect(server.address) for _ in range(2)]
        elif where == "closed":
            for sock in socks[1:3]:
                sock.shutdown(socket.SHUT_WR)
        elif where == "timer":
            server.call_threadsafe(lambda mux: log.leave("timer"))
        else:
            socks[2].sendall(b"x")
    with pytest.raises(error):
        server.stop()
    for sock in socks:
        sock.close()
    assert len(log.ended) == len({conn for conn, _ in log.ended}) >= 4
    assert {conn for conn, _ in log.ended} >= set(log.open)
    for _, end in log.ended:
        if end is not None:
            assert end.errno == errno.ECONNABORTED
            assert type(end.__cause__) is error
    assert sum(end is not None for _, end in log.ended) >= 2
    assert [record.levelname for record in logged] == ["CRITICAL"]


class Closing:
    """Closes the mux under the server, in one of the calls that a mux makes."""

    def __init__(self, where):
        self.where, self.open, self.ended = where, [], []
        self.error = None  # what `closed` raises

    def opened(self, conn):
        self.open.append(conn)

    def received(self, conn, data):
        if self.where == "received":
            conn.mux.close()
        elif self.where == "timer":
            conn.mux.call_later(0, conn.mux.close)
        else:
            conn.close()
        return data

    def closed(self, conn, end):
        self.ended.append((conn, end, conn.peer, conn.closed))
        if self.where == "closed":
            conn.mux.close()
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("where", ["received", "timer", "closed", "call"])
def test_closed_is_called_for_every_connection_of_a_mux_that_is_closed(
    backend, tmp_path, where
):
    log = Closing(where)
    server = pymux.Server(log, tmp_path / "s", backend=backend).start()
    socks = [util.connect(server.address) for _ in range(4)]
    util.wait_until(lambda: len(log.open) == 4)
    if where == "call":
        server.call_threadsafe(lambda mux: mux.close())
    else:
        socks[1].sendall(b"x")
        if where == "closed":
            assert util.recv_all(socks[1]) == b"x"
            socks[1].close()
    server.wait()
    for sock in socks:
        sock.close()
    assert sorted(conn.id for conn in log.open) == sorted(
        conn.id for conn, *_ in log.ended
    )
    aborted = [end for _, end, _, _ in log.ended if end is not None]
    assert len(aborted) == (3 if where == "closed" else 4)
    assert {end.errno for end in aborted} == {errno.ECONNABORTED}
    assert all(closed for *_, closed in log.ended)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_closed_raises_behind_a_close_leaves_when_all_are_told(
    backend, error, logged
):
    log = Closing("call")
    log.error = error
    server = pymux.Server(log, ("127.0.0.1", 0), backend=backend).start()
    socks = [util.connect(server.address) for _ in range(3)]
    util.wait_until(lambda: len(log.open) == 3)
    server.call_threadsafe(lambda mux: mux.close())
    with pytest.raises(error):
        server.wait()
    for sock in socks:
        sock.close()
    assert len(log.ended) == 3
    assert [record.levelname for record in logged] == ["CRITICAL"]


def test_the_answers_given_before_the_server_is_left_arrive(backend, tmp_path, logged):
    def handler(conn, data):
        if data == b"leave":
            raise SystemExit
        return data

    server = pymux.Server(handler, tmp_path / "s", backend=backend, framing=LINES)
    server.start()
    with util.connect(server.address) as a, util.connect(server.address) as b:
        for sock in (a, b):
            sock.sendall(b"1\n")
            assert util.recv_exactly(sock, 2) == b"1\n"
        with util.held(server):
            a.sendall(b"2\n")
            b.sendall(b"leave\n")
        assert util.recv_all(a) == b"2\n"
    with pytest.raises(SystemExit):
        server.stop()
    assert [record.levelname for record in logged] == ["CRITICAL"]


# --- the end of a connection -------------------------------------------------


def test_a_connection_closed_that_escapes_ends_the_one_it_names(backend, logged):
    """Here another's than the one whose message it was."""
    waiting = []

    async def handler(conn):
        data = await conn.recv()
        if data == b"wait":
            conn.send_eof()
            waiting.append(conn)
            await pymux.sleep(3600)
        waiting[0].send(b"too late")

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as first,
    ):
        first.sendall(b"wait")
        util.wait_until(lambda: waiting)
        assert util.everything(server.address, b"send") == b""
        util.wait_until(lambda: waiting[0].closed)
        server.stop(0)
    assert not logged


@pytest.mark.parametrize("form", util.FORMS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_group_of_nothing_but_ends_is_an_end(backend, form, nested, logged):
    def answer(data):
        ends = [pymux.ConnectionClosed("one"), pymux.ConnectionClosed("two")]
        if nested:
            ends.append(BaseExceptionGroup("inner", [pymux.ConnectionClosed("three")]))
        raise BaseExceptionGroup("outer", ends)

    with (
        util.serving(util.in_form(form, answer), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: server.stats().messages_in == 1)
        util.settle(server)
    assert not logged


@pytest.mark.parametrize("form", util.FORMS)
@pytest.mark.parametrize("other", [Boom, Panic])
def test_a_group_with_anything_else_is_an_error(backend, form, other):
    told = []

    def answer(data):
        inner = BaseExceptionGroup("inner", [pymux.ConnectionClosed("end"), other()])
        raise BaseExceptionGroup("outer", [pymux.ConnectionClosed("end"), inner])

    with util.serving(
        util.in_form(form, answer),
        backend,
        on_error=lambda conn, error: told.append(error),
    ) as server:
        assert util.everything(server.address, b"go") == b""
    assert len(told) == 1
    assert isinstance(told[0], BaseExceptionGroup)
