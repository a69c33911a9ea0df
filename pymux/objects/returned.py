"""What a handler has returned and nobody could send: an error that names the handler.

No line of the handler is in the traceback of such an error.
"""

from __future__ import annotations

import inspect
from functools import partial
from io import UnsupportedOperation
from typing import Any

from ..values.checks import shown

__all__ = ["batch_returned", "message_returned", "name_of", "receiver_answered"]


def name_of(handler: Any) -> str:
    """Return the name of a function, or of the type of another handler."""
    while isinstance(handler, partial):
        handler = handler.func
    name = getattr(handler, "__qualname__", None)
    return name if isinstance(name, str) else type(handler).__qualname__


def message_returned(handler: Any, returned: Any) -> TypeError:
    """Return the error of a handler that has returned no bytes for a message."""
    what = shown(returned)
    why = f"an object of type {type(returned).__name__} cannot be sent; return bytes-"
    why += "like data, or None to send nothing"
    if inspect.iscoroutine(returned):
        returned.close()  # else Python warns that nobody awaited it
        what = "a coroutine"
        why = "nobody awaits it; serve one `async def handler(conn)` instead"
    elif isinstance(returned, str):
        why = "a str cannot be sent; encode it"
    return TypeError(f"the handler {name_of(handler)} returned {what}: {why}")


def receiver_answered(handler: Any, conn: Any) -> UnsupportedOperation:
    """Return the error of a handler that has answered the read end of a pipe."""
    return UnsupportedOperation(
        f"the handler {name_of(handler)} returned bytes for {conn!r}, the read end of "
        "a pipe, which only receives; return None"
    )


def batch_returned(handler: Any, returned: Any) -> TypeError:
    """Return the error of a batch handler that has returned something."""
    if inspect.iscoroutine(returned):
        returned.close()
    kind = type(returned).__name__
    return TypeError(
        f"the batch handler {name_of(handler)} returned an object of type {kind}, "
        "which would not be sent; answer with batch.reply(replies) or "
        "batch.reply_data(data), and return None"
    )
