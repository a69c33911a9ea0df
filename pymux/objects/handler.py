"""What a handler is, for type checkers: `Handler` is any of the four forms.

`handlers/` finds the form of a handler when the program runs, and refuses more than a
type can say. An object needs one of our methods only, so each method is a protocol.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .batch import Batch
from .connection import Connection

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BatchHandler",
    "Blocked",
    "Closed",
    "CoroutineHandler",
    "Drained",
    "Draining",
    "FunctionHandler",
    "Handler",
    "HandlerOf",
    "Leaves",
    "Opened",
    "Received",
    "ReceivedBatch",
    "Takes",
]

C_contra = TypeVar("C_contra", contravariant=True)


class FunctionHandler(Protocol[C_contra]):
    """Called once for each message; what it returns is sent. The message is bytes,
    or what the parser of a `Splitter` makes."""

    def __call__(self, conn: C_contra, data: Any, /) -> Buffer | None: ...


class CoroutineHandler(Protocol[C_contra]):
    """Called once for each connection."""

    def __call__(self, conn: C_contra, /) -> Coroutine[Any, Any, Any]: ...


class BatchHandler(Protocol):
    """Called once in each harvest, if marked by `batched`."""

    def __call__(self, batch: Batch, /) -> None: ...


class Opened(Protocol[C_contra]):
    """An object with the method `opened`."""

    def opened(self, conn: C_contra, /) -> None: ...


class Received(Protocol[C_contra]):
    """An object with the method `received`; what it returns is sent."""

    def received(self, conn: C_contra, data: Any, /) -> Buffer | None: ...


class ReceivedBatch(Protocol):
    """An object with a method `received` that is marked by `batched`."""

    def received(self, batch: Batch, /) -> None: ...


class Blocked(Protocol[C_contra]):
    """An object with the method `blocked`."""

    def blocked(self, conn: C_contra, /) -> None: ...


class Drained(Protocol[C_contra]):
    """An object with the method `drained`."""

    def drained(self, conn: C_contra, /) -> None: ...


class Draining(Protocol[C_contra]):
    """An object with the method `draining`."""

    def draining(self, conn: C_contra, /) -> None: ...


class Closed(Protocol[C_contra]):
    """An object with the method `closed`."""

    def closed(self, conn: C_contra, error: OSError | None, /) -> None: ...


class Leaves(Protocol[C_contra]):
    """An object with the method `leaving`."""

    def leaving(self, conn: C_contra, /) -> Buffer | None: ...


class Takes(Protocol[C_contra]):
    """An object with the method `taken`."""

    def taken(self, conn: C_contra, state: bytes | None, /) -> None: ...


HandlerOf = (
    FunctionHandler[C_contra]
    | CoroutineHandler[C_contra]
    | BatchHandler
    | Opened[C_contra]
    | Received[C_contra]
    | ReceivedBatch
    | Blocked[C_contra]
    | Drained[C_contra]
    | Draining[C_contra]
    | Closed[C_contra]
    | Leaves[C_contra]
    | Takes[C_contra]
)
"""A handler of connections of a class: those of `pymux.aio` have one of their own."""

Handler = HandlerOf[Connection]
"""A handler in one of the four forms."""
