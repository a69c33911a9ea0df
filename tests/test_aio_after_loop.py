"""Connections and servers that are used after their asyncio loop has ended."""

import concurrent.futures
import threading
import warnings

import pytest

import pymux

from . import util
from .loops import run, run_bare, until
from .processes import python

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LATE = {
    "close": lambda conn: conn.close(),
    "abort": lambda conn: conn.abort(),
    "fail": lambda conn: conn.fail(ValueError()),
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


def test_a_server_whose_loop_is_closed_can_be_stopped_in_another(loop):
    async def start():
        return await pymux.aio.serve(lambda conn, data: data, LOCAL)

    async def stop(server):
        await server.stop()
        await server.stop()

    server = loop.run(start())
    loop.run(stop(server))
