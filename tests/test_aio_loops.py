"""Several loops, threads and processes; and what is begun in a loop and not ended."""

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

import pymux

from . import inside, util
from .loops import run, until
from .processes import in_child

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


async def ask(address, text=b"hello"):
    async with await pymux.aio.connect(address, framing=LINES) as conn:
        conn.send(text)
        assert await conn.recv(20) == text
        return conn.mux


# --- loops and threads ------------------------------------------------------


def test_runs_one_after_the_other_have_muxes_of_their_own(loop, echo_server):
    muxes = [run(loop, ask(echo_server.address)) for _ in range(20)]
    assert len(set(map(id, muxes))) == 20
    assert all(inside.is_freed(mux) for mux in muxes)
    assert not inside.outgoing_muxes()


def test_loops_of_several_threads_connect_at_once(loop, echo_server):
    errors = []

    async def main():
        await asyncio.gather(*(ask(echo_server.address) for _ in range(20)))

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
                run(loop, ask(echo_server.address, b"from the child"))

            await asyncio.to_thread(int)
            in_child(child)
            await ask(s.address)
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
            child = os.fork()
            if not child:
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
            await ask(server.address)

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
            await ask(server.address)

    loop.run(main())


# --- cancellation -----------------------------------------------------------


@pytest.mark.parametrize("steps", range(4))
def test_connect_may_be_cancelled_at_any_step(loop, echo_server, steps):
    async def main():
        others = [asyncio.ensure_future(ask(echo_server.address)) for _ in range(5)]
        task = asyncio.ensure_future(
            pymux.aio.connect(("localhost", echo_server.address[1]), framing=LINES)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            conn = await task
        except asyncio.CancelledError:
            pass
        else:
            conn.close()
        await asyncio.gather(*others)
        await until(lambda: not echo_server.stats().connections)

    with contextlib.suppress(OSError):
        loop.run(main())


@pytest.mark.parametrize("wait", ["recv", "drain", "wait_closed", "leave"])
def test_a_wait_that_is_cancelled_leaves_the_other_waits(loop, listening, wait):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname(), framing=LINES)
        sock, _ = listening.accept()
        conn.send(b"x" * 8_000_000)
        waits = {
            "recv": conn.recv,
            "drain": conn.drain,
            "wait_closed": conn.wait_closed,
        }
        if wait == "leave":
            waits["leave"] = lambda: conn.__aexit__(None, None, None)
            del waits["recv"]
        tasks = {name: asyncio.ensure_future(fn()) for name, fn in waits.items()}
        await asyncio.sleep(0.02)
        tasks[wait].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks.pop(wait)
        again = None if wait == "leave" else asyncio.ensure_future(waits[wait]())
        with sock:
            sock.settimeout(20)
            if wait == "leave":
                reading = asyncio.to_thread(util.until_end, sock)
                assert await reading == (b"x" * 8_000_000 + b"\n", None)
            else:
                reading = asyncio.to_thread(util.recv_exactly, sock, 8_000_001)
                assert await reading == b"x" * 8_000_000 + b"\n"
                sock.sendall(b"one\n")
        if wait != "leave":
            assert await (again if wait == "recv" else tasks.pop("recv")) == b"one"
            conn.close()
        for task in tasks.values():
            await task
        if again is not None:
            await again

    loop.run(main())


@pytest.mark.parametrize("how", ["cancel", "wait_for", "timeout"])
def test_a_recv_that_is_given_up_takes_no_message(loop, listening, how):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname(), framing=LINES)
        sock, _ = listening.accept()
        got = []

        def send():
            for k in range(300):
                sock.sendall(b"%d\n" % k)
                time.sleep(0.0002 * (k % 5))

        sending = asyncio.ensure_future(asyncio.to_thread(send))
        with sock:
            while len(got) < 300:
                try:
                    if how == "cancel":
                        task = asyncio.ensure_future(conn.recv())
                        asyncio.get_running_loop().call_later(0.0003, task.cancel)
                        got.append(await task)
                    elif how == "wait_for":
                        got.append(await asyncio.wait_for(conn.recv(), 0.0003))
                    else:
                        got.append(await conn.recv(0.0003))
                except (asyncio.CancelledError, TimeoutError):
                    pass
            await sending
        assert got == [b"%d" % k for k in range(300)]
        conn.close()

    loop.run(main())


@pytest.mark.parametrize("steps", range(6))
def test_a_server_may_be_stopped_at_any_step_of_a_run(loop, steps):
    """Its start, a stop that is cancelled, another that goes on."""

    async def main():
        server = pymux.aio.serve(lambda conn, data: data, LOCAL, framing=LINES)
        entering = asyncio.ensure_future(server.__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await entering
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        await server.stop()
        assert not server.stats().listeners

    loop.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="it sends itself a signal")
