"""How a mux learns that its asyncio loop ends.

asyncio has no hook for the end of a loop. But `asyncio.run`, `asyncio.Runner` and
`uvloop.run` close the async generators that are alive then, and a generator may await
while it is closed. So each mux has a guard: an async generator that waits for its
close. Where a loop is closed without this step, `LoopEngine.is_over` finds out late.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import LoopEngine

__all__ = ["Guard", "guard", "unguard"]

Guard = AsyncGenerator[None, None]


async def _wait_for_the_end(ref: weakref.ref[LoopEngine]) -> Guard:
    try:
        yield
    finally:
        engine = ref()
        if engine is not None and engine.c is not None:
            await engine.end_with_loop()


def guard(engine: LoopEngine) -> Guard | None:
    """Have `engine.end_with_loop` awaited when the loop that runs ends.

    Returns:
        The guard, which the engine must keep; None if the loop has closed its
        generators already.
    """
    if getattr(engine.loop, "_asyncgens_shutdown_called", False):
        return None
    waiting = _wait_for_the_end(weakref.ref(engine))
    try:
        waiting.__anext__().send(None)
    except StopIteration:
        return waiting
    except ResourceWarning:  # uvloop has closed them, and warnings are errors
        return None
    raise AssertionError("the guard has awaited something")


def unguard(waiting: Guard) -> None:
    """End the guard of a mux that has closed."""
    with contextlib.suppress(StopIteration):
        waiting.aclose().send(None)
