"""Where an engine stands: one state says what a call may do now."""

from __future__ import annotations

import enum

__all__ = ["DISPATCHING", "IDLE", "IN_CORE", "TURNING", "TurnState"]


class TurnState(enum.Enum):
    """What an engine is at. `send` logs in each state.

    A batch that was received stays in the core until it has been returned
    (`Turns.received`); so a signal handler may raise in any state.
    """

    IDLE = enum.auto()  # outside every harvest: `close` closes
    TURNING = enum.auto()  # in a harvest: `close` waits for its end
    IN_CORE = enum.auto()  # in the call into the core: `submit` leaves the log to it
    DISPATCHING = enum.auto()  # in a handler or timer: `harvest` is refused


IDLE = TurnState.IDLE
TURNING = TurnState.TURNING
IN_CORE = TurnState.IN_CORE
DISPATCHING = TurnState.DISPATCHING
