"""The mark of a batch handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from ..objects.batch import Batch
from ..values.checks import check_min_messages, seconds

__all__ = ["batched", "is_async", "mark_of"]

MARK = "_pymux_batched"
CALL = "__call__"

BatchHandler = TypeVar("BatchHandler", bound=Callable[..., Any])


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
    """Mark a batch handler: it is called once a harvest, with the batch.

    Args:
        handler: the function, or an object's method `received`.
        min_messages: wait in the harvest for so many messages,
        max_delay: but at most so many seconds after the first.

    Returns:
        The handler, marked; without one, what marks it.

    Raises:
        TypeError: what is marked is no function, or an async one.
        ValueError: fewer messages than 1, fewer seconds than 0.

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
    """Whether calling `fn` makes a coroutine or an async generator."""
    return (
        inspect.iscoroutinefunction(fn)
        or inspect.isasyncgenfunction(fn)
        or inspect.iscoroutinefunction(getattr(type(fn), CALL, None))
    )


def mark_of(handler: Any) -> tuple[int, int] | None:
    """(messages, nanoseconds) to gather for a batch handler; None: it is none."""
    mark: tuple[int, int] | None = getattr(handler, MARK, None)
    return mark
