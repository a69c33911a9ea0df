"""What becomes of connections and servers when their asyncio loop ends."""

import asyncio
import contextlib
import errno
import gc
import os
import sys
import threading
import warnings

import pytest

import pymux

from . import inside, util
from .loops import run, run_bare, until
from .peers import slow_reader

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
COUNTED = sys.implementation.name == "cpython"
MUCH = 8_000_000  # more than two kernels' buffers hold


def descriptors():
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd") or not COUNTED,
    reason="it counts descriptors in /proc, and references",
)


@contextlib.contextmanager
def nothing_left():
    """No descriptor is, when the block ends, and no collector is needed."""
    gc.collect()
    gc.disable()
    try:
        before = descriptors()
        yield
        assert descriptors() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["close", "drop", "keep"])
def test_what_was_sent_is_delivered_though_the_loop_ends_at_once(loop, listening, how):
    got, kept = [], []

    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        conn.send(b"x" * MUCH)
        if how == "close":
            conn.close()
        elif how == "keep":
            kept.append(conn)
        asyncio.get_running_loop().call_later(0.02, go.set)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with slow_reader(listening, got) as go:
            run(loop, main())
        kept.clear()
        util.collect()
    assert got == [(b"x" * MUCH, None)]


def test_the_end_of_a_loop_does_not_wait_for_a_peer_that_has_all(loop, listening):
    """Nor for its end of stream; and what it sends meanwhile destroys nothing."""

    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        sock, _ = listening.accept()
        conn.send(b"last words")
        sock.sendall(b"you never read this" * 1000)
        conn.close()
        return sock

    with run(loop, main()) as sock:
        sock.settimeout(20)
        assert util.recv_exactly(sock, 10) == b"last words"


def test_what_a_loop_cannot_deliver_in_its_last_seconds_is_reset(
    loop, listening, monkeypatch
):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        conn.send(b"x" * MUCH)
        conn.close()
        return conn

    with inside.lingers(0.1):
        conn = run(loop, main())
    with listening.accept()[0] as sock:
        sock.settimeout(20)
        data, error = util.until_end(sock)
    assert len(data) < MUCH
    assert error == errno.ECONNRESET
    assert conn.closed


def test_a_connection_left_open_is_closed_with_the_loop_and_warns_when_dropped(
    loop, listening
):
    async def main():
        return await pymux.aio.connect(listening.getsockname())

    kept = [run(loop, main())]
    with listening.accept()[0] as sock:
        assert util.until_end(sock) == (b"", None)
    assert kept[0].closed
    with pytest.warns(ResourceWarning, match="unclosed <Connection"):
        kept.clear()
        util.collect()


def test_one_that_is_closed_late_has_been_closed(loop, listening):
    async def main():
        return await pymux.aio.connect(listening.getsockname())

    conn = run(loop, main())
    conn.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del conn
        util.collect()


@needs_proc
@pytest.mark.parametrize("how", ["closed", "dropped", "cancelled", "refused"])
@pytest.mark.parametrize("runner", [run, run_bare], ids=["run", "bare"])
def test_no_run_leaves_a_descriptor(loop, runner, how):
    async def main():
        if how == "refused":
            with contextlib.suppress(ConnectionRefusedError):
                await pymux.aio.connect(("127.0.0.1", nobody))
            return
        conn = await pymux.aio.connect(server.address, framing=LINES)
        conn.send(b"x")
        assert await conn.recv() == b"x"
        if how == "closed":
            conn.close()
            await conn.wait_closed()
        elif how == "cancelled":
            task = asyncio.ensure_future(conn.recv())
            await asyncio.sleep(0)
            task.cancel()
            conn.abort()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    with util.serving(lambda conn, data: data, framing=LINES) as server:
        nobody = util.free_port()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            runner(loop, main())
            util.settle(server)
            util.wait_until(lambda: not server.stats().connections)
            with nothing_left():
                for _ in range(5):
                    runner(loop, main())
                util.wait_until(lambda: not server.stats().connections)


