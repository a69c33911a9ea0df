"""Files of the user that a mux watches beside its connections."""

from __future__ import annotations

import errno
import os
import selectors
from collections.abc import Callable
from typing import Any, Protocol

from .._core import lib
from ..values.checks import LARGEST, as_int, shown
from .backends import select_limit
from .owner import BUSY, busy

__all__ = ["HasFileno", "Watch"]

BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class HasFileno(Protocol):
    """An object with a descriptor: a socket, a pipe, a process's output."""

    def fileno(self) -> int:
        """Return the descriptor."""


def number_of(fileobj: Any) -> int:
    """Return the descriptor of a file object.

    Raises:
        TypeError: it is neither a whole number nor an object with `fileno()`.
        ValueError: the number is negative, or the object is closed or has none.
    """
    needed = "a descriptor or an open object with fileno() is needed"
    text = f"fileobj is {shown(fileobj)}; {needed}"
    number = as_int(fileobj)
    if number is None:
        try:
            number = as_int(fileobj.fileno())
        except (AttributeError, TypeError):
            pass
        except ValueError:  # a closed file, and one without a descriptor
            raise ValueError(text) from None
    if number is None:
        raise TypeError(text)
    if not 0 <= number <= LARGEST:
        raise ValueError(text)
    return number


def check_events(events: Any) -> int:
    """Return events as an int.

    Raises:
        TypeError: events are no whole number.
        ValueError: events are none of `selectors`.
    """
    number = as_int(events)
    text = (
        f"events is {shown(events)}; selectors.EVENT_READ, EVENT_WRITE or both "
        "(EVENT_READ | EVENT_WRITE) are accepted"
    )
    if number is None:
        raise TypeError(text)
    if not number or number & ~BOTH:
        raise ValueError(text)
    return number


class Watch:
    """A file that a mux watches, made by `Mux.watch`.

    Attributes:
        fileobj: the file object that was given to `watch`.
        number: its descriptor.

    >>> import os, selectors
    >>> from pymux import Mux
    >>> ours, theirs = os.pipe()
    >>> with Mux() as mux:
    ...     def ready(fileobj, events):
    ...         print(os.read(fileobj, 100))
    ...         watch.close()
    ...     watch = mux.watch(ours, selectors.EVENT_READ, ready)
    ...     _ = os.write(theirs, b"hello")
    ...     batch = mux.harvest()
    b'hello'
    >>> os.close(ours), os.close(theirs)
    (None, None)
    """

    __slots__ = ("_engine", "_events", "_fn", "fileobj", "number")

    def __init__(
        self, engine: Any, fileobj: Any, fn: Callable[[Any, int], Any]
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; a callable is needed")
        self.fileobj: Any = fileobj
        self.number: int = number_of(fileobj)
        self._engine = engine
        self._fn: Callable[[Any, int], Any] | None = fn
        self._events = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"events {self._events}"
        return f"<Watch of {self.fileobj!r}, {state}>"

    @property
    def events(self) -> int:
        """What is watched: `selectors.EVENT_READ`, `EVENT_WRITE` or both."""
        return self._events

    @property
    def closed(self) -> bool:
        """True after `close()`, and after the mux has closed."""
        return self._fn is None

    def change(self, events: int) -> None:
        """Watch for other events from now on.

        Args:
            events: `selectors.EVENT_READ`, `selectors.EVENT_WRITE` or both.

        Raises:
            TypeError, ValueError: events are no int, or a wrong one.
            RuntimeError: the watch is closed, or this is another thread than the mux's.
            OSError: the file was closed; the watch is closed now, too.
        """
        events = check_events(events)
        self._engine.check()
        if self._fn is None:
            raise RuntimeError("the watch is closed")
        self._want(events)

    def _begin(self, events: int) -> None:
        """Watch from now on. If a signal handler raises, the watch is closed."""
        events, watches = check_events(events), self._engine.watches
        if self.number in watches:
            raise ValueError(
                f"{self.fileobj!r} is watched already; change() or close() its Watch"
            )
        watches[self.number] = self
        try:
            self._want(events)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop watching. The file stays open; close the watch before the file.

        A second call does nothing.
        """
        if self._fn is None:
            return
        self._engine.check()
        self._fn = None
        self._engine.watches.pop(self.number, None)
        self._engine.ready.pop(self, None)
        lib.pmx_foreign(self._engine.c, self.number, self._events, 0)

    def _forget(self) -> None:
        """Become closed: the engine has closed, or belongs to a parent process."""
        self._fn = None

    def _want(self, events: int) -> None:
        """Have the core tell of these events, even if it has told of them before."""
        error = lib.pmx_foreign(self._engine.c, self.number, self._events, events)
        self._events = events
        if error == BUSY:
            raise busy()
        if error:
            self.close()
            raise self._error(-error)

    def _error(self, number: int) -> OSError:
        if number == errno.ENOSPC and self._engine.name == "select":
            text = f"backend select: {select_limit()}"
        elif number == errno.EPERM:
            text = "the file is always ready, as regular files are"
        elif number == errno.EEXIST:
            text = "the descriptor is watched already, or a connection's"
        else:
            text = os.strerror(number)
        return OSError(number, f"cannot watch {self.fileobj!r}: {text}")

    def _call(self) -> None:
        """Call the user's function; then the core is to tell again.

        If a signal handler raises on the way, the file is still among those that are
        ready, and the next harvest calls again.
        """
        engine, fn = self._engine, self._fn
        events = engine.ready[self] & self._events
        try:
            if events and fn is not None:
                fn(self.fileobj, events)
        finally:
            if self._fn is not None and engine.c is not None:
                self._want(self._events)
            engine.ready.pop(self, None)
