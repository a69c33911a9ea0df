"""The part of a mux beside its connections: close, wakeups, timers, figures."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.engine import Engine
from ..engine.timers import Timer
from ..engine.watches import HasFileno, Watch
from ..values.errors import no_copy
from ..values.stats import Stats

if TYPE_CHECKING:
    from typing import Self

__all__ = ["MuxBase", "engine_of", "join", "mux_with"]


class MuxBase:
    """The part of `Mux` that has nothing to do with connections.

    A mux is the public side of an engine. A mux that is dropped closes its engine, so
    the engine does not keep the mux alive.
    """

    __slots__ = ("__weakref__", "_engine")

    _engine: Engine

    def _join(self, engine: Engine) -> None:
        """Become the mux of an engine."""
        self._engine = engine
        engine.mux = weakref.ref(self)

    def __repr__(self) -> str:
        return self._engine.describe()

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.c is not None:
            try:
                if engine.is_used() and not engine.forked():
                    warnings.warn(
                        f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self
                    )
            finally:
                engine.free()

    @property
    def backend(self) -> str:
        """The name of the backend in use."""
        return self._engine.name

    def close(self) -> None:
        """Close everything at once; inside a handler, at the end of its dispatch.

        First `stopping(mux)` of each handler that listens is called, if it has that.
        Output that the kernel takes now is sent. A connection with more output
        than that is reset, so that its peer does not take the part for the whole.
        In a forked child only memory and descriptors are freed.
        """
        self._engine.close()

    def retire(self) -> None:
        """Accept the peers that wait, close the listeners, and serve on.

        The next harvests do it. Peers in the backlog of a listener are accepted over
        `max_connections` too, since its close would reset them. A socket that was given
        to `listen` is only closed: its backlog is for the others that have the socket.
        `listen` may be called again.

        Raises:
            RuntimeError: the mux is closed, or another thread's.
        """
        self._engine.check()
        self._engine.retire()

    # --- waking and timers ------------------------------------------------

    def wakeup(self) -> None:
        """Make the harvest that waits, or the next one, return.

        Any thread may call this. After `close()` the call does nothing.
        """
        self._engine.wakeup()

    def call_threadsafe(self, fn: Callable[..., Any], *args: Any) -> None:
        """Call ``fn(*args)`` in the mux's thread, in its next harvest.

        Any thread may call this; the harvest then returns. An exception of `fn` leaves
        the harvest, or goes to the server's `on_error`.

        Args:
            fn: the callable.
            args: the arguments of `fn`.

        Raises:
            TypeError: `fn` cannot be called.
            RuntimeError: the mux is closed.
        """
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; a callable is needed")
        self._engine.call_threadsafe(fn, *args)

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        """Call ``fn(*args)`` during a harvest, `delay` seconds from now.

        An exception of `fn` leaves the harvest, or goes to the server's `on_error`.

        Args:
            delay: seconds; 0 or less means the next harvest.
            fn: the callable.
            args: the arguments of `fn`.

        Returns:
            A `Timer`; its `cancel()` cancels the call.

        Raises:
            TypeError, ValueError: a delay that is no number; `fn` cannot be
                called.
        """
        return self._engine.call_later(delay, fn, *args)

    def watch(
        self, fileobj: int | HasFileno, events: int, fn: Callable[[Any, int], Any]
    ) -> Watch:
        """Call ``fn(fileobj, events)`` in harvests while a file is ready.

        The file may be a pipe, a device, a socket that pymux does not serve, on any
        backend. `fn` runs in the mux's thread and does the reading or writing. While
        the file stays ready, each harvest calls `fn` again. A harvest that has called
        `fn` returns. An exception of `fn` leaves the harvest, or goes to the server's
        `on_error`; the watch goes on.

        Args:
            fileobj: a descriptor, or an object with `fileno()`. The file stays the
                caller's: close the watch first, then the file.
            events: `selectors.EVENT_READ`, `selectors.EVENT_WRITE` or both. The end of
                a stream and an error count as every event that was asked for.
            fn: gets the file object and those of the events that it is ready for.

        Returns:
            A `Watch`: `close()` ends it, `change(events)` watches for other events.
            The mux's `close()` ends all watches.

        Raises:
            TypeError: an argument is of a wrong type.
            ValueError: an argument is wrong, or the file is watched already.
            OSError: the backend cannot watch the file: a closed one, a regular file
                on epoll, a number over select's limit.
        """
        return self._engine.watch(fileobj, events, fn)

    # --- looking inside ---------------------------------------------------

    def fileno(self) -> int:
        """Return the poller's descriptor, for another event loop to watch.

        The descriptor is readable when a harvest would report something, except for
        the work that `next_timeout()` tells of.

        Raises:
            BackendUnavailable: poll and select have no descriptor.
        """
        return self._engine.fileno()

    def next_timeout(self) -> float | None:
        """Return seconds until a harvest is needed even if `fileno()` is not readable.

        Returns:
            0 if there is work now (buffered messages, unsent output), None if there
            is no time to wait for.
        """
        return self._engine.next_timeout()

    def stats(self) -> Stats:
        """Return the figures of this mux; after `close()`, the last ones."""
        engine = self._engine
        if not engine.has_last_stats():
            engine.check()
        return engine.stats()


M = TypeVar("M", bound=MuxBase)


def join(mux: MuxBase, make: Callable[..., Engine]) -> None:
    """Make the engine of a mux: make(join=...) calls `join` with the open engine."""
    make(join=mux._join)


def mux_with(kind: type[M], make: Callable[..., Engine]) -> M:
    """Return a mux of class `kind` whose engine `make` makes: see `join`."""
    mux = kind.__new__(kind)
    join(mux, make)
    return mux


def engine_of(mux: MuxBase) -> Engine:
    """Return the engine of a mux, for the rooms above."""
    return mux._engine
