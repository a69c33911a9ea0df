"""The end of an asyncio loop, for what lives in it.

asyncio tells nobody that a loop is about to end; but it closes the async
generators that are alive then, and lets them await while it does. So each mux
has one, which waits for nothing else. `asyncio.run`, `asyncio.Runner` and
`uvloop.run` do so; where a loop is closed without it, `LoopEngine.is_over` finds
that out late.
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
        What the mux must keep meanwhile; None where the loop has told its
        generators already.
    """
    if getattr(engine.loop, "_asyncgens_shutdown_called", False):
        return None
    waiting = _wait_for_the_end(weakref.ref(engine))
    try:
        waiting.__anext__().send(None)
    except StopIteration:
        return waiting
    except ResourceWarning:  # uvloop's, the same, where warnings are errors
        return None
    raise AssertionError("it waits for nothing")


def unguard(waiting: Guard) -> None:
    """The mux has closed: forget the generator, which has nothing to await."""
    with contextlib.suppress(StopIteration):
        waiting.aclose().send(None)
