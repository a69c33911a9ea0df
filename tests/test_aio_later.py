"""`Batch.later` in an asyncio loop."""

import asyncio
import socket

import pytest

import pymux

from . import loops, util
from .loops import ask, everything, recv, until

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def test_a_task_answers(loop):
    tasks = set()

    async def answer(messages, later):
        await asyncio.sleep(0)
        later.reply([data.upper() for data in messages])

    @pymux.batched
    def handler(batch):
        task = asyncio.create_task(answer(batch.messages, batch.later()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            assert await ask(server.address, b"a\nb\n", 4) == b"A\nB\n"
            assert await everything(server.address, b"c\nd\n") == b"C\nD\n"

    loop.run(main())


def test_a_thread_of_an_executor_answers(loop):
    def answer(messages, later):
        later.reply([data.upper() for data in messages])

    @pymux.batched
    def handler(batch):
        its = asyncio.get_running_loop()
        its.run_in_executor(None, answer, batch.messages, batch.later())

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            for _ in range(20):
                assert await everything(server.address, b"a\nb\n") == b"A\nB\n"

    loop.run(main())


def test_stop_waits_for_what_is_owed(loop):
    kept = []

    @pymux.batched
    def handler(batch):
        kept.append(batch.later())

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES)
        with util.connect(server.address) as sock:
            sock.sendall(b"a\n")
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: kept)
            stopping = asyncio.create_task(server.stop(20))
            await until(lambda: not server.stats().listeners)
            await loops.at_rest(server)
            assert not stopping.done()
            kept.pop().reply([b"A"])
            assert await recv(sock, 2) == b"A\n"
            await stopping

    loop.run(main())


def test_one_that_is_dropped_is_told(loop):
    errors = []

    @pymux.batched
    def handler(batch):
        batch.later()

    async def main():
        async with pymux.aio.serve(
            handler, LOCAL, on_error=lambda conn, error: errors.append(error)
        ) as server:
            assert await everything(server.address, b"a") == b""
            await until(lambda: errors)

    loop.run(main())
    assert "dropped without answers" in str(errors[0])


def test_an_answer_behind_the_loop_is_discarded(loop):
    kept = []

    @pymux.batched
    def handler(batch):
        kept.append(batch.later())

    async def main():
        async with pymux.aio.serve(handler, LOCAL, drain_timeout=0) as server:
            with util.connect(server.address) as sock:
                sock.sendall(b"a")
                await until(lambda: kept)

    loop.run(main())
    kept.pop().reply([b"A"])
