"""Several asyncio loops, threads and processes; a loop that lacks what it needs."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

import pymux

from . import inside, util
from .loops import converse, run, until
from .processes import in_child

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


# --- loops and threads ------------------------------------------------------


def test_runs_one_after_the_other_have_muxes_of_their_own(loop, echo_server):
    muxes = [run(loop, converse(echo_server.address)) for _ in range(20)]
    assert len(set(map(id, muxes))) == 20
    assert all(inside.is_freed(mux) for mux in muxes)
    assert not inside.outgoing_muxes()


def test_loops_of_several_threads_connect_at_once(loop, echo_server):
    errors = []

    async def main():
        await asyncio.gather(*(converse(echo_server.address) for _ in range(20)))

    def many():
        try:
            for _ in range(10):
                run(loop, main())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not inside.outgoing_muxes()


def test_a_loop_goes_on_in_another_thread(loop, echo_server):
    its = loop.new()
    try:
        conn = its.run_until_complete(
            pymux.aio.connect(echo_server.address, framing=LINES)
        )

        async def talk():
            conn.send(b"from there")  # before any turn has been taken there
            assert conn.peer == echo_server.address
            return await conn.recv(20)

        got = []
        thread = threading.Thread(
            target=lambda: got.append(its.run_until_complete(talk()))
        )
        thread.start()
        thread.join()
        assert got == [b"from there"]
        assert its.run_until_complete(talk()) == b"from there"
        conn.close()
        its.run_until_complete(conn.wait_closed())
    finally:
        its.close()


def test_a_loop_that_was_stopped_in_the_middle_goes_on(loop, echo_server):
    its = loop.new()
    got = []

    async def main():
        async with await pymux.aio.connect(echo_server.address, framing=LINES) as conn:
            for k in range(20):
                conn.send(b"%d" % k)
                its.stop()
                got.append(await conn.recv(20))
        its.stop()

    try:
        task = its.create_task(main())
        while not task.done():
            its.run_forever()
        task.result()
    finally:
        its.close()
    assert got == [b"%d" % k for k in range(20)]


def test_a_connection_is_another_loops_matter(loop, echo_server):
    """Two loops live side by side, run in turns by one thread."""
    one, two = loop.new(), loop.new()
    try:
        first = one.run_until_complete(
            pymux.aio.connect(echo_server.address, framing=LINES)
        )
        second = two.run_until_complete(
            pymux.aio.connect(echo_server.address, framing=LINES)
        )
        assert first.mux is not second.mux
        for its, conn in ((one, first), (two, second)) * 3:
            conn.send(b"x")
            assert its.run_until_complete(conn.recv(20)) == b"x"
        one.close()
        util.collect()
        assert first.closed
        second.send(b"y")
        assert two.run_until_complete(second.recv(20)) == b"y"
        second.close()
        first.close()
    finally:
        one.close()
        two.close()


def test_a_loop_that_was_closed_is_not_mistaken_for_a_new_one(loop, echo_server):
    """Numbers of objects are used again; each loop has its own mux."""
    kept = []
    for _ in range(30):
        its = loop.new()
        conn = its.run_until_complete(
            pymux.aio.connect(echo_server.address, framing=LINES)
        )
        conn.send(b"x")
        assert its.run_until_complete(conn.recv(20)) == b"x"
        assert inside.loop_of(conn.mux) is its
        kept.append(conn if len(kept) % 2 else None)
        conn.close()
        its.close()
        del its, conn
    util.collect()
    assert not inside.outgoing_muxes()


# --- forks ------------------------------------------------------------------


@has_fork
def test_a_forked_child_has_a_loop_and_a_mux_of_its_own(loop, echo_server):
    async def main():
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        async with pymux.aio.serve(lambda conn, data: data, LOCAL, framing=LINES) as s:

            def child():
                asyncio._set_running_loop(None)
                with pytest.raises(RuntimeError, match="process that made it"):
                    conn.send(b"x")
                assert "Connection" in repr(conn)
                run(loop, converse(echo_server.address, b"from the child"))

            await asyncio.to_thread(int)
            in_child(child)
            await converse(s.address)
        conn.send(b"after the fork")
        assert await conn.recv(20) == b"after the fork"
        conn.close()

    loop.run(main())


@has_fork
def test_a_child_that_drops_all_of_it_disturbs_nothing(loop, echo_server):
    async def main():
        box = [await pymux.aio.connect(echo_server.address, framing=LINES)]

        def child():
            mux = box[0].mux
            box.clear()
            util.collect()
            mux.close()

        in_child(child)
        box[0].send(b"still here")
        assert await box[0].recv(20) == b"still here"
        box[0].close()

    loop.run(main())


LEAVES = """
import asyncio, importlib, os, sys
import pymux

