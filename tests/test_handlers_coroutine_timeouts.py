"""Time limits of coroutine handlers: `timeout` blocks, and those of single waits."""

import contextlib
import functools
import socket
import threading
import time

import pytest

import pymux

from . import inside, util

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


async def in_recv(conn):
    await conn.recv()


async def in_iteration(conn):
    async for _ in conn:
        pass


async def in_drain(conn):
    conn.send(bytes(16 << 20))
    await conn.drain()


async def in_sleep(conn):
    await pymux.sleep(3600)


async def in_to_thread(conn):
    await pymux.to_thread(conn.state.wait, 10)


async def in_a_shorter_recv(conn):
    while True:
        with contextlib.suppress(TimeoutError):
            await conn.recv(timeout=1)


WAITS = [in_recv, in_iteration, in_drain, in_sleep, in_to_thread, in_a_shorter_recv]


@pytest.mark.parametrize("wait", WAITS)
def test_a_block_ends_whatever_its_coroutine_waits_for(backend, clock, wait):
    entered, told = threading.Event(), []

    async def handler(conn):
        conn.state = threading.Event()
        try:
            async with pymux.timeout(60) as block:
                entered.set()
                await wait(conn)
                told.append("not reached")
        except TimeoutError as error:
            told.append(str(error))
        finally:
            conn.state.set()
        told.append(block.expired())

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        assert entered.wait(10)
        clock.advance(50, server)
        assert told == []
        clock.advance(11, server)
        clock.advance(2, server)  # a shorter recv goes on until its own end
        util.wait_until(lambda: told)
        sock.close()
    assert told == ["the block took longer than 60 seconds", True]


def test_a_block_that_ends_in_time_raises_nothing(backend, clock):
    async def handler(conn):
        async with pymux.timeout(60) as block:
            first = await conn.recv()
        assert not block.expired()
        async with pymux.timeout(None):
            second = await conn.recv()
        conn.send(first + second)

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\n")
        util.wait_until(lambda: server.stats().messages_in == 1)
        clock.advance(100, server)
        sock.sendall(b"b\n")
        assert util.recv_all(sock) == b"ab\n"


def test_the_block_whose_time_is_over_is_the_one_that_raises(backend, clock):
    told, entered = [], threading.Event()

    async def handler(conn):
        try:
            async with pymux.timeout(10) as outer:
                try:
                    async with pymux.timeout(60) as inner:
                        entered.set()
                        await conn.recv()
                except TimeoutError:
                    told.append("the inner one")
        except TimeoutError:
            told.append("the outer one")
        told.append((outer.expired(), inner.expired()))

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        clock.advance(20, server)
        assert util.recv_all(sock) == b""
    assert told == ["the outer one", (True, False)]


def test_blocks_that_are_over_at_once_raise_one_after_the_other(backend, clock):
    told, entered = [], threading.Event()

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(10):
                with contextlib.suppress(TimeoutError):
                    async with pymux.timeout(5):
                        entered.set()
                        await conn.recv()
                told.append("between")
                await conn.recv()
                told.append("not reached")
        told.append("behind")

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        clock.advance(20, server)
        assert util.recv_all(sock) == b""
    assert told == ["between", "behind"]


def test_an_except_for_errors_does_not_keep_a_block_open(backend, clock):
    told, entered = [], threading.Event()

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                while True:
                    try:
                        entered.set()
                        await conn.recv()
                    except Exception as error:
                        told.append(error)
        conn.send(b"over")

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        clock.advance(61, server)
        assert util.recv_all(sock) == b"over"
    assert told == []


def test_cleanup_in_a_block_that_is_over_may_wait(backend, clock):
    cleaned, entered = [], threading.Event()

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                try:
                    entered.set()
                    await conn.recv()
                finally:
                    await pymux.sleep(0)
                    cleaned.append(await pymux.to_thread(int, "7"))
        conn.send(b"over")

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        clock.advance(61, server)
        assert util.recv_all(sock) == b"over"
    assert cleaned == [7]


def test_an_error_leaves_a_block_as_it_is(backend):
    async def handler(conn):
        with pytest.raises(LookupError, match="mine"):
            async with pymux.timeout(60):
                raise LookupError("mine")
        conn.send(b"over")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b"over"


