"""A service joins a server's handlers to their endpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from .handlers.all import Handlers, handlers_of
from .handlers.base import OnError, full_name
from .handlers.forms import dispatcher_for
from .handlers.mistakes import check_call
from .mux import Mux
from .objects.base import engine_of
from .objects.handler import HandlerOf
from .objects.listener import Listener, listen_on_all
from .values.endpoint import (
    Listenable,
    Listenables,
    ListenOptions,
    Settings,
    listen_settings,
)
from .values.tls import SSLContext

if TYPE_CHECKING:
    from .engine.engine import Engine

__all__ = ["Place", "Service"]

Place = tuple[Settings, int, bool]
"""What `listen_on_all` takes of an address: its settings, the number of its service,
and whether connections are half-open."""


class Service:
    """The handlers of a server, each with the addresses to listen on.

    Args:
        handler: for endpoints without their own handler; None if each has one.
        address: an address, an `Endpoint`, a listening socket, or a list of these.
        on_error: called with the errors of handlers; None logs these.
        options: further arguments of `listen_settings`.

    Raises:
        TypeError, ValueError: an argument is wrong or does not apply.
    """

    def __init__(
        self,
        handler: HandlerOf[Any] | None,
        address: Listenable | Listenables,
        on_error: OnError | None = None,
        **options: Unpack[ListenOptions],
    ) -> None:
        if handler is not None:
            dispatcher_for(handler)  # raises TypeError for a wrong handler
        if on_error is not None:
            if not callable(on_error):
                raise TypeError(
                    f"on_error is {on_error!r}; a callable or None is needed"
                )
            check_call(on_error, "on_error(conn, error)", "on_error")
        self.where: Any = list(address) if isinstance(address, list) else [address]
        self._endpoints = listen_settings(self.where, handler=handler, **options)
        for settings in self._endpoints:
            dispatcher_for(settings.handler)
        self._first = self._endpoints[0].handler if handler is None else handler
        self._on_error = on_error

    @property
    def handler_names(self) -> list[str]:
        """The name of the handler of each address, for the log."""
        return [full_name(settings.handler) for settings in self._endpoints]

    @property
    def ssl(self) -> SSLContext | None:
        """The context of the first address with TLS, else None."""
        contexts = (settings.ssl for settings in self._endpoints)
        return next((one for one in contexts if one is not None), None)

    def set_ssl(self, context: SSLContext) -> None:
        """Take another context for each address with TLS, before `open`."""
        self._endpoints = [
            settings if settings.ssl is None else replace(settings, ssl=context)
            for settings in self._endpoints
        ]

    def open(self, mux: Mux) -> list[Listener]:
        """Listen on every address, or on none of them if one fails.

        The handler of the call, or else of the first endpoint, is service 0 of the
        mux. Errors of timers are reported as errors of service 0.

        Raises:
            OSError: the server cannot listen on an address; the error names the
                address.
        """
        engine = engine_of(mux)
        places = self.prepare(engine)
        listeners = listen_on_all(engine, places)
        handlers_of(engine).begin([0, *(number for _, number, _ in places)])
        return listeners

    def prepare(self, engine: Engine) -> list[Place]:
        """Return for each address what `listen_on_all` takes, and listen on none."""
        handlers: Handlers = handlers_of(engine)
        handlers.lead(self._first, self._on_error)
        places = []
        for settings in self._endpoints:
            number = handlers.number_for(settings.handler, self._on_error, keep=True)
            places.append((settings, number, handlers.half_open(number)))
        return places
