"""Mistakes in handlers that nobody would notice, refused when a handler is given.

A method whose name is nearly one of ours is never called, and a handler that takes
another number of arguments fails with the first message. Both are a TypeError before
the first connection.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from difflib import SequenceMatcher
from functools import lru_cache, partial
from typing import Any

from .marks import MARK, mark_of

__all__ = ["check_call", "check_names", "near_names"]

# Names that only asyncio and Twisted have, without their underscores.
FOREIGN = {
    "connectionmade": "opened",
    "datareceived": "received",
    "linereceived": "received",
    "stringreceived": "received",
    "messagereceived": "received",
    "pausewriting": "blocked",
    "resumewriting": "drained",
    "connectionlost": "closed",
}
# Names of methods of one's own as often as of what other libraries call.
WORDS = {
    "open": "opened",
    "onopen": "opened",
    "onopened": "opened",
    "onconnect": "opened",
    "connected": "opened",
    "onconnected": "opened",
    "onconnection": "opened",
    "message": "received",
    "data": "received",
    "receive": "received",
    "recv": "received",
    "onmessage": "received",
    "ondata": "received",
    "onreceive": "received",
    "onreceived": "received",
    "onrecv": "received",
    "onblocked": "blocked",
    "drain": "drained",
    "ondrain": "drained",
    "ondrained": "drained",
    "close": "closed",
    "onclose": "closed",
    "onclosed": "closed",
    "disconnected": "closed",
    "ondisconnect": "closed",
    "ondisconnected": "closed",
    "start": "started",
    "startup": "started",
    "onstart": "started",
    "onstarted": "started",
    "onstartup": "started",
    "stop": "stopping",
    "stopped": "stopping",
    "shutdown": "stopping",
    "onstop": "stopping",
    "onstopped": "stopping",
    "onstopping": "stopping",
    "onshutdown": "stopping",
}
CONNECTIONS = {"c", "conn", "connection", "client", "peer", "sock", "socket"}
CONNECTIONS |= {"ws", "websocket", "transport", "stream", "session", "channel"}
MUXES = {"m", "mux", "multiplexer", "server"}
NEAR = 0.82  # of difflib's ratio: one letter of six is another

SURE, TYPO, WORD = "sure", "typo", "word"


def check_names(handler: Any, methods: Mapping[str, str]) -> None:
    """Raise TypeError for a method of an object whose name looks like one of ours.

    A method is refused if the handler lacks the method that is meant, and

    - the name is one that asyncio or Twisted calls (`connection_made`); or
    - the name differs from ours by about a letter (`recieved`), begins and ends
      with the same letters, and the method takes as many arguments as ours; or
    - the name is a plain word for ours, or one with `on_` (`close`, `on_message`),
      the method takes as many arguments as ours, and its first parameter is named
      as a connection is (`conn`, `client`, `ws`, ...), or as a mux is, where ours
      takes one. `on_close(conn)` counts; or
    - the method is `@batched`, and its name is neither `received` nor begins with
      an underscore: a batch would reach no other method. A name of the first kinds
      needs no check of its arguments then.

    Case and underscores inside a name do not matter. A name that begins with an
    underscore, and an attribute that cannot be called, is never refused.

    Args:
        methods: what we call, each with its arguments: {"opened": "conn"}.
    """
    for name, ours in near_names(handler, methods):
        method = f"{type(handler).__name__}.{name}"
        if inspect.isroutine(handler):
            method = f"{handler.__name__}.{name}"
        arguments = "batch" if mark_of(getattr(handler, name)) else methods[ours]
        raise TypeError(
            f"{method} looks like {ours}({arguments}), which this handler lacks, "
            f"and pymux would never call {method}; name it {ours}, or, if it is a "
            f"helper, begin its name with _ or define {ours} too"
        )


def near_names(handler: Any, methods: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (name, ours) for each name that `check_names` refuses."""
    found = []
    for name in dir(handler):
        if name.startswith("_") or name in methods:
            continue
        method = _method(handler, name)
        if method is None:
            continue
        ours, kind = _meaning(name, tuple(methods))
        if mark_of(method):
            ours, kind = "received", SURE
        if ours not in methods or callable(getattr(handler, ours, None)):
            continue
        if kind == SURE or _is_called_as(method, name, methods[ours], kind == WORD):
            found.append((name, ours))
    return found