@needs_proc
def test_the_mux_is_closed_when_its_last_connection_has_ended(loop, listening):
    async def main():
        loop_ = asyncio.get_running_loop()
        await loop_.run_in_executor(None, int)  # threads have descriptors too
        with nothing_left():
            before = descriptors()
            one = await pymux.aio.connect(listening.getsockname())
            two = await pymux.aio.connect(listening.getsockname())
            socks = [listening.accept()[0] for _ in range(2)]
            assert one.mux is two.mux
            one.close()
            socks[0].close()
            await one.wait_closed()
            await asyncio.sleep(0.3)  # longer than a mux outlives them
            two.send(b"still here")
            assert await asyncio.to_thread(socks[1].recv, 100) == b"still here"
            two.close()
            socks[1].close()
            await until(lambda: descriptors() == before)
            again = await pymux.aio.connect(listening.getsockname())
            again.abort()
            listening.accept()[0].close()
            await until(lambda: descriptors() == before)

    loop.run(main())


def test_a_timer_of_the_mux_outlives_the_last_connection(loop, listening):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        conn.mux.call_later(0.4, ran.append, "ran")
        conn.abort()
        await until(lambda: ran)
        await until(lambda: inside.is_freed(conn.mux))

    ran = []
    loop.run(main())


@needs_proc
def test_a_server_that_nobody_stopped_ends_with_its_loop(loop):
    async def main():
        server = await pymux.aio.serve(lambda conn, data: data.upper(), LOCAL)
        servers.append(server)
        socks.append(util.connect(server.address))
        socks[-1].sendall(b"hello")
        await until(lambda: server.stats().messages_in)

    servers, socks = [], []
    with nothing_left():
        run(loop, main())
        with socks.pop() as sock:
            assert util.until_end(sock) == (b"HELLO", None)
        assert not servers[0].stats().connections
        with pytest.warns(ResourceWarning, match="unclosed <Server"):
            servers.clear()


def test_handlers_that_a_run_cancels_have_their_answers_delivered(loop):
    async def handler(conn):
        conn.send(b"x" * MUCH)
        begun.append(conn)
        await asyncio.sleep(60)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        socks.append(util.connect(server.address))
        threads.append(threading.Thread(target=read))
        await until(lambda: begun)
        threads[0].start()

    def read():
        got.append(util.until_end(socks[0]))

    begun, socks, threads, got = [], [], [], []
    with pytest.warns(ResourceWarning, match="unclosed <Server"):
        run(loop, main())
        begun.clear()
        util.collect()
    threads[0].join()
    socks[0].close()
    assert got == [(b"x" * MUCH, None)]


def test_a_server_and_its_client_may_be_left_to_the_same_loops_end(loop):
    async def handler(conn):
        async for line in conn:
            seen.append(line)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES)
        conn = await pymux.aio.connect(server.address, framing=LINES)
        conn.send(b"one")
        await until(lambda: seen)
        conn.close()

    seen = []
    with pytest.warns(ResourceWarning, match="unclosed <Server"):
        run(loop, main())
        util.collect()
    assert seen == [b"one"]


@pytest.mark.parametrize("lost", ["turn", "close"])
def test_the_end_of_the_loop_waits_for_no_call_that_was_lost(loop, lost):
    """A signal's handler that raises takes the place of a call of the loop's, and
    cuts short what it interrupts."""

    async def main():
        server = await pymux.aio.serve(lambda conn, data: data, LOCAL)
        engine = inside.engine_of(server)
        with await asyncio.to_thread(util.connect, server.address):
            await until(lambda: server.stats().connections == 1)
            if lost == "close":
                with inside.freeing_raises(ValueError), pytest.raises(ValueError):
                    engine.close()
            else:
                stopped = asyncio.ensure_future(server.stop())
                await asyncio.sleep(0)
                inside.lose_the_calls(server)
                stopped.cancel()
            await asyncio.wait_for(engine.end_with_loop(), 20)
            await asyncio.wait_for(server.wait(), 20)
            inside.own_no_warning(server)  # other tests see that it warns

    loop.run(main())