parent = os.getpid()

async def handler(conn):
    async for data in conn:
        conn.send(data)

async def main():
    async with pymux.aio.serve(handler, ("127.0.0.1", 0)) as server:
        async with await pymux.aio.connect(server.address) as conn:
            conn.send(b"x")
            assert await conn.recv(20) == b"x"
            running = asyncio.get_running_loop(), asyncio.current_task()
            child = os.fork()
            if not child:
                if sys.version_info >= (3, 14):
                    # A child runs no loop and no task there, and asyncio says that it
                    # cannot end the step: pymux is not to say more.
                    asyncio._set_running_loop(running[0])
                    asyncio.tasks._enter_task(*running)
                await server.wait()
                if sys.argv[2] == "raise":
                    raise SystemExit(7)
                return 7
            status = os.waitpid(child, 0)[1]
            conn.send(b"y")
            assert await conn.recv(20) == b"y"
            return os.waitstatus_to_exitcode(status)

status = importlib.import_module(sys.argv[1]).run(main())
if os.getpid() != parent:
    os._exit(status)
assert status == 7, status
"""


@has_fork
@pytest.mark.parametrize("how", ["raise", "return"])
def test_a_child_leaves_the_blocks_of_its_parent_at_once(loop, how):
    """By an exception or without one: nothing hides it, nothing is said."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES, loop.name, how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- what is missing --------------------------------------------------------


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="it counts in /proc")
@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_descriptors_that_are_missing_leave_nothing_begun(loop, listening, missing):
    """So many are left for what needs four: the poller, two for waking, a socket."""
    resource = pytest.importorskip("resource")

    async def attempt(what):
        with pytest.raises(OSError, match="open files"):
            await what

    async def main():
        address = listening.getsockname()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = len(os.listdir("/proc/self/fd"))
        probe = os.open(os.devnull, os.O_RDONLY)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe + missing, hard))
        try:
            await attempt(pymux.aio.connect(address))
            server = pymux.aio.serve(lambda conn, data: data, LOCAL)
            await attempt(server.__aenter__())
            await server.stop()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)
        conn = await pymux.aio.connect(address)
        conn.abort()
        async with server:  # it can be tried again
            await converse(server.address)

    listening.getsockname()
    loop.run(main())


def test_a_loop_that_cannot_watch_leaves_nothing_begun(loop, listening):
    async def main():
        before = len(inside.outgoing_muxes())
        server = pymux.aio.serve(lambda conn, data: data, LOCAL)
        with inside.watching_raises(OSError("no room to watch")):
            with pytest.raises(OSError, match="no room"):
                await pymux.aio.connect(listening.getsockname())
            with pytest.raises(OSError, match="no room"):
                await server
        assert len(inside.outgoing_muxes()) == before
        await server.stop()
        async with server:
            await converse(server.address)

    loop.run(main())


# --- tasks ------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="tasks are eager from 3.12 on"
)
def test_eager_tasks_serve_and_dial(loop):
    if loop.name == "uvloop" and (3, 13) <= sys.version_info < (3, 13, 4):
        pytest.skip("uvloop gives eager_start, which this Python does not know yet")

    async def handler(conn):
        conn.send(b"welcome")
        async for line in conn:
            conn.send(line)

    async def greeter(conn):
        conn.send(b"and bye")  # ends within its first step

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with (
            pymux.aio.serve(handler, LOCAL, framing=LINES) as server,
            pymux.aio.serve(greeter, LOCAL, framing=LINES) as other,
        ):

            async def talk(k):
                async with await pymux.aio.connect(
                    server.address, framing=LINES
                ) as conn:
                    assert await conn.recv(20) == b"welcome"
                    conn.send(b"%d" % k)
                    assert await conn.recv(20) == b"%d" % k
                async with await pymux.aio.connect(
                    other.address, framing=LINES
                ) as conn:
                    assert [line async for line in conn] == [b"and bye"]

            await asyncio.gather(*(asyncio.create_task(talk(k)) for k in range(20)))

    loop.run(main())


def test_a_half_imported_asyncio_does_not_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncio", type(sys)("asyncio"))
    assert inside.running_asyncio() is None


def test_a_blocking_server_in_a_running_loop_sleeps_by_itself(loop):
    async def handler(conn):
        await pymux.sleep(0.001)
        conn.send(await pymux.to_thread(bytes.upper, await conn.recv()))

    async def main():
        server = pymux.Server(handler, LOCAL)
        got = []

        def client():
            util.wait_until(lambda: inside.engine_of(server) is not None)
            got.append(util.exchange(server.address, b"hello", 5))
            server.stop()

        thread = threading.Thread(target=client)
        thread.start()
        server.run()
        thread.join()
        assert got == [b"HELLO"]

    loop.run(main())
