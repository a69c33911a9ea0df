"""`Connection.fail`, and rows of a batch whose connection was ended."""

import contextlib
import errno

import pytest

import pymux

from . import util
from .util import Boom, harvest_until, pair, recv_exactly, until_end

LINES = pymux.Lines()


class Ends:
    """An object handler that answers batches; `end` gets each connection that sent
    "bad", before the answers are given or behind them."""

    def __init__(self, end, first):
        self.end = end
        self.first = first
        self.rows = 0
        self.ends = []  # OSError or None

    @pymux.batched
    def received(self, batch):
        bad = {conn for conn, data in batch if data == b"bad"}
        if self.first:
            for conn in bad:
                self.end(conn)
        batch.reply(batch.messages)
        if not self.first:
            for conn in bad:
                self.end(conn)

    def closed(self, conn, error):
        self.ends.append(error)


def fail(conn):
    conn.fail(Boom("of one row"))


WAYS = {"close": pymux.Connection.close, "fail": fail}


def one_among_others(handler, backend):
    """What a client that sends "bad" gets, while others are answered as before."""
    with util.serving(handler, backend, framing=LINES) as server:
        with contextlib.ExitStack() as stack:
            good = [stack.enter_context(util.connect(server.address)) for _ in range(3)]
            bad = stack.enter_context(util.connect(server.address))
            with util.held(server):  # all of it is one batch
                for sock in good:
                    sock.sendall(b"good\n")
                bad.sendall(b"first\nbad\nlast\n")
            got, error = until_end(bad)
            for sock in good:
                assert recv_exactly(sock, 5) == b"good\n"
                sock.sendall(b"on\n")
                assert recv_exactly(sock, 3) == b"on\n"
        util.wait_until(lambda: len(handler.ends) == 4)
    return got, error


@pytest.mark.parametrize("end", WAYS.values(), ids=WAYS)
def test_one_rows_connection_is_ended_behind_the_answers(backend, end):
    handler = Ends(end, first=False)
    assert one_among_others(handler, backend) == (b"first\nbad\nlast\n", None)
    causes = [error for error in handler.ends if error is not None]
    assert len(causes) == (end is fail)
    for error in causes:
        assert error.errno == errno.ECONNABORTED
        assert type(error.__cause__) is Boom


@pytest.mark.parametrize("end", WAYS.values(), ids=WAYS)
def test_answers_to_a_connection_that_was_ended_before_are_discarded(backend, end):
    handler = Ends(end, first=True)
    assert one_among_others(handler, backend) == (b"", None)


@pytest.mark.parametrize("first", [False, True])
def test_one_rows_connection_is_aborted_and_the_others_are_answered(backend, first):
    handler = Ends(pymux.Connection.abort, first)
    got, error = one_among_others(handler, backend)
    assert got == b""
    assert error is not None
    assert handler.ends == [None] * 4


def test_a_failed_connection_is_closed_and_flushed(mux):
    conn, sock = pair(mux)
    with sock:
        conn.send(b"before")
        conn.fail(Boom("why"))
        assert conn.closed
        with pytest.raises(pymux.ConnectionClosed):
            conn.send(b"behind")
        conn.fail(ValueError("too late"))
        conn.close()
        mux.harvest(0)
        assert until_end(sock) == (b"before", None)
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.errno(conn) == errno.ECONNABORTED
    assert type(acc.error(conn).__cause__) is Boom
    conn.fail(Boom("after the end"))


def test_a_coroutine_that_fails_its_connection_has_closed_it(backend):
    got = []

    async def handler(conn):
        got.append(await conn.recv())
        conn.fail(Boom("why"))
        try:
            await conn.recv()
        except pymux.ConnectionClosed:
            got.append(None)

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"hello") == b""
        util.wait_until(lambda: len(got) == 2)
    assert got == [b"hello", None]


@pytest.mark.parametrize("error", [None, "why", ValueError])
def test_the_error_is_an_exception_object(mux, error):
    conn, sock = pair(mux)
    with sock:
        with pytest.raises(TypeError, match="exception object"):
            conn.fail(error)
        conn.send(b"open")
        mux.harvest(0)
        assert recv_exactly(sock, 4) == b"open"