def test_a_call_in_a_thread_that_was_given_up_answers_no_later_wait(backend, clock):
    first, entered = threading.Event(), threading.Event()

    def slow():
        entered.set()
        first.wait(10)
        return b"late"

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                await pymux.to_thread(slow)
        conn.send(await pymux.to_thread(quick))

    def quick():
        first.set()
        util.wait_until(lambda: workers.busy() == 1)  # the first one is over
        return b"quick"

    with (
        inside.own_threads() as workers,
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        assert entered.wait(10)
        clock.advance(61, server)
        assert util.recv_all(sock) == b"quick"


def test_a_block_around_a_dial_that_hangs_ends_it(backend):
    told = []

    async def handler(conn):
        with util.full_backlog() as address:
            try:
                async with pymux.timeout(0.05):
                    await pymux.dial(address)
            except TimeoutError as error:
                told.append(str(error))
            await pymux.sleep(0)
            await pymux.sleep(0)
            told.append(inside.connections(conn.mux) == [conn])

    if not hasattr(socket, "TCP_DEFER_ACCEPT"):
        pytest.skip("only Linux drops these SYNs")
    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert util.recv_all(sock) == b""
    assert told == ["the block took longer than 0.05 seconds", True]


def test_a_drain_may_have_a_time_limit(backend, clock):
    told, entered = [], threading.Event()

    async def handler(conn):
        await conn.drain(timeout=0)  # nothing is queued
        conn.send(bytes(16 << 20))
        try:
            entered.set()
            await conn.drain(timeout=60)
        except TimeoutError as error:
            told.append((str(error), conn.queued > 0))
        for wrong, kind in ((-1, ValueError), ("1", TypeError)):
            with pytest.raises(kind, match="timeout is"):
                await conn.drain(wrong)
        conn.abort()

    with util.serving(handler, backend) as server, util.connect(server.address):
        assert entered.wait(10)
        util.settle(server)
        clock.advance(61, server)
        util.wait_until(lambda: told)
    assert told == [("drain(): not under low water within 60 seconds", True)]


def test_a_call_in_a_thread_may_have_a_time_limit(backend, clock):
    told, release, entered = [], threading.Event(), threading.Event()

    def slow():
        entered.set()
        release.wait(10)

    async def handler(conn):
        told.append(await pymux.to_thread(functools.partial(int, base=2), "11"))
        told.append(await pymux.to_thread(int, "4", timeout=60))
        try:
            await pymux.to_thread(slow, timeout=60)
        except TimeoutError as error:
            told.append(str(error))
        release.set()

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        clock.advance(61, server)
        assert util.recv_all(sock) == b""
    three, four, text = told
    assert (three, four) == (3, 4)
    assert text.startswith("to_thread(): <function ")
    assert text.endswith(" took longer than 60 seconds")


def test_a_limit_that_cannot_be_is_refused_at_the_call():
    for wrong, kind in ((-1, ValueError), ("5", TypeError), (True, TypeError)):
        with pytest.raises(kind, match="seconds is"):
            pymux.timeout(wrong)
        with pytest.raises(kind, match="timeout is"):
            pymux.to_thread(int, timeout=wrong)


def test_a_block_that_no_loop_runs_is_refused(backend):
    told = []

    async def outside():
        async with pymux.timeout(1):
            pass

    def call():
        with pytest.raises(RuntimeError, match=r"timeout\(\) works in a coroutine"):
            outside().send(None)
        return True

    async def handler(conn):
        told.append(await pymux.to_thread(call))  # the context goes along, too

    call()
    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
    assert told == [True]


def test_a_thread_is_not_taken_for_the_coroutine_that_runs_meanwhile(backend):
    told, running, tried = [], threading.Event(), threading.Event()

    async def block():
        async with pymux.timeout(1):
            pass

    def in_a_thread():
        assert running.wait(10)
        try:
            with pytest.raises(RuntimeError, match=r"timeout\(\) works in a coroutine"):
                block().send(None)
            told.append(True)
        finally:
            tried.set()

    async def handler(conn):
        if await conn.recv() == b"thread":
            await pymux.to_thread(in_a_thread)
        else:
            running.set()
            assert tried.wait(10)

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"thread")
        util.wait_until(lambda: server.stats().messages_in == 1)
        util.everything(server.address, b"run")
        assert util.recv_all(sock) == b""
    assert told == [True]


def test_a_timeout_is_for_one_block(backend):
    told = []

    async def handler(conn):
        block = pymux.timeout(1)
        async with block:
            pass
        try:
            async with block:
                pass
        except RuntimeError as error:
            told.append(str(error))

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
    assert told == ["a timeout() is for one block; make one for each"]


def test_a_block_works_on_a_mux_that_the_caller_harvests(backend):
    told = []

    async def handler(conn):
        try:
            async with pymux.timeout(0.01):
                await conn.recv()
        except TimeoutError:
            told.append("over")

    with pymux.Mux(backend) as mux:
        listener = mux.listen(LOCAL, handler=handler)
        with util.connect(listener.address):
            deadline = time.monotonic() + 10
            while not told and time.monotonic() < deadline:
                mux.harvest(0.05)
    assert told == ["over"]


def test_a_block_works_where_a_generator_is_finished(backend):
    told = []

    async def numbers():
        try:
            yield 1
        finally:
            try:
                async with pymux.timeout(0.001):
                    await pymux.sleep(3600)
            except TimeoutError:
                told.append("over")

    async def handler(conn):
        async for _ in numbers():
            break

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
        util.wait_until(lambda: util.collect() or told)
    assert told == ["over"]


def test_a_block_ends_with_the_server(backend):
    left = []

    async def handler(conn):
        try:
            async with pymux.timeout(3600):
                await pymux.sleep(3600)
        finally:
            left.append(True)

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        server.stop(0)
    assert left == [True]
