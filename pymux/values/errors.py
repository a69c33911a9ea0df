"""The exceptions that are pymux's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..objects.connection import Connection

__all__ = ["BackendUnavailable", "Cancelled", "ConnectionClosed"]

# These leave pymux when a handler raises them. Every other exception, whatever its
# class, is an error of that handler alone.
FATAL = (KeyboardInterrupt, SystemExit)


class ConnectionClosed(ConnectionError):
    """The connection has ended, or its sending direction has.

    `send` raises this error after the end, and a coroutine's `recv` and `drain`
    raise it when the connection was lost. The end of its connection raises it in a
    coroutine handler that waits for an `Event` or in a `Queue`. A handler need not
    catch the error: one that escapes is the normal end of the connection it names.

    Attributes:
        connection: the connection that has ended.
        errno: why the connection was lost, `EPROTO` if TLS has ended it, or None if
            it ended in an ordinary way. The `OSError` itself is the `__cause__`.

    >>> import pymux
    >>> with pymux.Mux() as mux:
    ...     conn = mux.connect(mux.listen(("127.0.0.1", 0)).address)
    ...     conn.close()
    ...     try:
    ...         conn.send(b"too late")
    ...     except pymux.ConnectionClosed as error:
    ...         error.connection is conn
    True
    """

    def __init__(self, *args: Any, connection: Connection | None = None) -> None:
        super().__init__(*args)
        self.connection: Connection | None = connection

    def __reduce__(self) -> tuple[Any, Any, dict[str, Any]]:
        """Pickle all but the connection, which belongs to its process."""
        reduced: Any = super().__reduce__()
        state = {**self.__dict__, "connection": None}
        return reduced[0], reduced[1], state

    def __copy__(self) -> ConnectionClosed:
        """Copy the error; the copy names the same connection."""
        rebuild, args, state = self.__reduce__()
        copied: ConnectionClosed = rebuild(*args)
        copied.__dict__.update(state, connection=self.connection)
        return copied

    def __deepcopy__(self, memo: Any) -> ConnectionClosed:
        """Copy the error as `copy.copy` does, since a connection has no copies."""
        return self.__copy__()


class Cancelled(BaseException):
    """An await of a coroutine on a mux is given up.

    A `timeout` whose time is over raises this error in the await that the coroutine
    is in, and makes a `TimeoutError` of it where the coroutine leaves the block.
    A coroutine that was spawned gets it when it is cancelled: by `Spawned.cancel`, by
    the end of its connection, or because another coroutine of the connection raised.
    In asyncio that error is `asyncio.CancelledError`.

    Let the error pass. A `finally` part may clean up, and may await; code that
    catches every `BaseException` raises the error again.

    >>> from pymux import Cancelled
    >>> issubclass(Cancelled, Exception)
    False
    """


class BackendUnavailable(OSError):
    """This machine lacks the backend that was asked for; the text says why.

    >>> import pymux
    >>> for name in ("epoll", "kqueue"):
    ...     try:
    ...         pymux.Mux(name).close()
    ...     except pymux.BackendUnavailable as error:
    ...         print("no", name)
    no ...
    """


def ends_in(error: BaseException) -> list[ConnectionClosed] | None:
    """The `ConnectionClosed` errors that an exception consists of.

    Returns:
        The exception itself, or all errors of a group, as a task group raises one.
        None if the exception is, or its group has, anything else.
    """
    if isinstance(error, ConnectionClosed):
        return [error]
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = []
    for one in error.exceptions:
        ends = ends_in(one)
        if ends is None:
            return None
        found += ends
    return found


def no_copy(thing: object) -> TypeError:
    """The error of copying or pickling an object that owns a part of the core."""
    return TypeError(f"cannot copy or pickle a {type(thing).__name__}")
