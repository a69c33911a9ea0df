"""`message_timeout`: a frame that begins has to end.

The tests move the clock on, and the peer says a byte now and then.
"""

import asyncio
import errno

import pytest

import pymux

from . import util

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
MINUTE = pymux.Limits(message_timeout=60)
RESET = (b"", errno.ECONNRESET)  # how the stream of a peer ends that was too slow

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def has_begun(clock, server, sock, part):
    """Send a part of a frame, and let the server take it in."""
    before = server.stats().bytes_in
    sock.sendall(part)
    util.wait_until(lambda: server.stats().bytes_in == before + len(part))
    clock.advance(0, server)


def dribble(clock, server, begin, byte=b"x"):
    """Begin a frame, and say a byte each 20 seconds; how that ends."""
    with util.connect(server.address) as sock:
        has_begun(clock, server, sock, begin)
        for _ in range(2):
            clock.advance(20, server)
            has_begun(clock, server, sock, byte)
        clock.advance(19, server)
        assert server.stats().closed == 0
        return clock.outlast(sock, 2, server)


@pytest.mark.parametrize("form", util.FORMS)
def test_a_byte_now_and_then_holds_no_connection(backend, clock, form):
    handler = util.in_form(form, bytes.upper)
    with util.serving(handler, backend, framing=LINES, limits=MINUTE) as server:
        assert dribble(clock, server, b"be") == RESET
        assert server.stats().ends == {errno.ETIMEDOUT: 1}


@pytest.mark.parametrize(
    ("framing", "begin"),
    [
        (pymux.LengthPrefix(), b"\0\0"),
        (pymux.LengthPrefix(offset=4, keep_head=True), b"head\0"),
        (pymux.Varint(), b"\x80"),
        (pymux.Fixed(100), b"x"),
        (pymux.Lines(b"end"), b"\r"),
    ],
    ids=repr,
)
def test_the_frames_of_each_framing_have_to_end(backend, clock, framing, begin):
    handler = util.in_form("function", bytes.upper)
    with util.serving(handler, backend, framing=framing, limits=MINUTE) as server:
        assert dribble(clock, server, begin, b"\x80") == RESET


@guests
@pytest.mark.parametrize("form", ["function", "coroutine"])
def test_a_frame_has_to_end_in_a_loop_too(loop, clock, form):
    handler = util.in_form(form, bytes.upper)

    async def main():
        async with pymux.aio.serve(
            handler, LOCAL, framing=LINES, limits=MINUTE
        ) as server:
            assert await asyncio.to_thread(dribble, clock, server, b"be") == RESET

    loop.run(main())


@guests
def test_what_was_dialled_in_a_loop_may_not_be_slow_either(loop, listening):
    async def main():
        conn = await pymux.aio.connect(
            listening.getsockname(),
            framing=LINES,
            limits=pymux.Limits(message_timeout=0.05),
        )
        sock, _ = listening.accept()
        with sock:
            sock.sendall(b"whole\nhalf")
            assert await conn.recv() == b"whole"
            with pytest.raises(pymux.ConnectionClosed) as caught:
                await conn.recv()
        assert caught.value.errno == errno.ETIMEDOUT

    loop.run(main())


def test_a_server_that_was_dialled_may_not_be_slow_either(mux, clock):
    conn, peer = util.outgoing(mux, LINES, limits=MINUTE)
    with peer:
        peer.sendall(b"half")
        util.harvest_until(mux, lambda got: mux.stats().bytes_in == 4)
        clock.advance(61, mux)
        got = util.harvest_until(mux, lambda got: got.closed)
    (ended, error), *_ = got.closed
    assert ended is conn
    assert error.errno == errno.ETIMEDOUT


