"""The state of an engine, which decides what a call may do."""

from __future__ import annotations

import enum

__all__ = ["DISPATCHING", "IDLE", "IN_CORE", "TURNING", "TurnState"]


class TurnState(enum.Enum):
    """The state of an engine. `send` logs in each state.

    A signal handler may raise in any state: a received batch stays in the core until
    it has been returned (`Turns.received`).
    """

    IDLE = enum.auto()  # outside every harvest: `close` closes
    TURNING = enum.auto()  # in a harvest: `close` waits for its end
    IN_CORE = enum.auto()  # in the call into the core: `submit` does nothing
    DISPATCHING = enum.auto()  # in a handler or timer: `harvest` is refused


IDLE = TurnState.IDLE
TURNING = TurnState.TURNING
IN_CORE = TurnState.IN_CORE
DISPATCHING = TurnState.DISPATCHING
