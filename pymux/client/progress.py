"""Limits of a client, and a wait for output to leave."""

from __future__ import annotations

import math
import select
import sys
from typing import TYPE_CHECKING

from ..values.errors import BackendUnavailable
from ..values.limits import Limits

if TYPE_CHECKING:
    from ..mux import Mux
    from ..objects.batch import Batch

__all__ = ["FIRST_NAP", "LAST_NAP", "LIMITS", "UNBOUNDED", "harvest_after_progress"]

# A client reads on while its own output waits, whatever waits there: a peer that
# echoes would otherwise stop reading too, and both would wait for ever.
UNBOUNDED = 1 << 62

# The same policy for every client: what is queued is bounded by its own calls, and
# `close` knows how long it may take.
LIMITS = Limits(high_water=UNBOUNDED, max_output=UNBOUNDED, close_timeout=None)

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
