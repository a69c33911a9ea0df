"""A mux that weighs little more than its one socket.

It polls a table of its own, which takes no descriptor, and has no wakeup until
somebody asks whether it can be woken. Its memory grows with what it receives.
"""

from __future__ import annotations

import math
import select
import sys
from typing import TYPE_CHECKING, Any

from .._core import lib
from ..engine.arena import Arenas
from ..engine.backends import choose
from ..mux import Mux
from ..values.errors import BackendUnavailable
from ..values.framing import Limits

if TYPE_CHECKING:
    from ..objects.batch import Batch

# A client reads on while its own output waits, whatever waits there: a peer that
# echoes would otherwise stop reading too, and both would wait for ever.
UNBOUNDED = 1 << 62

# The same policy for every client: what is queued is bounded by its own calls, and
# `close` knows how long it may take.
LIMITS = Limits(high_water=UNBOUNDED, max_output=UNBOUNDED, close_timeout=None)

# What one harvest takes in: at first, and once that was not enough.
FIRST_ARENA = 8192
ARENA = 65536
ROWS = 128

# Waits where no descriptor tells of what is waited for: doubled up to the last.
FIRST_NAP = 0.0005
LAST_NAP = 0.02


def harvest_after_progress(mux: Mux, timeout: float | None, nap: float) -> Batch:
    """Wait until output was taken or something came, and harvest.

    `harvest` waits for what it can report, and output that went to the kernel is
    nothing to report. The descriptor of a poller tells of both; for pollers without
    one this waits inside the harvest, for `nap` seconds at most.

    Args:
        mux: harvested with nothing to report just before.
        timeout: seconds to wait at most, None for ever.
        nap: seconds, see above.

    Returns:
        The batch, which may be empty.
    """
    waits = [t for t in (timeout, mux.next_timeout()) if t is not None]
    if sys.platform == "win32":  # no poller there has a descriptor
        return mux.harvest(min([nap, *waits]))
    try:
        descriptor = mux.fileno()
    except BackendUnavailable:
        return mux.harvest(min([nap, *waits]))
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(math.ceil(min(waits) * 1000) if waits else None)
    return mux.harvest(0)


class SmallMux(Mux):
    """A mux for one connection, which it dials."""

    _grown = False

    def __init__(self) -> None:
        super().__init__(_backend(), arena_size=ARENA, max_messages=ROWS)

    def _open(self, name: Any, max_messages: int, arena_size: int, spin_ns: int) -> int:
        return int(lib.pmx_open_small(self._place, name, max_messages, arena_size))

    def _new_arenas(self, arena_size: int, max_messages: int) -> Arenas:
        return Arenas(FIRST_ARENA, max_messages)

    def _is_used(self) -> bool:
        return False  # its client tells

    def grow(self) -> None:
        """Take in more with a harvest, if this one has nearly filled its arena."""
        if not self._grown and self._arena.c.size > FIRST_ARENA // 2:
            self._arenas = Arenas(ARENA, ROWS)
            self._stale = self._grown = True

    def can_be_woken(self) -> bool:
        """Whether another thread, or a signal, can end a wait; asked before one."""
        if self._wakeup_fd >= 0:
            return True
        with self._lock:
            if lib.pmx_wakeup_open(self._c):
                return False  # no descriptor is left, say
            self._wakeup_fd = lib.pmx_wakeup_fd(self._c)
        return True


def _backend() -> str | None:
    """The poller for one socket: one that takes no descriptor of its own."""
    name = choose(None)
    best = b"epoll" if sys.platform == "linux" else b"kqueue"
    if sys.platform != "win32" and name in (None, best):
        return "poll"
    return name.decode() if name else None
