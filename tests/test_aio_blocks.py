"""What leaving the block of an outgoing connection waits for and delivers."""

import asyncio
import contextlib
import errno
import socket

import pytest

import pymux

from . import util
from .loops import at_rest, run, until
from .peers import slow_reader

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
MUCH = 8_000_000  # more than two kernels' buffers hold


def test_a_block_that_is_left_right_after_send_has_delivered_all(loop, listening):
    got = []

    async def main():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            conn.send(b"x" * MUCH)
            asyncio.get_running_loop().call_later(0.02, go.set)
        assert conn.closed

    with slow_reader(listening, got) as go:
        run(loop, main())
    assert got == [(b"x" * MUCH, None)]


def test_a_block_is_left_only_when_the_peers_side_has_all_of_it(loop, listening):
    async def main():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            sock, _ = listening.accept()
            conn.send(b"x" * MUCH)
            reading = asyncio.ensure_future(asyncio.to_thread(util.recv_all, sock))
        assert conn.queued == 0
        with sock:
            assert await reading == b"x" * MUCH

    loop.run(main())


def test_a_block_is_left_though_the_peer_never_ends_its_stream(loop, listening):
    async def main():
        begun = asyncio.get_running_loop().time()
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            conn.send(b"hello")
        assert asyncio.get_running_loop().time() - begun < 15
        with listening.accept()[0] as sock:
            assert await asyncio.to_thread(util.recv_all, sock) == b"hello"

    loop.run(main())


def test_a_block_of_a_unix_socket_is_left_though_nobody_reads(loop, tmp_path):
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    path = str(tmp_path / "socket")

    async def main():
        async with await pymux.aio.connect(path) as conn:
            conn.send(b"hello")
        with listener.accept()[0] as sock:
            assert await asyncio.to_thread(util.recv_all, sock) == b"hello"

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        run(loop, main())


def test_what_a_block_could_not_deliver_is_raised_where_it_is_left(loop, listening):
    limits = pymux.Limits(close_timeout=0.05)

    async def main():
        with pytest.raises(pymux.ConnectionClosed) as caught:
            async with await pymux.aio.connect(
                listening.getsockname(), limits=limits
            ) as conn:
                conn.send(b"x" * MUCH)
        assert caught.value.errno == errno.ETIMEDOUT
        assert caught.value.connection is conn

    loop.run(main())


def test_a_reset_in_place_of_the_rest_is_raised_where_the_block_is_left(
    loop, listening
):
    async def main():
        with pytest.raises(pymux.ConnectionClosed) as caught:
            async with await pymux.aio.connect(listening.getsockname()) as conn:
                sock, _ = listening.accept()
                conn.send(b"x" * MUCH)
                asyncio.get_running_loop().call_later(0.02, util.reset, sock)
        assert caught.value.errno == errno.ECONNRESET

    loop.run(main())


def test_a_block_is_left_in_peace_once_the_loss_has_been_told(loop, listening):
    async def main():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            sock, _ = listening.accept()
            conn.send(b"x" * MUCH)
            util.reset(sock)
            with pytest.raises(pymux.ConnectionClosed):
                await conn.recv()

    loop.run(main())


def test_an_abort_in_the_block_delivers_nothing_and_says_nothing(loop, listening):
    async def main():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            conn.send(b"x" * MUCH)
            conn.abort()

    loop.run(main())


def test_a_block_that_an_error_ends_is_left_at_once_and_loses_nothing(loop, listening):
    got = []

    async def main():
        with contextlib.suppress(ValueError):
            async with await pymux.aio.connect(listening.getsockname()) as conn:
                conn.send(b"x" * MUCH)
                raise ValueError
        assert not go.is_set()
        go.set()

    with slow_reader(listening, got) as go:
        run(loop, main())
    assert got == [(b"x" * MUCH, None)]


def test_a_timeout_over_a_block_is_not_held_up_by_it(loop, listening):
    async def talk():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            conn.send(b"x" * MUCH)
            await conn.recv()

    async def main():
        begun = asyncio.get_running_loop().time()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(talk(), 0.02)
        assert asyncio.get_running_loop().time() - begun < 15

    limits = socket.SO_RCVBUF  # what the kernel holds is far less than was sent
    listening.setsockopt(socket.SOL_SOCKET, limits, 4096)
    loop.run(_reset_after(main(), listening))


async def _reset_after(main, listener):
    try:
        await main
    finally:
        util.reset(listener.accept()[0])


def test_leaving_may_be_cancelled_and_the_flush_goes_on(loop, listening):
    got, leaving = [], []

    async def leave():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            conn.send(b"x" * MUCH)
            leaving.append(conn)

    async def main():
        task = asyncio.ensure_future(leave())
        await until(lambda: leaving)
        await at_rest(leaving.pop().mux)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    with slow_reader(listening, got) as go:
        run(loop, main())
    assert got == [(b"x" * MUCH, None)]
