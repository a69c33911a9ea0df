"""Coroutine handlers: called once a connection, on the mux, without asyncio."""

import asyncio
import socket
import threading
import time

import pytest

import pymux

from . import util

LINES = pymux.Lines()


def test_it_is_called_when_the_connection_opens(backend):
    async def handler(conn):
        conn.send(b"welcome")

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_all(sock) == b"welcome"


def test_it_is_called_once_for_each_connection(backend):
    calls = []

    async def handler(conn):
        calls.append(conn)
        async for data in conn:
            conn.send(data)

    with util.serving(handler, backend, framing=LINES) as server:
        for _ in range(3):
            assert util.everything(server.address, b"a\nb\n") == b"a\nb\n"
    assert len(set(calls)) == len(calls) == 3


def test_recv_gives_each_message_then_none_for_ever(backend):
    got = []

    async def handler(conn):
        for _ in range(5):
            got.append(await conn.recv())

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\n\nb\n") == b""
    assert got == [b"a", b"", b"b", None, None]
    assert {type(data) for data in got[:3]} == {bytes}


def test_iteration_gives_each_message_and_ends_with_the_stream(backend):
    got = []

    async def handler(conn):
        async for data in conn:
            got.append(data)
        conn.send(b"end")

    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\n\nb\n") == b"end\n"
    assert got == [b"a", b"", b"b"]


def test_messages_that_came_at_once_are_received_one_by_one(backend):
    async def handler(conn):
        while (data := await conn.recv()) is not None:
            conn.send(data.upper())

    with util.serving(handler, backend, framing=LINES) as server:
        sent = b"".join(b"line %d\n" % k for k in range(1000))
        assert util.everything(server.address, sent) == sent.upper()


def test_returning_closes_with_everything_flushed(backend):
    size = 8 << 20

    async def handler(conn):
        await conn.recv()
        conn.send(b"x" * size)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.wait_until(lambda: server.stats().bytes_out > 0)
        # Unread input must not make the close a reset.
        sock.sendall(b"more")
        assert len(util.recv_all(sock)) == size
    assert server.stats().reset == 0


def test_after_the_end_of_stream_it_may_still_send(backend):
    async def handler(conn):
        assert await conn.recv() is None
        for k in range(3):
            conn.send(b"%d" % k)
            await pymux.sleep(0.001)

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b"012"


def test_a_timeout_of_recv_leaves_the_connection_as_it_was(backend):
    async def handler(conn):
        with pytest.raises(TimeoutError) as info:
            await conn.recv(timeout=0.01)
        assert info.type is TimeoutError
        conn.send(b"waiting")
        async for data in conn:
            conn.send(data.upper())

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_exactly(sock, 8) == b"waiting\n"
        sock.sendall(b"a\nb\n")
        assert util.recv_exactly(sock, 4) == b"A\nB\n"


def test_a_timeout_of_recv_takes_as_long_as_it_says(backend):
    took = []

    async def handler(conn):
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            await conn.recv(0.05)
        took.append(time.monotonic() - before)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_all(sock) == b""
    assert took[0] >= 0.049


def test_a_message_within_its_time_does_not_time_out_later(backend, clock):
    gate = util.Gate()

    async def handler(conn):
        first = await conn.recv(timeout=60)
        await gate.wait()
        conn.send(first + b" " + await conn.recv(timeout=60))

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"first")
        assert gate.reached.wait(10)
        clock.advance(100, server)
        sock.sendall(b"second")
        gate.open()
        assert util.recv_all(sock) == b"first second"


def test_sleep_lets_the_others_run(backend, clock):
    order = []

    async def handler(conn):
        data = await conn.recv()
        await pymux.sleep(float(data))
        order.append(data)
        conn.send(data)

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as slow,
        util.connect(server.address) as fast,
    ):
        slow.sendall(b"60\n")
        util.wait_until(lambda: server.stats().messages_in == 1)
        fast.sendall(b"10\n")
        util.wait_until(lambda: server.stats().messages_in == 2)
        clock.advance(20, server)
        assert util.recv_all(fast) == b"10\n"
        assert order == [b"10"]
        clock.advance(50, server)
        assert util.recv_all(slow) == b"60\n"


def test_sleep_takes_as_long_as_it_says(backend):
    took = []

    async def handler(conn):
        for seconds in (0, 0.03):
            before = time.monotonic()
            await pymux.sleep(seconds)
            took.append(time.monotonic() - before - seconds)

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
    assert len(took) == 2
    assert min(took) > -0.001


