"""A worker's gift: it moves its connections to its heir, a worker of any slot."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from ..engine.notices import tell
from ..values.posix import sockets
from .process import Process

__all__ = ["begin_gift", "giver_to", "tell_gift"]


def begin_gift(old: Process, new: Process, patience: float) -> None:
    """Let a worker accept nothing more, and give its connections to another.

    Args:
        patience: seconds in which those are asked again that cannot leave now.
    """
    ours, theirs = socket.socketpair(sockets.AF_UNIX, socket.SOCK_STREAM)
    new.send("take", socks=[ours], close=True)
    old.gifts += 1
    old.send("give", patience, old.gifts, socks=[theirs], close=True)
    old.heir, old.gives_since = new, time.monotonic()


def giver_to(heir: Process | None, processes: Iterable[Process]) -> Process | None:
    """Return a worker that gives to this one. Until then the heir must not end: what
    it has not taken yet has nowhere else to go."""
    for one in processes:
        if one.heir is not None and one.heir is heir and not one.leaving:
            return one
    return None


def tell_gift(process: Process) -> bool:
    """Log how a gift has ended; True if it has ended well."""
    assert process.gave is not None
    moved, remain, error = process.gave
    if error is not None:
        text = "%s gave %d of its connections: %s; %d stay"
        tell("worker_failed", text, process, moved, error, remain)
        return False
    rest = f"; {remain} stay until they end" if remain else ""
    tell("worker", "%s gave %d connections to %s%s", process, moved, process.heir, rest)
    return True
