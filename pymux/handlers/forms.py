"""Find the form of a handler."""

from __future__ import annotations

import inspect
from typing import Any

from .base import Dispatcher
from .batch import BatchDispatcher
from .coroutine import CoroutineDispatcher
from .function import FunctionDispatcher
from .marks import is_async, mark_of
from .object import METHODS, ObjectDispatcher

__all__ = ["dispatcher_for"]


def dispatcher_for(handler: Any) -> type[Dispatcher]:
    """Return the dispatcher class for the form of a handler.

    Raises:
        TypeError: the handler has none of the four forms.
    """
    if inspect.isclass(handler):
        raise TypeError(
            f"the handler is the class {handler.__name__}; "
            f"give an object of it: {handler.__name__}()"
        )
    if mark_of(handler):
        return BatchDispatcher
    methods = [name for name in METHODS if callable(getattr(handler, name, None))]
    if methods:
        for name in methods:
            if is_async(getattr(handler, name)):
                raise TypeError(
                    f"{type(handler).__name__}.{name} is async; an object's methods "
                    "are plain ones, a coroutine handler is one `async def`"
                )
        return ObjectDispatcher
    if inspect.isasyncgenfunction(handler):
        raise TypeError(
            f"{handler!r} is an async generator; send with conn.send() instead of yield"
        )
    if is_async(handler):
        return CoroutineDispatcher
    if callable(handler):
        return FunctionDispatcher
    raise TypeError(
        f"the handler is {handler!r}; a function, a coroutine function, a batched "
        "function or an object with opened, received, drained or closed is needed"
    )
