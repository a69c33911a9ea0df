"""What the four forms of a handler have in common.

A dispatcher is made once for a handler and called with every batch: all
`opened`, then the messages in batch order, then `drained`, then `closed`.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..objects.batch import Batch
from ..objects.connection import Connection
from ..objects.rows import failed_connects
from ..objects.status import engine_of, fail
from ..values.errors import FATAL, ends_in

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["Dispatcher", "OnError", "wholly"]

LOGGER = logging.getLogger("pymux")
OnError = Callable[[Connection | None, BaseException], Any]


class Dispatcher:
    """What the forms have in common."""

    half_open: bool = False
    takes_outgoing: bool = False  # whether its own connect() joins this handler
    late: bool = False  # the time of `stop` is over: the rest is being reset
    min_messages: int = 1
    delay_ns: int = 0

    def __init__(self, engine: Engine, handler: Any, on_error: OnError | None) -> None:
        self.engine = engine
        self.handler = handler
        self.on_error = on_error

    def __call__(self, batch: Batch) -> None:
        """Dispatch one batch."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """Whether anything here still runs, though no connection is left."""
        return False

    @property
    def outlives(self) -> bool:
        """Whether anything here runs whose connection has ended."""
        return self.busy

    def cleans_up(self) -> bool:
        """Out of time: whether what still runs is to have a moment yet."""
        return False

    def abandon(self) -> None:
        """End what still runs."""

    def bereave(self) -> None:
        """The mux is about to close, by a call of a handler's."""

    def serving(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, this thread serves."""
        return contextlib.nullcontext()

    def wind_up(self, cause: BaseException | None) -> None:
        """The server ends, by an error or without one: tell whoever has not
        heard of it. Nothing that they raise keeps the others from it."""

    def failed_to_connect(self, batch: Batch) -> None:
        """Tell of outgoing connections that could not be made, where the form has
        nobody to tell: to on_error, or a line of the log."""
        failed = failed_connects(batch)
        for conn, error in batch.closed if failed else ():
            if conn not in failed or error is None:
                continue
            if self.on_error is not None:
                self.report(conn, error)
            else:
                LOGGER.warning("%r could not connect: %s", conn, error)

    # --- calling ----------------------------------------------------------

    def call_with_batch(self, batch: Batch, handler: Callable[[Batch], Any]) -> None:
        """Call a batch handler. If it raises, every connection with a row ends."""
        try:
            handler(batch)
        except BaseException as error:
            if self.has_ended(error):
                return
            for conn in set(batch.conns):
                fail(conn, error)
            self.report_or_leave(None, error)

    # --- errors -----------------------------------------------------------

    def report(self, conn: Connection | None, error: BaseException) -> None:
        """Log an error of a handler, once, or give it to on_error."""
        if self.on_error is None:
            of = (
                f"of {conn!r}"
                if conn is not None
                else "of a batch, a timer or a generator"
            )
            say_error(error, "the handler %s raised", of)
            return
        try:
            self.on_error(conn, error)
        except FATAL as second:
            self.engine.leave(second)
        except BaseException as second:
            say_error(second, "on_error raised")

    def report_or_leave(self, conn: Connection | None, error: BaseException) -> None:
        """Report an error, unless it is one of those that leave pymux."""
        if isinstance(error, FATAL):
            self.engine.leave(error)
        else:
            self.report(conn, error)

    def failed(self, conn: Connection, error: BaseException) -> None:
        """A handler raised: its connection ends, flushed; unless what it
        raised is the end of a connection, which needs nothing more."""
        if self.has_ended(error):
            return
        fail(conn, error)
        self.report_or_leave(conn, error)

    def has_ended(self, error: BaseException) -> bool:
        """Whether what a handler raised is nothing but the end of connections.
        Those that it names are closed."""
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


def wholly(raised: list[BaseException], step: Callable[..., Any], *args: Any) -> None:
    """Call something again until it has come to its end. What is to leave pymux
    waits in a list meanwhile."""
    while True:
        try:
            step(*args)
            return
        except FATAL as error:
            raised.append(error)


def say_error(error: BaseException, text: str, *args: Any) -> None:
    """Log an error with its traceback. What a handler of the log raises in
    turn ends nobody's connection; it is shown as what finalizers raise is."""
    try:
        LOGGER.error(text, *args, exc_info=error)
    except FATAL:
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # there may be no stderr
            traceback.print_exc()
