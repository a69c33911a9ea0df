"""Connects, waits and servers that are cancelled or interrupted at any step."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time

import pytest

import pymux

from . import inside, util
from .hosts import know
from .loops import at_rest, converse, run, until

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


@pytest.mark.parametrize("steps", range(4))
def test_connect_may_be_cancelled_at_any_step(loop, echo_server, steps, monkeypatch):
    name = know(monkeypatch, "a-name", "127.0.0.1")

    async def main():
        others = [
            asyncio.ensure_future(converse(echo_server.address)) for _ in range(5)
        ]
        task = asyncio.ensure_future(
            pymux.aio.connect((name, echo_server.address[1]), framing=LINES)
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
        await at_rest(conn.mux)
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
    def answer(conn, data):
        return data

    async def main():
        thread.start()  # not sooner: the loop would not have begun
        async with pymux.aio.serve(answer, LOCAL, framing=LINES) as server:
            while True:
                await asyncio.gather(
                    converse(server.address), converse(echo_server.address, b"x" * 1000)
                )

    def interrupt():
        time.sleep(0.02 + 0.0037 * k)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(loop, main())
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
