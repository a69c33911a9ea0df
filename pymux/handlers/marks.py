"""The mark of a batch handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from ..objects.batch import Batch
from ..values.checks import check_min_messages, seconds

__all__ = ["MARK", "batched", "is_async", "mark_of"]

MARK = "_pymux_batched"
CALL = "__call__"

BatchHandler = TypeVar("BatchHandler", bound=Callable[..., None])


@overload
def batched(
    handler: BatchHandler, *, min_messages: int = 1, max_delay: float = 0.0
) -> BatchHandler: ...
@overload
def batched(
    handler: None = None, *, min_messages: int = 1, max_delay: float = 0.0
) -> Callable[[BatchHandler], BatchHandler]: ...
def batched(
    handler: Any = None, *, min_messages: int = 1, max_delay: float = 0.0
) -> Any:
    """Mark a batch handler, which is called with the batch, once in each harvest.

    The handler answers with `Batch.reply` or `Batch.reply_data`, and returns None. A
    handler that returns anything else has failed with a TypeError, as if it had raised
    the TypeError.

    Args:
        handler: the function, or an object's method `received`.
        min_messages: the harvest waits for this number of messages.
        max_delay: seconds that the harvest waits at most after the first message.

    Returns:
        The marked handler; without `handler`, a decorator.

    Raises:
        TypeError: the handler is async, or is not a function.
        ValueError: min_messages is below 1, or max_delay below 0.

    >>> @batched(min_messages=256, max_delay=0.002)
    ... def upper(batch):
    ...     batch.reply_data(bytes(batch.data).upper())
    """
    min_messages = check_min_messages(min_messages)
    delay = max(seconds("max_delay", max_delay), 0)

    def mark(fn: Any) -> Any:
        if not callable(fn) or inspect.isclass(fn):
            raise TypeError(f"batched marks a function, not {fn!r}")
        if is_async(fn):
            raise TypeError(f"a batch handler cannot be async: {fn!r}")
        try:
            setattr(fn, MARK, (min_messages, delay))
        except AttributeError:  # a built-in, a bound method

            def call(batch: Batch) -> Any:
                return fn(batch)

            setattr(call, MARK, (min_messages, delay))
            return call
        return fn

    return mark if handler is None else mark(handler)


def is_async(fn: Any) -> bool:
    """Return True if a call of `fn` makes a coroutine or an async generator."""
    return (
        inspect.iscoroutinefunction(fn)
        or inspect.isasyncgenfunction(fn)
        or inspect.iscoroutinefunction(getattr(type(fn), CALL, None))
    )


def mark_of(handler: Any) -> tuple[int, int] | None:
    """Return the (messages, nanoseconds) that a batch handler gathers, else None.

    An object may have every attribute that it is asked for, as a Mock has.
    """
    mark = getattr(handler, MARK, None)
    return mark if isinstance(mark, tuple) else None
