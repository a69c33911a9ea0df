"""What a mux calls later, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.engine import Engine
from ..engine.timers import Timer
from ..values.stats import Stats

__all__ = ["Calls"]


class Calls:
    """The part of `Mux` that has nothing to do with connections."""

    __slots__ = ()

    _engine: Engine  # which `Mux` has

    def wakeup(self) -> None:
        """Make the harvest that waits, or the next one, return.

        Any thread may call it; after `close()` it does nothing.
        """
        self._engine.wakeup()

    def call_threadsafe(self, fn: Callable[..., Any], *args: Any) -> None:
        """Call ``fn(*args)`` in the mux's thread, in its next harvest.

        Any thread may call it; that harvest then returns. What it raises comes
        out of the harvest, or goes to the server's `on_error`.

        Args:
            fn: the callable.
            args: for it.

        Raises:
            TypeError: `fn` cannot be called.
            RuntimeError: the mux is closed.
        """
        if not callable(fn):
            raise TypeError(f"fn is {fn!r}; a callable is needed")
        self._engine.call_threadsafe(fn, *args)

    def call_later(self, delay: float, fn: Callable[..., Any], *args: Any) -> Timer:
        """Call ``fn(*args)`` during a harvest, `delay` seconds from now.

        What it raises comes out of the harvest, or goes to the server's
        `on_error`.

        Args:
            delay: seconds; 0 or less means the next harvest.
            fn: the callable.
            args: for it.

        Returns:
            A `Timer`; its `cancel()` forgets the call.

        Raises:
            TypeError, ValueError: a delay that is no number; `fn` cannot be
                called.
        """
        return self._engine.call_later(delay, fn, *args)

    # --- looking inside ---------------------------------------------------

    def fileno(self) -> int:
        """The poller's descriptor, for another event loop to watch.

        It is readable when a harvest would have something, except for the
        work that `next_timeout()` tells of.

        Raises:
            BackendUnavailable: poll and select have none.
        """
        return self._engine.fileno()

    def next_timeout(self) -> float | None:
        """Seconds until a harvest is needed whatever `fileno()` says.

        Returns:
            0 where there is something to do now (buffered messages, unsent
            output), None where there is nothing to wait for.
        """
        return self._engine.next_timeout()

    def stats(self) -> Stats:
        """Figures of this mux; after `close()`, the last ones."""
        engine = self._engine
        if not engine.has_last_stats():
            engine.check()
        return engine.stats()
