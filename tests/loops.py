"""The loops of asyncio and of uvloop, which run the same tests; clients in threads."""

import asyncio
import contextlib
import gc
from importlib.util import find_spec

import pymux

from . import util

LOOPS = ["asyncio"]
if find_spec("uvloop"):
    LOOPS.append("uvloop")
    import uvloop

    uvloop.new_event_loop().close()  # the first opens what a process keeps
TIMEOUT = 30  # seconds: a test that hangs


class Loop:
    """Runs a test's coroutine in a fresh loop.

    Attributes:
        errors: the exceptions that the loop's exception handler was given; a
            test that expects some takes them out.
    """

    def __init__(self, name):
        self.name = name
        self.errors = []

    def new(self):
        if self.name == "uvloop":
            return uvloop.new_event_loop()
        return asyncio.new_event_loop()

    def run(self, main):
        """What the coroutine returns, all else having ended as asyncio.run does."""
        loop = self.new()
        loop.set_exception_handler(self.note)
        try:
            return loop.run_until_complete(asyncio.wait_for(main, TIMEOUT))
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(_cancel_the_rest())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            gc.collect()

    def note(self, loop, context):
        self.errors.append(context.get("exception") or context["message"])


async def _cancel_the_rest():
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition):
    """Return once condition() holds."""
    deadline = asyncio.get_running_loop().time() + TIMEOUT / 2
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "never came true"
        await asyncio.sleep(0.001)


async def at_rest(one):
    """Return once a mux or server of this loop takes no more turns.

    It has then taken in what had arrived, said what it had to, and sent what the
    kernel takes. Counted in steps of the loop, not in seconds.
    """
    harvests, steps = -1, 0
    while steps < 10:
        before, harvests = harvests, one.stats().harvests
        steps = steps + 1 if harvests == before else 0
        await asyncio.sleep(0)


def run(loop, main):
    """Run a coroutine as programs do: by `asyncio.run`, or by `uvloop.run`."""
    return asyncio.run(main) if loop.name == "asyncio" else uvloop.run(main)


def run_bare(loop, main):
    """Run a coroutine in a loop that is closed without a word to its generators."""
    its = loop.new()
    try:
        return its.run_until_complete(main)
    finally:
        its.close()
        util.collect()


async def ask(address, sent, size):
    """The first bytes that a blocking client in a thread gets for what it sent."""
    return await asyncio.to_thread(util.exchange, address, sent, size)


async def everything(address, sent):
    """All that a blocking client in a thread gets that sends and ends its stream."""
    return await asyncio.to_thread(util.everything, address, sent)


async def recv(sock, size):
    """The next bytes from a blocking socket, read in a thread."""
    return await asyncio.to_thread(util.recv_exactly, sock, size)


async def converse(address, text=b"hello"):
    """Have a line echoed to an outgoing connection, which ends; its mux."""
    async with await pymux.aio.connect(address, framing=pymux.Lines()) as conn:
        conn.send(text)
        assert await conn.recv(20) == text
        return conn.mux
