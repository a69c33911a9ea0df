"""Find the form of a handler."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

from ..objects.returned import name_of
from ..values.checks import shown
from .base import HOOKS, Dispatcher, hooks_of
from .batch import BatchDispatcher
from .coroutine import CoroutineDispatcher
from .function import FunctionDispatcher
from .marks import is_async, mark_of
from .mistakes import check_call, check_names, near_names
from .object import METHODS, ObjectDispatcher

__all__ = ["dispatcher_for"]

_FIT: weakref.WeakSet[type] = weakref.WeakSet()  # classes whose objects were taken
ONE_ARGUMENT = (
    "; a handler of one argument is `async def handler(conn)`, or one for batches, "
    "marked with @pymux.batched"
)


def dispatcher_for(handler: Any) -> type[Dispatcher]:
    """Return the dispatcher class for the form of a handler.

    Raises:
        TypeError: the handler has none of the four forms, cannot be called as its
            form is, or has a method whose name looks like one of ours (see
            `check_names`).
    """
    if inspect.isclass(handler):
        raise TypeError(
            f"the handler is the class {handler.__name__}; "
            f"give an object of it: {handler.__name__}()"
        )
    name = f"the handler {name_of(handler)}"
    refuse_yield(handler, name)
    check_hooks(handler, name)
    marked = mark_of(handler) is not None
    if not marked and any(callable(getattr(handler, one, None)) for one in METHODS):
        check_object(handler)
        return ObjectDispatcher
    bare = inspect.isroutine(handler) and not getattr(handler, "__dict__", None)
    if callable(handler) and not bare:
        check_names(handler, HOOKS)
    if marked:
        check_call(handler, "handler(batch)", name)
        return BatchDispatcher
    if is_async(handler):
        check_call(
            handler, "handler(conn)", name, "; it awaits conn.recv() for messages"
        )
        return CoroutineDispatcher
    if callable(handler):
        check_call(handler, "handler(conn, data)", name, ONE_ARGUMENT)
        return FunctionDispatcher
    near = [f"; {found} may be {ours}" for found, ours in near_names(handler, METHODS)]
    raise TypeError(
        f"the handler is {handler!r}; a function, a coroutine function, a batched "
        "function or an object with opened, received, blocked, drained, draining or "
        "closed is needed" + "".join(near)
    )


def check_hooks(handler: Any, name: str) -> None:
    """Raise TypeError for a hook that cannot be called as ours are.

    A number named `started` is an object's own; a function has no use for one.
    """
    if inspect.isroutine(handler):
        for hook in HOOKS:
            value = getattr(handler, hook, None)
            if value is not None and not callable(value):
                needed = f"a function {hook}({HOOKS[hook]}) is needed"
                raise TypeError(f"{hook} of {name} is {shown(value)}; {needed}")
    for hook, method in hooks_of(handler).items():
        where = f"{hook} of {name}"
        if is_async(method):
            raise TypeError(f"{where} is async; hooks are plain functions")
        refuse_yield(method, where)
        check_call(method, f"{hook}({HOOKS[hook]})", where)


def check_object(handler: Any) -> None:
    """Raise TypeError for an object whose methods cannot be called as ours are, or
    look like ours.

    A program may give each outgoing connection an object of its own, so a class is
    looked at once, unless an object has methods that are not of its class.
    """
    kind = type(handler)
    like_its_class = not any(map(callable, getattr(handler, "__dict__", {}).values()))
    if like_its_class and kind in _FIT:
        return
    for name, arguments in METHODS.items():
        method = getattr(handler, name, None)
        if not callable(method):
            continue
        where = f"{kind.__name__}.{name}"
        if is_async(method):
            raise TypeError(
                f"{where} is async; an object's methods "
                "are plain ones, a coroutine handler is one `async def`"
            )
        refuse_yield(method, where)
        if mark_of(method):
            if name != "received":
                raise TypeError(f"{where} is batched; only received can be")
            arguments = "batch"
        check_call(method, f"{name}({arguments})", where)
    check_names(handler, METHODS | HOOKS)
    if like_its_class:
        _FIT.add(kind)


def refuse_yield(fn: Any, name: str) -> None:
    """Raise TypeError for a generator function, of which no line would ever run."""
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(
            f"{name} is a generator function; send with conn.send() instead of yield"
        )
