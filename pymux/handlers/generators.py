"""Finish the async generators that coroutines of a server leave unfinished.

A generator that is dropped at a `yield` may have cleanup that awaits, so a task has
to step the generator. The interpreter calls one hook of a thread for each generator
that begins, and another for each that is dropped unfinished. The second hook may run
in any thread, so the task is started through the mux.
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

from .current import HOME, SERVING
from .tasks import Task

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.timers import Timer
    from .coroutine import CoroutineDispatcher
    from .timeouts import Look

__all__ = ["Generators"]


class Closer(Task):
    """A small task without a connection that finishes one generator."""

    __slots__ = ()

    owner: Generators

    def __init__(self, owner: Generators, generator: Any, context: Context) -> None:
        self.conn: Any = None
        self.engine: Engine = owner.engine
        self.untaken: deque[bytes] | None = None
        self.eager = 0
        self.over = False
        self.lost: BaseException | None = None
        self.waiting: Any = None
        self.timer: Timer | Look | None = None
        self.context = context
        context.run(HOME.set, weakref.ref(self.engine))
        self.coroutine: Coroutine[Any, Any, Any] = finish(generator)
        self.owner = owner

    def check_end(self) -> None:
        """Do nothing: there is no connection."""

    def ended(self, error: BaseException) -> None:
        """Forget the task: the generator is finished, or its cleanup raised."""
        self.owner.closers.remove(self)
        self.close_dialled()
        if type(error) is not StopIteration:
            self.owner.failed(error)


async def finish(generator: Any) -> None:
    """Close an async generator; its cleanup may await."""
    await generator.aclose()


class Generators:
    """The async generators that the coroutines of one dispatcher have begun.

    Attributes:
        closers: tasks that are finishing generators now.
    """

    def __init__(self, dispatcher: CoroutineDispatcher) -> None:
        self.engine: Engine = dispatcher.engine
        self._dispatcher = weakref.ref(dispatcher)  # a strong one would be a cycle
        self.closers: list[Closer] = []
        self._begun: weakref.WeakSet[Any] = weakref.WeakSet()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for generators of this thread while the block runs."""
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
        """Finish a dropped generator. The interpreter calls this in any thread."""
        closer = Closer(self, generator, copy_context())
        self.closers.append(closer)
        try:
            closer.engine.call_threadsafe(closer.resume, None)
        except RuntimeError:  # the mux is closed; cleanup without a wait still works
            closer.resume(None)

    def finish_all(self) -> None:
        """Begin to finish the generators that are still referenced."""
        while self._begun:
            closer = Closer(self, self._begun.pop(), copy_context())
            self.closers.append(closer)
            closer.resume(None)

    def is_told(self, closer: Closer) -> bool:
        """Return True: a generator that is being finished is told of no other end."""
        return True

    def failed(self, error: BaseException) -> None:
        """Report an error of a generator's cleanup, without a connection. After the
        dispatcher is gone, raise the error as finalizers do."""
        dispatcher = self._dispatcher()
        if dispatcher is None:
            raise error
        if not dispatcher.has_ended(error):
            what = f"the cleanup of a generator of the handler {dispatcher.name}"
            dispatcher.report_or_leave(None, error, what)
