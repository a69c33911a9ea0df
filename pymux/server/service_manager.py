"""A server that is a service of systemd's, without workers, tells how it is.

It says when it accepts connections, that it stops, and, where the unit has
``WatchdogSec=``, that its thread still goes round. A worker says nothing: that is the
supervisor's part.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..engine.engine import Engine
from ..systemd import notify, watchdog_period
from .notices import places

if TYPE_CHECKING:
    from .base import Plan

__all__ = ["tell_manager"]


def tell_manager(plan: Plan) -> None:
    """Tell the service manager, if there is one, of a server that is bound."""
    engine = plan.engine
    assert engine is not None
    where = places(plan)
    # behind `started` of the handlers
    engine.call_threadsafe(notify, "READY=1", f"STATUS=serving at {where}")
    plan.drain.on_stop = partial(
        notify, "STOPPING=1", f"STATUS=finishing the connections at {where}"
    )
    period = watchdog_period()
    if period is not None:
        engine.call_threadsafe(_pat, engine, period)


def _pat(engine: Engine, period: float) -> None:
    """Say that the thread goes round, now and again after the period."""
    notify("WATCHDOG=1")
    if engine.c is not None:
        engine.call_later(period, _pat, engine, period)
