"""Each dispatcher of an engine is a service; `Handlers` treats all of them as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..engine.owner import FORKED
from ..engine.state import DISPATCHING
from ..values.errors import FATAL
from .base import Dispatcher, OnError, repeat
from .dial import DialDispatcher
from .forms import dispatcher_for
from .slow import measured

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = ["Handlers", "handlers_of", "service_to_dial", "service_to_listen"]


class Handlers:
    """The handlers of an engine's connections.

    The same handler object with the same `on_error` is one service, whose
    connections share batches: those of a plain and a TLS port, say.

    Attributes:
        on_error: gets the errors of handlers given to `Mux.listen` and `Mux.connect`.
        late: the time of `stop` is over, and the remaining connections are reset.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.on_error: OnError | None = None
        self._dispatchers: dict[int, Dispatcher] = {}  # by the service's number
        self._numbers: dict[tuple[int, int], int] = {}
        self._dial: int | None = None
        self._stack: contextlib.ExitStack | None = None  # while this thread serves
        self._hooked: set[int] = set()  # services whose handlers have hooks
        self._to_start: list[int] = []  # of those, to be told that they listen
        self._started: list[int] = []  # and to be told that the mux stops
        self._raised: list[BaseException] = []  # by `stopping`, as the mux closed
        engine.handlers = self
        engine.on_close = self.bereave

    def form_of(self, handler: Any) -> type[Dispatcher]:
        """Return the dispatcher class for a handler."""
        return dispatcher_for(handler)

    def _dispatcher(self, handler: Any, on_error: OnError | None) -> Dispatcher:
        form = self.form_of(handler)
        if self.engine.slow_after is not None:
            form = measured(form)
        return form(self.engine, handler, on_error)

    def lead(self, handler: Any, on_error: OnError | None) -> Dispatcher:
        """Make a handler service 0, which also reports errors of timers and calls."""
        dispatcher = self._dispatcher(handler, on_error)
        self.engine.services[0].dispatcher = dispatcher
        self.engine.on_callback_error = lambda error, what: dispatcher.report(
            None, error, f"{what} of the server of the handler {dispatcher.name}"
        )
        self.on_error = on_error
        self._numbers[id(handler), id(on_error)] = 0
        self._dispatchers[0] = dispatcher
        return dispatcher

    def number_for(self, handler: Any, on_error: OnError | None, keep: bool) -> int:
        """Return the service number of a handler, and add the service if needed.

        Args:
            keep: a listener uses the service; no other handler may reuse its number.
        """
        key = id(handler), id(on_error)
        number = self._numbers.get(key)
        if number is None:
            dispatcher = self._dispatcher(handler, on_error)
            number = self._numbers[key] = self._add(dispatcher)
        if keep:
            self.engine.services[number].kept = True
        return number

    def dial_number(self) -> int:
        """Return the number of the service for connections that coroutines dial."""
        if self._dial is None:
            self._dial = self._add(DialDispatcher(self.engine, None, None))
            self.engine.services[self._dial].kept = True
        return self._dial

    def _add(self, dispatcher: Dispatcher) -> int:
        number = self._unused()
        if number is None:
            number = self.engine.add_service(dispatcher)
        else:
            self.engine.reuse_service(number, dispatcher)
        self._dispatchers[number] = dispatcher
        if self._stack is not None:
            self._stack.enter_context(dispatcher.serving())
        return number

    def _unused(self) -> int | None:
        """Take the number of a service that has no connection left.

        The core never removes a service, and a program may give each outgoing
        connection its own handler object.
        """
        unused = self.engine.unused
        for _ in range(len(unused)):
            number = unused.pop()
            state = self.engine.services[number]
            dispatcher = self._dispatchers.get(number)
            if state.dialled > 0 or state.kept or dispatcher is None:
                continue
            if dispatcher.busy:  # coroutines may outlive their connections
                unused.insert(0, number)
                continue
            del self._dispatchers[number]
            del self._numbers[id(dispatcher.handler), id(dispatcher.on_error)]
            return number
        return None

    def half_open(self, number: int) -> bool:
        """Return True if the handler may send after the peer has ended its stream."""
        form: Any = self.engine.services[number].dispatcher
        return bool(form.half_open)

    # --- started and stopping -----------------------------------------------------

    def begin(self, numbers: Iterable[int]) -> None:
        """Have the next harvest call `started` of handlers that listen now."""
        for number in numbers:
            dispatcher = self._dispatchers.get(number)
            if dispatcher is None or not dispatcher.hooks or number in self._hooked:
                continue
            self._hooked.add(number)
            self._to_start.append(number)
            self.engine.call_threadsafe(self._start)

    def _start(self) -> None:
        while self._to_start:
            number = self._to_start.pop(0)
            self._started.append(number)
            self._call_hook(number, "started")

    def _call_hook(self, number: int, name: str) -> None:
        """Call a hook as if its service's batch was dispatched: `connect` in a hook
        gives the connection to the hook's handler."""
        engine = self.engine
        before, engine.serving = engine.serving, engine.services[number]
        try:
            self._dispatchers[number].call_hook(name)
        finally:
            engine.serving = before

    def before_drain(self) -> None:
        """Tell every handler that the mux is about to stop. The stop may come before
        the first harvest."""
        if self._to_start:
            self.engine.run_call(self._start, (), "started")
        self.say_stopping()

    def say_stopping(self) -> None:
        """Tell every handler that was started, once, that the mux is about to stop."""
        engine = self.engine
        while self._started and engine.c is not None and engine.thread != FORKED:
            number = self._started.pop(0)
            engine.run_call(self._call_hook, (number, "stopping"), "stopping")

    def take_leave(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Give connections their turn to end: tell the objects that say goodbye.

        Args:
            ids: of connections that have opened; some may have ended.

        Returns:
            Those that the caller is to end: of coroutines, and of other handlers.
        """
        engine = self.engine
        coroutines: list[int] = []
        others: list[int] = []
        told: dict[int, list[Any]] = {}
        for id in ids:
            rules = engine.policy_of(id)
            form: Any = None if rules is None else self._dispatchers.get(rules.service)
            if form is None:
                continue
            if form.says_goodbye:
                told.setdefault(rules.service, []).append(engine.connection(id))
            else:
                (coroutines if form.half_open else others).append(id)
        for number, conns in told.items():
            engine.run_call(self._say_draining, (number, conns), "draining")
        return coroutines, others

    def _say_draining(self, number: int, conns: list[Any]) -> None:
        engine = self.engine
        before, engine.serving = engine.serving, engine.services[number]
        try:
            self._dispatchers[number].say_draining(conns)
        finally:
            engine.serving = before

    # --- what a server asks of all dispatchers ----------------------------------

    @property
    def all(self) -> list[Dispatcher]:
        """List the dispatchers that have a service now."""
        return list(self._dispatchers.values())

    @property
    def late(self) -> bool:
        return any(dispatcher.late for dispatcher in self.all)

    @late.setter
    def late(self, late: bool) -> None:
        for dispatcher in self.all:
            dispatcher.late = late

    @property
    def busy(self) -> bool:
        """Return True if coroutines still run after their connections ended."""
        return any(dispatcher.busy for dispatcher in self.all)

    @property
    def outlives(self) -> bool:
        """Whether anything runs whose connection has ended."""
        return any(dispatcher.outlives for dispatcher in self.all)

    def cleans_up(self) -> bool:
        """Tell every handler that time is over; True if one is still cleaning up."""
        cleaning = [dispatcher.cleans_up() for dispatcher in self.all]
        return any(cleaning)

    def abandon(self) -> None:
        """Close the coroutines that still run."""
        for dispatcher in self.all:
            dispatcher.abandon()

    def bereave(self) -> None:
        """Prepare all dispatchers for an engine that is being closed."""
        repeat(self._raised, self.say_stopping)
        if self.engine.c is None:  # a hook closed it
            return
        for dispatcher in self.all:
            dispatcher.bereave()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Let this thread serve while the block runs."""
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
        """Give each handler its last reports: the engine has ended, perhaps by an
        error. An error of one handler does not keep the reports from the others."""
        raised, self._raised = self._raised, []
        repeat(raised, self.say_stopping)
        for dispatcher in self.all:
            try:
                dispatcher.wind_up(cause)
            except FATAL as error:
                raised.append(error)
        if raised and cause is None:
            raise raised[0]


def handlers_of(engine: Engine) -> Handlers:
    """Return the `Handlers` of an engine, and make them at the first call."""
    handlers: Handlers | None = engine.handlers
    if handlers is None:
        handlers = Handlers(engine)
        engine.on_closed = partial(handlers.wind_up, None)
    return handlers


def service_to_listen(
    engine: Engine, handler: Any, half_open: bool
) -> tuple[int, bool]:
    """Return a handler's service number, and whether its connections are half-open.
    Without a handler, return service 0 and the `half_open` of the call.

    Raises:
        TypeError: the handler has none of the four forms.
        ValueError: half_open is True and a handler is given.
    """
    if handler is None:
        return 0, half_open
    _check_half_open(half_open)
    handlers = handlers_of(engine)
    number = handlers.number_for(handler, handlers.on_error, keep=True)
    return number, handlers.half_open(number)


def service_to_dial(
    engine: Engine, handler: Any, half_open: bool, call: str = "connect"
) -> tuple[int, bool]:
    """Return the same for an outgoing connection. Without a handler, the handler
    that runs gets the connection.

    Args:
        call: the name of the user's call, for an error.

    Raises:
        TypeError, ValueError: as in `service_to_listen`.
        RuntimeError: the running handler cannot take the connection.
    """
    if handler is None:
        return _running_service(engine, call), half_open
    _check_half_open(half_open)
    if engine.handlers is None and engine.services[0].dispatcher is not None:
        raise RuntimeError(
            "this mux has the connections of asyncio tasks only; "
            "await pymux.aio.connect()"
        )
    handlers = handlers_of(engine)
    number = handlers.number_for(handler, handlers.on_error, keep=False)
    return number, handlers.half_open(number)


def _running_service(engine: Engine, call: str) -> int:
    """Return the service of the running handler, else of the server or the caller."""
    state = engine.services[0]
    if engine.state is DISPATCHING and engine.running is None:
        state = engine.serving
    form: Any = state.dispatcher
    if engine.running is None and (form is None or form.takes_outgoing):
        return state.number
    or_dial = (
        ", or await pymux.dial() in a coroutine (pymux.aio.connect() in asyncio)"
        if call == "connect"
        else ""
    )
    raise RuntimeError(
        "a function or coroutine handler cannot tell the connections that it makes "
        f"from those that it serves; give {call}() a handler={or_dial}"
    )


def _check_half_open(half_open: bool) -> None:
    if half_open:
        raise ValueError(
            "half_open is True beside a handler, whose form decides that; "
            "leave half_open False"
        )
