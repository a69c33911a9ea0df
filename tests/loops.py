"""asyncio's loop and uvloop's, each to run the same tests."""

import asyncio
import contextlib
import gc
import importlib.util

LOOPS = ["asyncio"]
if importlib.util.find_spec("uvloop"):
    LOOPS.append("uvloop")
    import uvloop

    uvloop.new_event_loop().close()  # the first opens what the process then keeps
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
