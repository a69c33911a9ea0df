"""What a server is, whichever loop it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.backends import choose
from ..engine.engine import Engine
from ..engine.locks import RLock
from ..handlers.all import Handlers
from ..handlers.base import OnError
from ..mux import Mux
from ..objects.base import engine_of
from ..service import Service
from ..values.checks import duration
from ..values.endpoint import Listenable, Listenables
from ..values.stats import Stats
from .drain import Drain, stop_time

__all__ = ["DEFAULT_ADDRESS", "BaseServer", "Plan"]

DEFAULT_ADDRESS = ("127.0.0.1", 8093)


class Plan:
    """What a server is to serve, and what it has once it is bound.

    Arguments are checked when the plan is made; `bind` listens. It is bound once.

    Attributes:
        lock: held while the server is bound, and while its life changes.
        engine: None until the server is bound; set last.
        mux, handlers, drain, addresses: of the bound server.
        claim: of the call that has bound it, which undoes that if it fails later.

    Raises:
        TypeError, ValueError: an argument that cannot be, or cannot apply.
    """

    mux: Mux
    handlers: Handlers
    drain: Drain

    def __init__(
        self,
        handler: Any,
        address: Listenable | Listenables,
        *,
        backend: str | None,
        drain_timeout: float | None,
        on_error: OnError | None,
        **options: Any,
    ) -> None:
        self._service = Service(handler, address, on_error, **options)
        choose(backend)
        self.backend = backend
        self._drain_timeout = duration("drain_timeout", drain_timeout)
        self.lock = RLock()
        self.claim: object = None
        self.engine: Engine | None = None
        self.addresses: list[Any] = []

    def bind(
        self,
        make_mux: Callable[[], Mux],
        make_handlers: Callable[[Engine], Handlers],
        claim: object = None,
    ) -> Engine:
        """Make the mux and listen; raises in the caller, and leaves nothing."""
        with self.lock:
            if self.engine is not None:
                raise RuntimeError(
                    "this server was started before; a server has one life, "
                    "make a new one"
                )
            mux = make_mux()
            try:
                engine = engine_of(mux)
                self.handlers = make_handlers(engine)
                listeners = self._service.open(mux)
                self.addresses = [listener.address for listener in listeners]
                self.drain = Drain(engine, self.handlers)
            except BaseException:
                mux.close()
                raise
            self.claim, self.mux = claim, mux
            self.engine = engine
            return engine

    def stop_time(self, drain_timeout: float | None) -> float:
        """When a stop that is called now runs out of time."""
        return stop_time(drain_timeout, self._drain_timeout)

    def __str__(self) -> str:
        """Where the server listens, or is to listen."""
        where = self.addresses or self._service.where
        return str(where[0] if len(where) == 1 else where)


class BaseServer:
    """What users see of a server, whichever loop it runs in."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._plan}>"

    @property
    def address(self) -> Any:
        """(host, port) as it was bound, or the path; the first of `addresses`.

        Readable after the end too.

        Raises:
            RuntimeError: the server was not started.
        """
        return self.addresses[0]

    @property
    def addresses(self) -> list[Any]:
        """Where the server listens, in the order in which addresses were given.

        Readable after the end too.

        Raises:
            RuntimeError: the server was not started.
        """
        plan = self._plan
        with plan.lock:  # a handler may ask before `bind` has returned
            if plan.engine is None:
                raise RuntimeError("this server was not started; it has no address yet")
            return list(plan.addresses)

    def stats(self) -> Stats:
        """Figures of the mux: zeros before the start, after the end the last.

        Any thread may call it.
        """
        plan = self._plan
        with plan.lock:
            if plan.engine is None:
                return Stats(plan.backend or "")
            return plan.engine.stats()
