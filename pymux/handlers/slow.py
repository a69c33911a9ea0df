"""Measure how long a handler takes, where the server has `slow_handler`.

The dispatcher of a server with `slow_handler` is of a class made here, which measures
each dispatch of a batch. Other dispatchers measure nothing, and cost nothing. Calls of
timers and the like are measured by `Turns.run_call`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine import clock
from ..engine.notices import tell
from ..objects.batch import Batch
from ..objects.rows import row_count
from ..objects.status import names_for_log
from .base import Dispatcher

__all__ = ["measured"]


class Measured(Dispatcher):
    """The part that measures, in front of the dispatcher of a form."""

    inside: bool = False  # a dispatch is being measured

    def messages(self, batch: Batch) -> None:
        """Dispatch the messages of a batch that has nothing else."""
        if self.inside:  # `__call__` measures
            super().messages(batch)
        else:
            self.measure(batch, super().messages)

    def __call__(self, batch: Batch) -> None:
        """Dispatch a batch with news."""
        self.measure(batch, super().__call__)

    def measure(self, batch: Batch, dispatch: Callable[[Batch], Any]) -> None:
        """Dispatch, and warn if that took longer than the engine's `slow_after`."""
        began = clock.now()
        self.inside = True
        try:
            dispatch(batch)
        finally:
            self.inside = False
            took = clock.now() - began
            most = self.engine.slow_after
            if most is not None and took > most:
                self.warn(batch, took)

    def warn(self, batch: Batch, took: float) -> None:
        """Warn of a slow dispatch, unless this handler was warned of lately."""
        conns: set[Any] = set()
        if self.engine.c is not None:  # else the handler has closed the mux
            conns = {*batch.conns, *batch.opened, *(conn for conn, _ in batch.closed)}
        only = conns.pop() if len(conns) == 1 else None
        peer, local = names_for_log(only)
        about = {"local": local, "handler": self.name}
        text = f"the handler {self.name} was slow"
        if self.engine.may_tell(("slow", id(self)), "slow", text, **about):
            tell(
                "slow",
                "the handler %s took %.3f s for a batch of %d messages, and nobody "
                "was served meanwhile (slow_handler is %g s)",
                self.name,
                took,
                row_count(batch),
                self.engine.slow_after,
                peer=peer,
                **about,
            )


_MADE: dict[type[Dispatcher], type[Measured]] = {}


def measured(form: type[Dispatcher]) -> type[Measured]:
    """Return the class of a dispatcher that measures the handlers of a form."""
    kind = _MADE.get(form)
    if kind is None:
        kind = _MADE[form] = type(f"Measured{form.__name__}", (Measured, form), {})
    return kind