@lru_cache(maxsize=4096)
def _meaning(name: str, methods: tuple[str, ...]) -> tuple[str, str]:
    """Return which of our methods a name may mean, and how sure that is."""
    bare = name.replace("_", "").lower()
    for names, kind in (FOREIGN, SURE), (WORDS, WORD):
        if names.get(bare) in methods:
            return names[bare], kind
    for ours in methods:
        framed = (bare[0], bare[-1]) == (ours[0], ours[-1])
        if framed and SequenceMatcher(None, bare, ours).ratio() >= NEAR:
            return ours, TYPO
    return "", ""


def _method(handler: Any, name: str) -> Any:
    """Return a method by its name; None for any other attribute. A property is not
    evaluated."""
    found = inspect.getattr_static(handler, name, None)
    if isinstance(found, (staticmethod, classmethod)):
        return getattr(handler, name)
    if not inspect.isroutine(found):
        mark = inspect.getattr_static(found, MARK, None)  # calls no code of the object
        if not isinstance(mark, tuple):
            return None
    return getattr(handler, name)


def _is_called_as(method: Any, name: str, call: str, by_name: bool) -> bool:
    """Whether a method takes the arguments of a call of ours.

    Args:
        by_name: whether the first one has to be named as a connection, or a mux, is.
    """
    signature = _signature(method)
    if signature is None:
        return False
    needed = [
        one.name
        for one in signature.parameters.values()
        if one.default is one.empty
        and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    ours = call.split(", ")
    counts = {len(ours), 1} if name.lower().startswith("on") else {len(ours)}
    if len(needed) not in counts:
        return False
    first = MUXES if ours[0] == "mux" else CONNECTIONS
    return not by_name or needed[0].lower() in first


def check_call(fn: Any, call: str, name: str, hint: str = "") -> None:
    """Raise TypeError if a handler cannot be called with our arguments.

    A callable that does not tell its parameters, as some in C, is taken.

    Args:
        call: how we call: "handler(conn, data)".
        name: the name of the handler or of the method, for the error.
        hint: what else may be meant.
    """
    signature = _signature(fn)
    try:
        if signature is not None:
            signature.bind(*range(call.count(",") + 1))
    except TypeError:
        assert signature is not None
        bare = [
            one.replace(annotation=one.empty, default=one.empty)
            for one in signature.parameters.values()
        ]
        raise TypeError(
            f"{name} takes {inspect.Signature(bare)}, but is called as {call}{hint}"
        ) from None
    kind = _class_of_method(fn)
    if kind not in (None, object):
        raise TypeError(
            f"{name} is a method of {kind.__name__} objects, but is called as {call}: "
            f"its first argument would be no {kind.__name__}"
        )


def _signature(fn: Any) -> inspect.Signature | None:
    """Return the parameters that a callable really takes, None if it tells none.

    What a decorator wraps has other parameters than its wrapper may have. And
    annotations may name what exists for type checkers alone.
    """
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        options["annotation_format"] = Format.FORWARDREF
    try:
        return inspect.signature(fn, follow_wrapped=False, **options)
    except Exception:
        return None


def _class_of_method(fn: Any) -> type | None:
    """Return the class of a method in C that is bound to no object, as `bytes.upper`;
    None of any other callable."""
    while isinstance(fn, partial) and not fn.args:
        fn = fn.func
    found: type | None = getattr(fn, "__objclass__", None)
    return found if inspect.ismethoddescriptor(fn) else None