def test_to_thread_gives_what_the_function_returns_elsewhere(backend):
    def work(*args):
        return args, threading.get_ident()

    results = []

    async def handler(conn):
        results.append((await pymux.to_thread(work, 1, "two"), threading.get_ident()))

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
    (((args, there), here),) = results
    assert args == (1, "two")
    assert there != here


def test_to_thread_raises_what_the_function_raises(backend):
    caught = []

    async def handler(conn):
        try:
            await pymux.to_thread(int, "x")
        except ValueError as error:
            caught.append(error)

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
    assert len(caught) == 1


def test_to_thread_lets_the_others_run(backend):
    gate = util.Gate()

    async def handler(conn):
        data = await conn.recv()
        if data == b"slow":
            await gate.wait()
        conn.send(data)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as slow,
    ):
        slow.sendall(b"slow")
        assert gate.reached.wait(10)
        assert util.everything(server.address, b"fast") == b"fast"
        gate.open()
        assert util.recv_all(slow) == b"slow"


class Foreign:
    """An awaitable of somebody else's."""

    def __await__(self):
        yield "something"


@pytest.mark.parametrize(
    "awaitable",
    [Foreign, lambda: asyncio.sleep(0), lambda: asyncio.Future(loop=Loop())],
    ids=["of its own", "asyncio.sleep", "asyncio.Future"],
)
def test_awaiting_what_is_not_ours_names_pymux_aio(backend, awaitable):
    caught = []

    async def handler(conn):
        try:
            await awaitable()
        except RuntimeError as error:
            caught.append(str(error))
        conn.send(b"goes on")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b"goes on"
    (message,) = caught
    assert "pymux.aio" in message


class Loop(asyncio.AbstractEventLoop):
    """As much of a loop as a future asks for."""

    def get_debug(self):
        return False


def test_a_second_recv_at_once_is_a_runtime_error(backend):
    waiting, caught = [], []

    async def handler(conn):
        if waiting:
            try:
                await waiting[0].recv()
            except RuntimeError as error:
                caught.append(error)
            return
        waiting.append(conn)
        conn.send(b"waiting")
        conn.send(await conn.recv())

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as first,
    ):
        assert util.recv_exactly(first, 8) == b"waiting\n"
        assert util.everything(server.address, b"") == b""
        assert len(caught) == 1
        first.sendall(b"goes on\n")
        assert util.recv_all(first) == b"goes on\n"


def test_one_that_raises_is_flushed_and_told_of(backend):
    errors = []

    async def handler(conn):
        conn.send(await conn.recv())
        raise LookupError("of the coroutine")

    with util.serving(
        handler,
        backend,
        framing=LINES,
        on_error=lambda *args: errors.append(args),
    ) as server:
        assert util.everything(server.address, b"a\nb\n") == b"a\n"
    ((conn, error),) = errors
    assert isinstance(conn, pymux.Connection)
    assert isinstance(error, LookupError)


def test_one_that_raises_is_logged_once_with_its_traceback(backend, logged):
    async def handler(conn):
        raise LookupError("of the coroutine")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
    (record,) = logged
    assert record.exc_info[0] is LookupError
    assert record.exc_info[2] is not None


def test_output_is_in_program_order_over_sleeps_and_other_senders(backend):
    async def handler(conn):
        conn.send(b"1")
        await pymux.sleep(0)
        conn.mux.send_many([conn], b"2")
        conn.mux.call_later(0, conn.send, b"4")
        conn.send(b"3")
        await pymux.sleep(0.01)
        conn.send(b"5")
        await pymux.to_thread(int)
        conn.send(b"6")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b"123456"


def test_ten_coroutines_at_once_each_keep_their_own(backend):
    async def handler(conn):
        total = 0
        async for data in conn:
            total += int(data)
            await pymux.sleep(0)
            conn.send(b"%d" % total)

    with util.serving(handler, backend, framing=LINES) as server:
        socks = [util.connect(server.address) for _ in range(10)]
        try:
            for k in range(3):
                for n, sock in enumerate(socks):
                    sock.sendall(b"%d\n" % (n + k))
            for n, sock in enumerate(socks):
                sock.shutdown(socket.SHUT_WR)
                sums = (n, 2 * n + 1, 3 * n + 3)
                assert util.recv_all(sock) == b"%d\n%d\n%d\n" % sums
        finally:
            for sock in socks:
                sock.close()


def test_a_second_recv_while_one_is_pending_is_a_runtime_error(backend):
    async def handler(conn):
        first = conn.recv()
        first.send(None)
        try:
            await conn.recv()
        except RuntimeError as error:
            conn.send(str(error).encode())

    with util.serving(handler, backend) as server:
        assert b"one at a time" in util.everything(server.address, b"go")
