"""The read end of a pipe only receives: who answers it is told so."""

import io
import socket
import sys

import pytest

import pymux

from . import inside, util
from .util import harvest_until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="its select takes sockets alone"
)

LINES = pymux.Lines()
READ_ONLY = "the read end of a pipe"


def test_to_send_on_a_read_end_is_unsupported(mux, pipe_files):
    conn = mux.adopt(pipe_files[0], framing=LINES)
    for _ in range(2):  # before it opens, and then
        with pytest.raises(io.UnsupportedOperation, match=READ_ONLY):
            conn.send(b"x")
        conn.send_eof()
        harvest_until(mux, lambda acc: True)
    assert mux.send_many([conn], b"x") == 0
    assert not conn.closed
    pipe_files[1].write(b"it goes on\n")
    harvest_until(mux, lambda acc: acc.messages)


@pytest.fixture
def both(mux, pipe_files):
    """(a read end, a socket, its peer, the pipe's writer), with a line from each."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(20)
        conns = mux.adopt(pipe_files[0], framing=LINES), mux.adopt(ours, framing=LINES)
        harvest_until(mux, lambda acc: len(acc.opened) == 2)
        pipe_files[1].write(b"one\n")
        theirs.sendall(b"two\n")
        yield *conns, theirs, pipe_files[1]


def next_batch(mux, rows):
    batch = mux.harvest(20, min_messages=rows, max_delay=20)
    assert len(batch) == rows
    return batch


def test_an_answer_to_a_read_end_among_others_is_unsupported(mux, both):
    conn, sock, theirs, _ = both
    batch = next_batch(mux, 2)
    texts = {conn: b"one", sock: b"two"}
    assert batch.messages == [texts[one] for one in batch.conns]
    with pytest.raises(io.UnsupportedOperation, match=READ_ONLY):
        batch.reply([b"x", b"x"])
    with pytest.raises(io.UnsupportedOperation, match=READ_ONLY):
        batch.reply_data(bytes(batch.data))  # cut as the messages are
    with pytest.raises(io.UnsupportedOperation, match=READ_ONLY):
        batch.reply_data(b"xy", [0, 1, 2])
    batch.reply([None if one is conn else b"answer" for one in batch.conns])
    mux.harvest(0)
    assert theirs.recv(100) == b"answer\n"
    assert not conn.closed


@pytest.mark.parametrize("framing", [None, pymux.Fixed(3), pymux.LengthPrefix(1)])
def test_an_answer_to_a_read_end_is_unsupported_in_any_framing(
    mux, pipe_files, framing
):
    mux.adopt(pipe_files[0], framing=framing)
    harvest_until(mux, lambda acc: acc.opened)
    pipe_files[1].write(b"\2ab")
    batch = next_batch(mux, 1)
    for reply in (b"abc", bytearray(b"abc")):
        with pytest.raises(io.UnsupportedOperation, match=READ_ONLY):
            batch.reply([reply])
    batch.reply([None])


def test_a_mask_leaves_a_read_end_out(mux, both):
    conn, _sock, theirs, _ = both
    batch = next_batch(mux, 2)
    batch.reply_data(b"xy", [0, 1, 2], mask=[one is not conn for one in batch.conns])
    mux.harvest(0)
    assert theirs.recv(100) in (b"x\n", b"y\n")
    assert not conn.closed


def test_a_later_answer_to_a_read_end_fails_the_batch(mux, both):
    conn, sock, theirs, _ = both
    batch = next_batch(mux, 2)
    batch.later().reply([b"x", b"x"])
    theirs.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn) and acc.is_closed(sock))
    assert isinstance(acc.error(conn).__cause__, io.UnsupportedOperation)


def test_answers_are_free_again_when_the_last_read_end_has_gone(mux, both):
    conn, sock, theirs, writing = both
    next_batch(mux, 2)
    assert inside.looks_at_replies(mux) == (True, True)
    writing.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)  # in which the end is forgotten
    assert inside.looks_at_replies(mux) == (False, False)
    theirs.sendall(b"three\n")
    batch = next_batch(mux, 1)
    batch.reply([b"answer"])
    mux.harvest(0)
    assert theirs.recv(100) == b"answer\n"
    assert not sock.closed


@pytest.mark.parametrize("count", [1, 3])
def test_a_function_that_answers_a_read_end_is_told_so_once(backend, pipe_files, count):
    reading, writing = pipe_files
    told = []

    def handler(conn, data):
        return data

    def on_error(conn, error):
        told.append((conn, error))

    with util.serving(handler, backend, framing=LINES, on_error=on_error) as server:
        adopt = {"framing": LINES, "handler": handler}
        util.in_server(server, lambda mux: mux.adopt(reading, **adopt))
        writing.write(b"line\n" * count)
        util.wait_until(lambda: told)
        assert util.exchange(server.address, b"hello\n", 6) == b"hello\n"
        util.wait_until(lambda: server.stats().closed == 2)
    ((conn, error),) = told
    assert isinstance(error, io.UnsupportedOperation)
    assert "handler returned bytes" in str(error)
    assert READ_ONLY in str(error)
    assert conn.closed


def test_a_function_that_answers_nothing_serves_a_read_end(backend, pipe_files):
    reading, writing = pipe_files
    found = []

    def handler(conn, data):
        found.append(data)

    with util.serving(handler, backend) as server:
        adopt = {"framing": LINES, "handler": handler}
        util.in_server(server, lambda mux: mux.adopt(reading, **adopt))
        writing.write(b"one\ntwo\n")
        writing.close()
        util.wait_until(lambda: server.stats().closed == 1)
    assert found == [b"one", b"two"]


def test_a_coroutine_reads_a_read_end_to_its_end(backend, pipe_files):
    reading, writing = pipe_files
    found = []

    async def handler(conn):
        async for line in conn:
            found.append(line)
        with pytest.raises(io.UnsupportedOperation, match=READ_ONLY):
            conn.send(b"x")
        await conn.drain()
        found.append(None)

    with util.serving(handler, backend) as server:
        adopt = {"framing": LINES, "handler": handler}
        util.in_server(server, lambda mux: mux.adopt(reading, **adopt))
        writing.write(b"one\ntwo\n")
        writing.close()
        util.wait_until(lambda: server.stats().closed == 1)
    assert found == [b"one", b"two", None]
