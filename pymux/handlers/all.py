"""The dispatchers of an engine, each a service, and all of them as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..values.errors import FATAL
from .base import Dispatcher, OnError
from .dial import DialDispatcher
from .forms import dispatcher_for

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["Handlers", "handlers_of"]


class Handlers:
    """The handlers of an engine's connections.

    The same handler object with the same `on_error` is one service, whose
    connections share batches: those of a plain and a TLS port, say.

    Attributes:
        all: the dispatchers, in the order of their services' numbers.
        late: the time of `stop` is over: the rest is being reset.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.all: list[Dispatcher] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._dial: int | None = None
        self._stack: contextlib.ExitStack | None = None  # while this thread serves
        engine.handlers = self
        engine.on_close = self.bereave

    def form_of(self, handler: Any) -> type[Dispatcher]:
        """The dispatcher's class for a handler."""
        return dispatcher_for(handler)

    def lead(self, handler: Any, on_error: OnError | None) -> Dispatcher:
        """Make a handler service 0: it gets what timers and calls raise, too."""
        dispatcher = self.form_of(handler)(self.engine, handler, on_error)
        self.engine.services[0].dispatcher = dispatcher
        self.engine.on_callback_error = lambda error: dispatcher.report(None, error)
        self._numbers[id(handler), id(on_error)] = 0
        self.all.append(dispatcher)
        return dispatcher

    def number_for(self, handler: Any, on_error: OnError | None) -> int:
        """The service of a handler, made if there is none."""
        key = id(handler), id(on_error)
        number = self._numbers.get(key)
        if number is None:
            dispatcher = self.form_of(handler)(self.engine, handler, on_error)
            number = self._numbers[key] = self._add(dispatcher)
        return number

    def dial_number(self) -> int:
        """The service of the connections that coroutines have dialled."""
        if self._dial is None:
            self._dial = self._add(DialDispatcher(self.engine, None, None))
        return self._dial

    def _add(self, dispatcher: Dispatcher) -> int:
        number = self.engine.add_service(dispatcher)
        self.all.append(dispatcher)
        if self._stack is not None:
            self._stack.enter_context(dispatcher.serving())
        return number

    def half_open(self, number: int) -> bool:
        """Whether a service's handler sees the peer's end, and may still send."""
        form: Any = self.engine.services[number].dispatcher
        return bool(form.half_open)

    # --- all of them, as a server needs them ------------------------------------

    @property
    def late(self) -> bool:
        return any(dispatcher.late for dispatcher in self.all)

    @late.setter
    def late(self, late: bool) -> None:
        for dispatcher in self.all:
            dispatcher.late = late

    @property
    def busy(self) -> bool:
        """Whether anything still runs, though no connection is left."""
        return any(dispatcher.busy for dispatcher in self.all)

    def cleans_up(self) -> bool:
        """Out of time: whether what still runs is to have a moment yet."""
        cleaning = [dispatcher.cleans_up() for dispatcher in self.all]  # tell each
        return any(cleaning)

    def abandon(self) -> None:
        """End what still runs."""
        for dispatcher in self.all:
            dispatcher.abandon()

    def bereave(self) -> None:
        """The engine is about to close, by a call of a handler's."""
        for dispatcher in self.all:
            dispatcher.bereave()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While the block runs, this thread serves."""
        if self._stack is not None:
            yield
            return
        with contextlib.ExitStack() as stack:
            for dispatcher in self.all:
                stack.enter_context(dispatcher.serving())
            self._stack = stack
            try:
                yield
            finally:
                self._stack = None

    def wind_up(self, cause: BaseException | None) -> None:
        """The engine's end, by an error or without one: each handler is told what
        it has not heard yet. Nothing that one raises keeps the others from it."""
        raised: list[BaseException] = []
        for dispatcher in self.all:
            try:
                dispatcher.wind_up(cause)
            except FATAL as error:
                raised.append(error)
        if raised and cause is None:
            raise raised[0]


def handlers_of(engine: Engine) -> Handlers:
    """The handlers of an engine, which may have none so far."""
    handlers: Handlers | None = engine.handlers
    return Handlers(engine) if handlers is None else handlers
