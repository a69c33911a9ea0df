"""The exceptions that are pymux's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..objects.connection import Connection

__all__ = ["BackendUnavailable", "ConnectionClosed"]

# What leaves pymux where a handler raises it. Everything else, whatever its
# class, is an error of that handler alone.
FATAL = (KeyboardInterrupt, SystemExit)


class ConnectionClosed(ConnectionError):
    """The connection has ended, or this side of it.

    Raised by `send` after the end, and by a coroutine's `recv` and `drain`
    when the connection was lost. A handler need not catch it: one that escapes
    is the normal end of the connection it names.

    Attributes:
        connection: the connection that has ended.
        errno: why it was lost, or None where it ended in an ordinary way. The
            `OSError` itself is the `__cause__`.

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
        """For pickle: all but the connection, which is its process's own."""
        reduced: Any = super().__reduce__()
        state = {**self.__dict__, "connection": None}
        return reduced[0], reduced[1], state

    def __copy__(self) -> ConnectionClosed:
        """In this process, a copy is of the same connection."""
        rebuild, args, state = self.__reduce__()
        copied: ConnectionClosed = rebuild(*args)
        copied.__dict__.update(state, connection=self.connection)
        return copied

    def __deepcopy__(self, memo: Any) -> ConnectionClosed:
        """The same: a connection is not to be copied."""
        return self.__copy__()


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
    """The ends of connections that an exception consists of: itself, or all
    in its group, as a task group raises them. None where it is anything else."""
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
    """What stands for something in the core is one object: a copy would end it."""
    return TypeError(f"cannot copy or pickle a {type(thing).__name__}")
