"""What runs now: whose loop runs this thread, and which task of which mux."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

__all__ = ["HOME", "RESTING", "SERVING", "running_asyncio", "running_task"]

# Threads in which a `Server` steps its coroutines, perhaps inside an asyncio loop.
SERVING: set[int] = set()

# Tasks of asyncio that wait for a peer to read, or for another coroutine: nobody waits
# for their work.
RESTING: set[Any] = set()


def running_asyncio() -> Any:
    """Return the asyncio module if its loop steps this thread's coroutines, else
    None. asyncio steps the handlers of pymux.aio and has to do their waiting."""
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # None: half imported
    if running is None or running() is None or threading.get_ident() in SERVING:
        return None
    return asyncio


# Where this context's coroutine runs: a weak reference to an engine, or in asyncio to
# the connection of a coroutine handler.
HOME: ContextVar[Callable[[], Any]] = ContextVar("pymux_home")


def running_task(call: str) -> Any:
    """Return the task of a mux that runs now.

    Raises:
        RuntimeError: no coroutine of a mux runs in this thread and context.
    """
    home = HOME.get(None)
    engine: Any = None if home is None else home()
    task = getattr(engine, "running", None)  # a connection in asyncio has none
    # A context may be taken to another thread, as `to_thread` does.
    if task is not None and engine.thread == threading.get_ident():
        return task
    raise RuntimeError(
        f"{call} works in a coroutine handler of pymux and in asyncio; "
        "neither runs here"
    )
