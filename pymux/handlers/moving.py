"""Connections that leave a mux for another one, of this process or of another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..engine import moving
from ..engine.services import ServiceState
from ..engine.state import DISPATCHING, IDLE
from ..objects.connection import Connection
from ..objects.status import (
    come_back,
    is_open,
    keep_names,
    mark_half_closed,
    mark_moved,
)
from ..values.detached import Detached
from ..values.framing import Framings
from .base import LATER, STAYS, Leaving

if TYPE_CHECKING:
    from ..engine.engine import Engine

__all__ = [
    "drop",
    "put_back",
    "put_in",
    "refusal_of",
    "take_out",
    "tell_lost",
    "tell_taken",
]


def _nowhere(listener: int) -> int | None:
    return -1


@contextlib.contextmanager
def _dispatching(engine: Engine, service: ServiceState) -> Iterator[None]:
    """Call a handler as if a batch of its service was dispatched."""
    before, serving = engine.state, engine.serving
    engine.state, engine.serving = DISPATCHING, service
    try:
        yield
    finally:
        engine.state = before
        if engine.c is not None:
            engine.serving = serving
        if engine.close_asked and before is IDLE:
            engine.close_now()


def take_out(
    engine: Engine,
    conn: Connection,
    endpoint_of: Callable[[int], int | None] = _nowhere,
    rules: Any = None,
) -> Detached | Leaving:
    """Take a connection out of its mux, between a dispatch and the next harvest.

    Args:
        endpoint_of: returns the number of the endpoint of a listener of the core's;
            None: the connection stays.
        rules: the connection's `pmx_policy`, if the caller has that.

    Returns:
        The connection, or why it did not leave.
    """
    if not is_open(conn) or engine.splits(conn.id) or conn.id in engine.causes:
        return STAYS
    error, held = moving.held(engine, conn.id)
    if error:
        return LATER if error == moving.LATER else STAYS
    endpoint = endpoint_of(int(held.listener))
    if endpoint is None:
        return STAYS
    if rules is None:
        rules = engine.policy_of(conn.id)
    service = engine.services[rules.service]
    form: Any = service.dispatcher
    state: Any = None
    if form is not None and form.asks:
        with _dispatching(engine, service):
            state = form.leaving(conn)
        if engine.c is None or not is_open(conn):
            return STAYS  # the handler has closed one or the other
        if engine.log.entries and not isinstance(state, Leaving):
            error, held = moving.held(engine, conn.id)
            if error:
                return LATER
    elif form is not None:
        state = form.leaving(conn)
    if state is STAYS or state is LATER:
        return state
    keep_names(conn)
    detached = moving.detach(engine, conn.id, held, endpoint, state)
    mark_moved(conn)
    engine.forget([conn])
    engine.release_service(service, 1)
    return detached


def refusal_of(engine: Engine, number: int, state: bytes | None) -> str | None:
    """Return why the handler of a service cannot take a connection; None if it can."""
    form: Any = engine.services[number].dispatcher
    why: str | None = None if form is None else form.refuses(state)
    return why


def put_in(
    engine: Engine,
    detached: Detached,
    listener: int,
    number: int,
    rules: Any = None,
    framings: Framings | None = None,
) -> Connection:
    """Make a connection of what was detached; its handler is not told yet.

    Args:
        listener: a listener of the core's, whose policy the connection has; or 0.
        number: of the service of that policy.
        rules: with listener 0 the `pmx_policy` of the connection.
        framings: with listener 0 those of `rules`.

    Raises:
        OSError: the core refuses it.
    """
    service = engine.services[number]
    state = detached.state
    service.dialled += 1
    try:
        id = moving.attach(engine, detached, listener, rules)
    except BaseException:
        engine.release_service(service, 1)
        raise
    if framings is not None:
        engine.note_policy(rules, framings)
    conn: Connection = engine.connection(id)
    if moving.was_shut(detached):
        mark_half_closed(conn)
    if service.dispatcher is None:
        conn.state = state
    return conn


def put_back(
    engine: Engine, detached: Detached, conn: Connection, listener: int, rules: Any
) -> None:
    """Make it the connection again that it was, with another id. Its handler is told
    by `taken`.

    Raises:
        OSError: the core refuses it.
    """
    service = engine.services[rules.service]
    service.dialled += 1
    try:
        id = moving.attach(engine, detached, listener, rules)
    except FileNotFoundError:  # the listener has closed meanwhile
        id = moving.attach(engine, detached, 0, rules)
    come_back(conn, id)
    if moving.was_shut(detached):
        mark_half_closed(conn)


def drop(engine: Engine, conn: Connection) -> None:
    """Take out a connection that has come, and that another process keeps."""
    error, held = moving.held(engine, conn.id)
    if error:
        conn.abort()
        return
    with moving.detach(engine, conn.id, held, -1, None):
        mark_moved(conn)
        engine.forget([conn])


def tell_taken(
    engine: Engine, number: int, conn: Connection, state: bytes | None
) -> None:
    """Call `taken` of the handler of a service, if it has that."""
    form: Any = engine.services[number].dispatcher
    if form is not None and form.asks and engine.c is not None:
        with _dispatching(engine, engine.services[number]):
            form.taken(conn, state)


def tell_lost(
    engine: Engine, service: ServiceState, conn: Connection, error: OSError
) -> None:
    """Report the end of a connection that has left and that no mux could take."""
    form: Any = service.dispatcher
    if form is not None:
        with _dispatching(engine, service):
            form.lost(conn, error)
