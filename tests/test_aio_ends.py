"""How connections and servers of a loop end: left blocks, the loop's end, and later."""

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import os
import socket
import sys
import threading
import warnings

import pytest

import pymux

from . import inside, util
from .loops import run, run_bare, until
from .processes import python

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
COUNTED = sys.implementation.name == "cpython"
MUCH = 8_000_000  # more than two kernels' buffers hold


@contextlib.contextmanager
def slow_reader(listener, got):
    """A thread that accepts one connection and reads it to its end, by and by."""

    def read():
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(20)
            go.wait(20)
            got.append(util.until_end(sock))

    go = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield go
    finally:
        go.set()
        thread.join()


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


# --- leaving a block --------------------------------------------------------


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
    got = []

    async def leave():
        async with await pymux.aio.connect(listening.getsockname()) as conn:
            conn.send(b"x" * MUCH)

    async def main():
        task = asyncio.ensure_future(leave())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    with slow_reader(listening, got) as go:
        run(loop, main())
    assert got == [(b"x" * MUCH, None)]


# --- the loop's end ---------------------------------------------------------


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


# --- later ------------------------------------------------------------------

LATE = {
    "close": lambda conn: conn.close(),
    "abort": lambda conn: conn.abort(),
    "pause": lambda conn: conn.pause(),
    "resume": lambda conn: conn.resume(),
    "send_eof": lambda conn: conn.send_eof(),
    "queued": lambda conn: conn.queued,
    "peer": lambda conn: conn.peer,
    "local": lambda conn: conn.local,
    "closed": lambda conn: conn.closed,
    "repr": repr,
}


@pytest.mark.parametrize("where", ["here", "another thread"])
@pytest.mark.parametrize("runner", [run, run_bare], ids=["run", "bare"])
@pytest.mark.parametrize("first", LATE)
def test_after_the_loop_every_call_does_nothing_twice(
    loop, listening, runner, first, where
):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        conn.send(b"x")  # its turn may be pending when the loop closes
        return conn

    def late():
        for call in [LATE[first], *LATE.values(), *LATE.values()]:
            call(conn)
        assert conn.closed
        assert conn.queued == 0
        assert conn.peer == listening.getsockname()
        with pytest.raises(pymux.ConnectionClosed):
            conn.send(b"x")

    conn = runner(loop, main())
    if where == "here":
        late()
    else:
        errors = []
        thread = threading.Thread(target=_collect_errors, args=(late, errors))
        thread.start()
        thread.join()
        assert not errors
    listening.accept()[0].close()
    conn.close()


def _collect_errors(fn, errors):
    try:
        fn()
    except BaseException as error:
        errors.append(error)


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("runner", [run, run_bare], ids=["run", "bare"])
def test_send_after_the_loop_raises_and_never_of_the_loop(
    loop, listening, runner, pending
):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        if pending:
            conn.send(b"before")
        return conn

    conn = runner(loop, main())
    for _ in range(2):
        with pytest.raises(pymux.ConnectionClosed):
            conn.send(b"x")
    conn.close()


@pytest.mark.parametrize("runner", [run, run_bare], ids=["run", "bare"])
def test_a_block_may_be_left_in_a_later_run(loop, listening, runner):
    async def enter():
        conn = await pymux.aio.connect(listening.getsockname())
        return await conn.__aenter__()

    async def leave(conn):
        with pytest.raises(pymux.ConnectionClosed):
            await conn.recv()
        await conn.wait_closed()
        await conn.__aexit__(None, None, None)

    conn = runner(loop, enter())
    runner(loop, leave(conn))


@pytest.mark.parametrize("runner", [run, run_bare], ids=["run", "bare"])
def test_a_server_may_be_stopped_late_and_twice_and_elsewhere(loop, runner):
    async def enter():
        server = pymux.aio.serve(lambda conn, data: data, LOCAL)
        return await server.__aenter__()

    async def leave(server):
        await server.stop()
        await server.stop(0)
        await server.__aexit__(None, None, None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        server = runner(loop, enter())
        with concurrent.futures.ThreadPoolExecutor(1) as another:
            another.submit(runner, loop, leave(server)).result()
        runner(loop, leave(server))
        with pytest.raises(ConnectionRefusedError):
            util.connect(server.address)
        assert server.stats().listeners == 0
        del server
        util.collect()


def test_a_servers_connections_may_be_used_after_its_loop(loop):
    conns = []

    class Object:
        def opened(self, conn):
            conns.append(conn)

    async def main():
        server = await pymux.aio.serve(Object(), LOCAL)
        socks.append(util.connect(server.address))
        await until(lambda: conns)
        return server

    socks = []
    server = run_bare(loop, main())
    with socks.pop():
        conns[0].close()
        conns[0].abort()
        assert conns[0].closed
        with pytest.raises(pymux.ConnectionClosed):
            conns[0].send(b"x")
    run(loop, server.stop())


def test_the_muxs_own_calls_say_that_it_has_closed(loop, listening):
    async def main():
        return await pymux.aio.connect(listening.getsockname())

    conn = run_bare(loop, main())
    mux = conn.mux
    with pytest.raises(RuntimeError, match="mux is closed"):
        mux.connect(listening.getsockname())
    with pytest.raises(RuntimeError, match="mux is closed"):
        mux.call_later(0, print)
    with pytest.raises(RuntimeError, match="mux is closed"):
        mux.send_many([conn], b"x")
    mux.wakeup()
    mux.close()
    assert "closed" in repr(mux)
    conn.close()


def test_nothing_is_said_when_the_interpreter_ends_with_all_of_it_open(loop, listening):
    code = f"""
import asyncio, sys, pymux
if {loop.name!r} == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
else:
    loop = asyncio.new_event_loop()
async def handler(conn):
    async for data in conn:
        conn.send(data)
async def main():
    global server, conn, task
    server = await pymux.aio.serve(handler, ("127.0.0.1", 0))
    conn = await pymux.aio.connect(server.address)
    conn.send(b"x")
    assert await conn.recv() == b"x"
    other = await pymux.aio.connect({listening.getsockname()!r})
    other.send(b"bye")
    conn.state = other
loop.run_until_complete(main())
print("done")
"""
    with python("-W", "ignore", "-c", code) as child:
        out, errors = child.communicate(timeout=30)
        assert (out, child.returncode) == ("done\n", 0)
        assert "ignored" not in errors, errors
        assert "Traceback" not in errors, errors


@pytest.mark.parametrize("lost", ["turn", "close"])
def test_the_end_of_the_loop_waits_for_no_call_that_was_lost(loop, lost):
    """A signal's handler that raises takes the place of a call of the loop's, and
    cuts short what it interrupts."""

    async def main():
        server = await pymux.aio.serve(lambda conn, data: data, LOCAL)
        mux = inside.mux_of(server)
        with await asyncio.to_thread(util.connect, server.address):
            await until(lambda: server.stats().connections == 1)
            if lost == "close":
                with inside.freeing_raises(ValueError), pytest.raises(ValueError):
                    mux.close()
            else:
                stopped = asyncio.ensure_future(server.stop())
                await asyncio.sleep(0)
                inside.lose_the_calls(mux)
                stopped.cancel()
            await asyncio.wait_for(mux.end_with_loop(), 20)
            await asyncio.wait_for(server.wait(), 20)
            inside.own_no_warning(server)  # other tests see that it warns

    loop.run(main())
