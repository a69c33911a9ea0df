"""What a server tells an operator of its own life."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine.notices import only, tell
from ..engine.owner import FORKED
from ..values.addresses import format_address
from ..values.stats import totals

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from .base import Plan

__all__ = [
    "retiring_of",
    "stopping_of",
    "tell_death",
    "tell_listening",
    "tell_stopped",
]


def tell_listening(plan: Plan) -> None:
    """Say at each address that the server accepts connections there."""
    engine = plan.engine
    assert engine is not None
    for address, handler in plan.bound:
        text = "listening on %s (%s) for the handler %s"
        where = format_address(address)
        about = {"local": address, "handler": handler}
        tell("listening", text, where, engine.name, handler, **about)


def stopping_of(plan: Plan) -> Callable[[Engine, float], None]:
    """Return a function that says that a server has begun to stop.

    The function is called with the engine, and the seconds that connections have to
    finish. It does not refer to the plan, which refers to it.
    """
    text = "the server at %s stops: %d connections have %.3g s to finish"
    where, attributes = places(plan), about(plan)

    def tell_stopping(engine: Engine, seconds: float) -> None:
        count = engine.counts.connections
        tell("stopping", text, where, count, seconds, **attributes)

    return tell_stopping


def retiring_of(plan: Plan) -> Callable[[Engine, float | None], None]:
    """Return a function that says that a server accepts nobody more.

    The function is called with the engine, and the seconds in which connections end
    one by one, or None: they are served on. It does not refer to the plan.
    """
    text = "the server at %s accepts nobody more: %d connections %s"
    where, attributes = places(plan), about(plan)

    def tell_retiring(engine: Engine, seconds: float | None) -> None:
        count = engine.counts.connections
        rest = "are served on"
        if seconds is not None:
            rest = f"end one by one within {seconds:.3g} s"
        tell("retiring", text, where, count, rest, **attributes)

    return tell_retiring


def tell_stopped(plan: Plan, cause: BaseException | None) -> None:
    """Say how a server has ended, with its figures. Nothing in a forked child; and of
    a part of a server, only what is wrong."""
    engine = plan.engine
    if engine is None or engine.thread == FORKED:
        return
    engine.notices.flush()
    if plan.is_part and cause is None:
        return
    how = "" if cause is None else f" by {cause!r}"
    figures = totals(engine.stats())
    text = "the server at %s has stopped%s: %s"
    tell("stopped", text, places(plan), how, figures, **about(plan))


def tell_death(plan: Plan, error: BaseException) -> None:
    """Say that an exception has ended the thread of a server."""
    text = "the server at %s has ended by an exception"
    tell("died", text, plan, error=error, **about(plan))


def places(plan: Plan) -> str:
    """Name the addresses of a server."""
    return ", ".join(format_address(address) for address in plan.addresses)


def about(plan: Plan) -> dict[str, Any]:
    """Return the attributes of a record of a whole server."""
    return {"local": only(plan.addresses), "handler": only(plan.handler_names)}