def test_messages_before_a_slow_one_are_answered(backend, clock):
    with (
        util.serving(
            lambda conn, data: data.upper(), backend, framing=LINES, limits=MINUTE
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one\ntwo\nth")
        assert util.recv_exactly(sock, 8) == b"ONE\nTWO\n"
        clock.advance(59, server)
        sock.sendall(b"ree\nfo")  # the time of the next one begins
        assert util.recv_exactly(sock, 6) == b"THREE\n"
        clock.advance(59, server)
        sock.sendall(b"ur\n")
        assert util.recv_exactly(sock, 5) == b"FOUR\n"
        clock.advance(600, server)  # between two messages there is no limit
        sock.sendall(b"five\n")
        assert util.recv_exactly(sock, 5) == b"FIVE\n"


def test_the_clock_of_a_message_stands_while_its_connection_is_paused(mux, clock):
    conn, peer = util.pair(mux, LINES, limits=MINUTE)
    with peer:
        peer.sendall(b"half")
        util.harvest_until(mux, lambda got: mux.stats().bytes_in == 4)
        conn.pause()
        mux.harvest(0)
        clock.advance(600, mux)
        conn.resume()
        mux.harvest(0)
        clock.advance(59, mux)
        peer.sendall(b" and half\n")
        got = util.harvest_until(mux, lambda got: got.messages or got.closed)
        assert got.messages == [(conn, b"half and half")]


def words():
    """A parser: words, as str, each with a space behind."""
    rest = b""

    def split(data):
        nonlocal rest
        *whole, rest = (rest + data).split(b" ")
        return [word.decode() for word in whole]

    return split


WORDS = pymux.Splitter(words)


def shout(message):
    return message.upper().encode()


@pytest.mark.parametrize("form", util.FORMS)
def test_a_byte_now_and_then_makes_no_message_of_a_parser(backend, clock, form):
    handler = util.in_form(form, shout)
    with util.serving(handler, backend, framing=WORDS, limits=MINUTE) as server:
        assert dribble(clock, server, b"be") == RESET
        assert server.stats().ends == {errno.ETIMEDOUT: 1}


@guests
def test_a_byte_now_and_then_makes_no_message_of_a_parser_in_a_loop(loop, clock):
    handler = util.in_form("coroutine", shout)

    async def main():
        async with pymux.aio.serve(
            handler, LOCAL, framing=WORDS, limits=MINUTE
        ) as server:
            assert await asyncio.to_thread(dribble, clock, server, b"be") == RESET

    loop.run(main())


def test_each_message_of_a_parser_has_its_time(mux, clock):
    conn, peer = util.pair(mux, WORDS, limits=MINUTE)

    def part(data):
        before = mux.stats().bytes_in
        peer.sendall(data)
        util.harvest_until(mux, lambda got: mux.stats().bytes_in > before)
        mux.harvest(0)

    with peer:
        for _ in range(3):
            part(b"slo")
            clock.advance(59, mux)
            part(b"w ")
            clock.advance(600, mux)  # between two messages there is no limit
        part(b"one two thr")  # a message has ended: the next one may take its time
        clock.advance(600, mux)
        part(b"ee")
        clock.advance(59, mux)
        assert not conn.closed
        clock.advance(2, mux)
        got = util.harvest_until(mux, lambda got: got.closed)
    assert got.closed[0][1].errno == errno.ETIMEDOUT


def test_the_clock_of_a_parsers_message_stands_while_its_connection_is_paused(
    mux, clock
):
    conn, peer = util.pair(mux, WORDS, limits=MINUTE)
    with peer:
        peer.sendall(b"half")
        util.harvest_until(mux, lambda got: mux.stats().bytes_in == 4)
        conn.pause()
        mux.harvest(0)
        clock.advance(600, mux)
        conn.resume()
        mux.harvest(0)
        clock.advance(59, mux)
        peer.sendall(b"way ")
        got = util.harvest_until(mux, lambda got: got.messages or got.closed)
        assert got.messages == [(conn, "halfway")]


def test_a_stream_that_ends_in_a_parsers_message_ends_as_without_a_limit(mux):
    conn, peer = util.pair(mux, WORDS, limits=MINUTE)
    with peer:
        peer.sendall(b"whole hal")
        util.harvest_until(mux, lambda got: got.messages)
        peer.sendall(b"f")
        util.harvest_until(mux, lambda got: mux.stats().bytes_in == 10)
        mux.harvest(0)
        peer.shutdown(1)
        got = util.harvest_until(mux, lambda got: got.closed)
        assert got.closed == [(conn, None)]


def test_another_framing_behind_a_parsers_message_has_its_own_time(mux, clock):
    conn, peer = util.pair(mux, WORDS, limits=MINUTE)
    with peer:
        peer.sendall(b"half")
        util.harvest_until(mux, lambda got: mux.stats().bytes_in == 4)
        mux.harvest(0)
        conn.set_framing(pymux.Lines())
        mux.harvest(0)
        clock.advance(600, mux)
        peer.sendall(b"line\n")
        got = util.harvest_until(mux, lambda got: got.messages or got.closed)
        assert got.messages == [(conn, b"line")]


def test_raw_bytes_have_no_time_to_end(backend, clock):
    with (
        util.serving(lambda conn, data: data.upper(), backend, limits=MINUTE) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a")
        assert util.recv_exactly(sock, 1) == b"A"
        clock.advance(600, server)
        sock.sendall(b"b")
        assert util.recv_exactly(sock, 1) == b"B"