@pytest.mark.parametrize("k", range(12))
def test_ctrl_c_at_any_time_ends_the_run_and_leaves_nothing(loop, echo_server, k):
    async def main():
        handler = lambda conn, data: data  # noqa: E731
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            while True:
                await asyncio.gather(
                    ask(server.address), ask(echo_server.address, b"x" * 1000)
                )

    def interrupt():
        time.sleep(0.02 + 0.0037 * k)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(loop, main())
    finally:
        thread.join()
    util.collect()
    util.wait_until(lambda: not echo_server.stats().connections)


def test_a_dialling_that_a_signals_handler_interrupts_leaves_nothing(loop, echo_server):
    class Alarm(BaseException):
        pass

    async def main():
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        with inside.dialling_raises(Alarm), pytest.raises(Alarm):
            await pymux.aio.connect(echo_server.address, framing=LINES)
        conn.send(b"still here")
        assert await conn.recv() == b"still here"
        await until(lambda: echo_server.stats().connections == 1)
        await until(lambda: inside.places_in_use(conn.mux) == 1)
        conn.close()

    loop.run(main())


# --- contexts ---------------------------------------------------------------

WHO = contextvars.ContextVar("WHO", default="nobody")


@pytest.mark.parametrize("form", ["function", "batch", "object"])
def test_what_a_handler_sets_is_not_seen_by_the_next(loop, form):
    seen = []

    def function(conn, data):
        seen.append(WHO.get())
        WHO.set(data.decode())
        return data

    @pymux.batched
    def batch(batch):
        batch.reply([function(*row) for row in batch])

    class Object:
        def opened(self, conn):
            function(conn, b"opened")

        def received(self, conn, data):
            return function(conn, data)

        def closed(self, conn, error):
            function(conn, b"closed")

    handler = {"function": function, "batch": batch, "object": Object()}[form]

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            for name in (b"alice", b"bob", b"carol"):
                await ask(server.address, name)
        assert set(seen) == {"nobody"}
        assert WHO.get() == "nobody"

    loop.run(main())


def test_what_a_timer_sets_is_seen_by_nobody(loop):
    seen = []

    def handler(conn, data):
        conn.mux.call_later(0, WHO.set, "the timer")
        conn.mux.call_later(0.001, lambda: seen.append(WHO.get()))
        seen.append(WHO.get())
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            for _ in range(3):
                await ask(server.address)
                await until(lambda: len(seen) % 2 == 0)
        assert seen == ["nobody"] * 6

    loop.run(main())


def test_handlers_start_from_the_context_in_which_their_server_was_started(loop):
    seen = []

    async def handler(conn):
        seen.append(WHO.get())
        WHO.set("a task")

    async def main():
        WHO.set("the starter")
        async with pymux.aio.serve(handler, LOCAL) as server:
            WHO.set("later")
            for _ in range(3):
                got = await asyncio.to_thread(util.everything, server.address, b"")
                assert got == b""
        assert seen == ["the starter"] * 3

    loop.run(main())


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="references are not counted here"
)
def test_nothing_is_kept_of_the_context_of_who_dialled_first(loop, echo_server):
    class Request:
        pass

    async def first():
        request = Request()
        WHO.set(request)
        refs.append(weakref.ref(request))
        conns.append(await pymux.aio.connect(echo_server.address, framing=LINES))
        conns[0].send(b"x")
        assert await conns[0].recv(20) == b"x"

    async def main():
        gc.disable()
        try:
            await asyncio.ensure_future(first())
            await until(lambda: refs[0]() is None)
            conns[0].mux.call_later(0, lambda: seen.append(WHO.get()))
            await until(lambda: seen)
            assert seen == ["nobody"]
        finally:
            gc.enable()
            conns[0].close()

    refs, conns, seen = [], [], []
    loop.run(main())


def test_a_tasks_own_context_is_the_same_after_its_waits(loop, echo_server):
    async def talk(name):
        WHO.set(name)
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        async with conn:
            for _ in range(10):
                conn.send(name)
                assert await conn.recv(20) == name
                assert WHO.get() is name
                await conn.drain()
        assert WHO.get() is name

    async def main():
        await asyncio.gather(*(talk(b"%d" % k) for k in range(20)))
        assert WHO.get() == "nobody"

    loop.run(main())


# --- tasks ------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="tasks are eager from 3.12 on"
)
def test_eager_tasks_serve_and_dial(loop):
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
