"""The async generators of a server's coroutines, which are to be finished.

A generator that is left at a `yield` has cleanup that may await, so somebody
has to step it. The interpreter tells through two hooks of a thread: of each
generator that begins, and of each that is dropped unfinished. The latter may be
told anywhere, in another thread too; so the mux is asked to begin with it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from .tasks import SERVING, Task

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.timers import Timer
    from .coroutine import CoroutineDispatcher

__all__ = ["Generators"]


class Closer(Task):
    """A small task without a connection that finishes one generator."""

    __slots__ = ()

    owner: Generators

    def __init__(self, owner: Generators, generator: Any, context: Context) -> None:
        self.conn: Any = None
        self.engine: Engine = owner.engine
        self.inbox: deque[bytes] | None = None
        self.eager = 0
        self.over = False
        self.lost: BaseException | None = None
        self.waiting: str | None = None
        self.timer: Timer | None = None
        self.context = context
        self.coroutine: Coroutine[Any, Any, Any] = finish(generator)
        self.owner = owner

    def ended(self, error: BaseException) -> None:
        """The generator is finished, or its cleanup raised."""
        self.owner.closers.remove(self)
        self.close_dialled()
        if type(error) is not StopIteration:
            self.owner.failed(error)


async def finish(generator: Any) -> None:
    """Close an async generator, with whatever its cleanup awaits."""
    await generator.aclose()


class Generators:
    """Those that the coroutines of one dispatcher have begun.

    Attributes:
        closers: of those that are being finished.
    """

    def __init__(self, dispatcher: CoroutineDispatcher) -> None:
        self.engine: Engine = dispatcher.engine
        self._dispatcher = weakref.ref(dispatcher)  # which knows this: no cycle
        self.closers: list[Closer] = []
        self._begun: weakref.WeakSet[Any] = weakref.WeakSet()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs, this thread steps the dispatcher's coroutines."""
        thread = threading.get_ident()
        before = sys.get_asyncgen_hooks()
        SERVING.add(thread)
        sys.set_asyncgen_hooks(self._begun.add, self._dropped)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*before)
            SERVING.discard(thread)

    def _dropped(self, generator: Any) -> None:
        """Nobody will ask this one for more. Called in any thread, anywhere."""
        closer = Closer(self, generator, copy_context())
        self.closers.append(closer)
        try:
            closer.engine.call_threadsafe(closer.resume, None)
        except RuntimeError:  # the mux is closed: what does not wait may still run
            closer.resume(None)

    def finish_all(self) -> None:
        """Begin to finish those that somebody still holds."""
        while self._begun:
            closer = Closer(self, self._begun.pop(), copy_context())
            self.closers.append(closer)
            closer.resume(None)

    def failed(self, error: BaseException) -> None:
        """What the cleanup of one raised is an error of no connection. One that
        outlives its server's dispatcher shows it as any finalizer does."""
        dispatcher = self._dispatcher()
        if dispatcher is None:
            raise error
        if not dispatcher.has_ended(error):
            dispatcher.report_or_leave(None, error)
