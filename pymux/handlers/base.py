"""The base class of the dispatchers of all four handler forms.

A handler has one dispatcher, which is called with every batch. It dispatches all
`opened`, then the messages in batch order, then `blocked`, then `drained`, then
`closed`.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..engine.notices import APART, place_of, tell
from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.returned import batch_returned
from ..objects.rows import failed_connects, row_count
from ..objects.status import engine_of, fail, names_for_log
from ..values.errors import FATAL, ends_in

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = [
    "HOOKS",
    "LATER",
    "STAYS",
    "Dispatcher",
    "Leaving",
    "OnError",
    "full_name",
    "hooks_of",
    "repeat",
]

OnError = Callable[[Connection | None, BaseException], Any]
HOOKS = {"started": "mux", "stopping": "mux"}  # each with its argument


class Leaving(enum.Enum):
    """Why a connection does not leave for another mux."""

    STAYS = "it stays"
    LATER = "not now"


STAYS, LATER = Leaving.STAYS, Leaving.LATER


class Dispatcher:
    """The base class: it calls a handler and reports the handler's errors."""

    half_open: bool = False
    takes_outgoing: bool = False  # the handler gets the connections that it makes
    late: bool = False  # the time of `stop` is over: connections are being reset
    min_messages: int = 1
    delay_ns: int = 0
    asks: bool = False  # the handler itself is asked and told of moves

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        self.engine = engine
        self.handler = handler
        self.on_error = on_error
        self.hooks: dict[str, Callable[[Any], Any]] = hooks_of(handler)
        self.name: str | None = None if handler is None else full_name(handler)

    def messages(self, batch: Batch) -> None:
        """Dispatch the messages of a batch that has some."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> None:
        """Dispatch a batch with news, and perhaps with messages."""
        if row_count(batch):
            self.messages(batch)
        self.failed_to_connect(batch)

    @property
    def busy(self) -> bool:
        """Return True if coroutines still run after their connections ended."""
        return False

    @property
    def outlives(self) -> bool:
        """Whether anything here runs whose connection has ended."""
        return self.busy

    def cleans_up(self) -> bool:
        """Tell the handler that time is over; True if it is still cleaning up."""
        return False

    def abandon(self) -> None:
        """Close the coroutines that still run."""

    def bereave(self) -> None:
        """Prepare for a mux that a handler is closing."""

    @property
    def says_goodbye(self) -> bool:
        """Return True if the handler ends its connections when their turn comes."""
        return False

    def say_draining(self, conns: list[Connection]) -> None:
        """Tell such a handler of connections whose turn to end has come."""

    def before_drain(self) -> None:
        """Do nothing: `Handlers` tells the handlers."""

    def call_hook(self, name: str) -> None:
        """Call `started` or `stopping` of the handler, if it has that method."""
        hook = self.hooks.get(name)
        if hook is None:
            return
        try:
            hook(self.engine.mux())
        except BaseException as error:
            if not self.has_ended(error):
                self.report_or_leave(None, error, f"{name} of the handler {self.name}")

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """Let this thread serve while the block runs."""
        return contextlib.nullcontext()

    def wind_up(self, cause: BaseException | None) -> None:
        """Give the handler its last reports: the server has ended, perhaps by an
        error. An error of one report does not keep back the others."""

    def failed_to_connect(self, batch: Batch) -> None:
        """Report failed connects to on_error or the log, for the forms whose
        handlers are not called with them."""
        failed = failed_connects(batch)
        for conn, error in batch.closed if failed else ():
            if conn not in failed or error is None:
                continue
            if self.on_error is not None:
                self.report(conn, error)
                continue
            peer, local = names_for_log(conn)
            about = {"local": local, "handler": self.name}
            text = f"a connection could not be made: {error}"
            key = "connect", id(self), error.errno, str(peer)
            if self.engine.may_tell(key, "connect", text, **about):
                text = "%r could not connect: %s"
                tell("connect", text, conn, error, peer=peer, **about)

    # --- moving -----------------------------------------------------------

    def leaving(self, conn: Connection) -> bytes | Leaving | None:
        """Return what a connection takes along to another mux, or why it stays. A
        form whose handler keeps nothing of a connection lets it go."""
        return STAYS

    def leaves_nothing(self, conn: Connection) -> Leaving | None:
        """Return STAYS if a part of the connection is here, that would be lost."""
        has_part = conn.state is not None or conn.id in self.engine.stays
        return STAYS if has_part else None

    def refuses(self, state: bytes | None) -> str | None:
        """Return why the handler cannot take a connection that comes from another mux
        with this state; None if it can."""
        return f"the coroutine of the handler {self.name} would begin anew"

    def taken(self, conn: Connection, state: bytes | None) -> None:
        """Give the handler a connection that has come from another mux."""

    def lost(self, conn: Connection, error: OSError) -> None:
        """Report that a connection has ended while it moved."""

    def needs_no_state(self, state: bytes | None) -> str | None:
        """Return what `refuses` returns for a handler without `taken`."""
        if state is None:
            return None
        return f"the handler {self.name} has no taken(conn, state) for the state"

    # --- calling ----------------------------------------------------------

    def call_with_batch(self, batch: Batch, handler: Callable[[Batch], Any]) -> None:
        """Call a batch handler. If it raises, every connection with a row ends.
        A handler that returns something has raised: its answers would be lost."""
        try:
            returned = handler(batch)
            if returned is not None:
                raise batch_returned(handler, returned)
        except BaseException as error:
            if self.has_ended(error):
                return
            for conn in set(batch.conns):
                fail(conn, error)
            self.report_or_leave(None, error, f"the batch handler {self.name}")

    # --- errors -----------------------------------------------------------

    def report(
        self, conn: Connection | None, error: BaseException, what: str = ""
    ) -> None:
        """Give an error of a handler to on_error, or else log the error.

        Args:
            conn: the connection whose handler has raised, or None.
            what: without a connection, the words for what has raised.
        """
        if self.on_error is None:
            self.log_error(conn, error, what)
            return
        try:
            self.on_error(conn, error)
        except FATAL as second:
            self.engine.leave(second)
        except BaseException as second:
            self.log_error(conn, second, f"on_error of the handler {self.name}")

    def log_error(
        self, conn: Connection | None, error: BaseException, what: str
    ) -> None:
        """Log an error with its traceback; one that comes again and again is counted.

        Args:
            conn: the connection of the handler, or None.
            error: the error.
            what: the words for what has raised; "" for the handler itself.
        """
        where = place_of(error)
        whole = what or f"the handler {self.name}"
        peer, local = names_for_log(conn)
        if conn is None:
            local = self.engine.addresses_of(self)
        about = {"local": local, "handler": self.name}
        count = f"{whole} raised {type(error).__name__} in {where}"
        key = "raised", id(self), whole, type(error), where
        if not self.engine.may_tell(key, "raised", count, apart=APART, **about):
            return
        if conn is not None:
            whole += f" of {conn!r}" if not what else f", for {conn!r},"
        tell("raised", "%s raised", whole, error=error, peer=peer, **about)

    def report_or_leave(
        self, conn: Connection | None, error: BaseException, what: str = ""
    ) -> None:
        """Report an error, unless the error has to leave pymux (see FATAL)."""
        if isinstance(error, FATAL):
            self.engine.leave(error)
        else:
            self.report(conn, error, what)

    def failed(self, conn: Connection, error: BaseException) -> None:
        """End the connection of a handler that raised, after flushing its output.
        A handler that raised the end of a connection needs nothing more."""
        if self.has_ended(error):
            return
        fail(conn, error)
        self.report_or_leave(conn, error)

    def has_ended(self, error: BaseException) -> bool:
        """Return True if a handler raised only the end of connections.
        Close the connections that the error names."""
        ends = ends_in(error)
        if ends is None:
            return False
        for end in ends:
            named = end.connection
            if (
                named is not None
                and engine_of(named) is self.engine
                and not named.closed
            ):
                named.close()
        return True


def hooks_of(handler: Any) -> dict[str, Callable[[Any], Any]]:
    """Return the methods `started` and `stopping` that a handler has. Attributes of
    these names that cannot be called are the handler's own."""
    found = {name: getattr(handler, name, None) for name in HOOKS}
    return {name: hook for name, hook in found.items() if callable(hook)}


def repeat(raised: list[BaseException], step: Callable[..., Any], *args: Any) -> None:
    """Repeat a step until it returns. Collect the errors that have to leave pymux
    in a list meanwhile."""
    while True:
        try:
            step(*args)
            return
        except FATAL as error:
            raised.append(error)


def full_name(handler: Any) -> str:
    """Name a handler for the log: "module.function", or "module.Class" of an object."""
    while isinstance(handler, partial):
        handler = handler.func
    if not isinstance(getattr(handler, "__qualname__", None), str):
        handler = type(handler)
    module = getattr(handler, "__module__", None)  # a method in C has none
    return f"{module}.{handler.__qualname__}" if module else str(handler.__qualname__)
