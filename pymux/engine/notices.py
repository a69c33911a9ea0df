"""What pymux tells an operator: records of the logger `pymux`.

Every record has four attributes beside those of `logging`, so that a formatter, a
filter or a collector of logs can name them. docs/logging.md explains them.

event       level      what has happened
----------  ---------  -------------------------------------------------------------
listening   INFO       a server accepts connections at an address
retiring    INFO       a server accepts no further connections, and serves on
stopping    INFO       a server has begun to stop
stopped     INFO       a server has ended
died        CRITICAL   an exception has ended the thread of a server
closed      DEBUG      a connection has ended
figures     INFO       in which file other processes find a server's figures
handshake   DEBUG      a peer has not got through the TLS handshake
connect     WARNING    an outgoing connection could not be made
limit       WARNING    a limit or a framing's max_size has ended a connection, or
                       max_connections pauses accepting, or max_per_peer has
                       refused a connection
proxy       WARNING    a peer was refused by a listener with `proxy`
shortage    WARNING    accepting pauses for lack of descriptors or memory
broker      WARNING    the broker of a backplane is away, or has refused something
joined      INFO       a mux has joined the broker of a backplane
slow        WARNING    a handler took longer than `slow_handler`
moved       WARNING    output was refused for a connection that has moved to another
                       process, or a connection that could not move stays
raised      ERROR      a handler, or on_error, has raised
worker      INFO       a worker serves, or is replaced
worker_died ERROR      a worker has ended, or does not go on
worker_failed ERROR    a new worker could not start
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Hashable
from types import TracebackType
from typing import Any

from ..values.errors import FATAL
from . import clock
from .timers import Timers

__all__ = ["LEVELS", "Notices", "is_told", "only", "place_of", "tell", "users_part"]

LOGGER = logging.getLogger("pymux")
LEVELS = {
    "listening": logging.INFO,
    "retiring": logging.INFO,
    "stopping": logging.INFO,
    "stopped": logging.INFO,
    "died": logging.CRITICAL,
    "closed": logging.DEBUG,
    "figures": logging.INFO,
    "handshake": logging.DEBUG,
    "connect": logging.WARNING,
    "limit": logging.WARNING,
    "proxy": logging.WARNING,
    "shortage": logging.WARNING,
    "broker": logging.WARNING,
    "joined": logging.INFO,
    "slow": logging.WARNING,
    "moved": logging.WARNING,
    "raised": logging.ERROR,
    "worker": logging.INFO,
    "worker_died": logging.ERROR,
    "worker_failed": logging.ERROR,
}
EVERY = 10.0  # seconds between two lines of one kind
APART = 1.0  # seconds without an error, after which the next one is told whole
KINDS = 256  # kinds that are remembered; user's code may raise at any number of places
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_told(event: str) -> bool:
    """True if the logger takes records of an event."""
    return LOGGER.isEnabledFor(LEVELS[event])


def tell(
    event: str,
    text: str,
    *args: Any,
    peer: Any = None,
    local: Any = None,
    handler: Any = None,
    error: BaseException | None = None,
) -> None:
    """Log a record.

    An error of a logging handler must not end a connection or a server, so it goes
    to stderr, like an error of a finalizer.

    Args:
        event: a key of LEVELS.
        text: the message, with `args` for its `%s`.
        peer, local, handler: attributes of the record.
        error: logged with its traceback from the user's code on.
    """
    try:
        if not is_told(event):
            return
        about = {"event": event, "peer": peer, "local": local, "handler": handler}
        shown = None
        if error is not None:
            shown = (type(error), error, users_part(error.__traceback__))
        LOGGER.log(LEVELS[event], text, *args, exc_info=shown, extra=about)
    except FATAL:
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # there may be no stderr
            traceback.print_exc()


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame that is not pymux's on; all of it if
    every frame is pymux's."""
    part = trace
    while part is not None and part.tb_frame.f_code.co_filename.startswith(PACKAGE):
        part = part.tb_next
    return trace if part is None else part


def place_of(error: BaseException) -> str:
    """Name the user's function in which an error began: "fn (app.py, line 7)"."""
    part = users_part(error.__traceback__)
    if part is None:
        return "no code of Python"
    code = part.tb_frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name} ({os.path.basename(code.co_filename)}, line {part.tb_lineno})"


def only(values: list[Any]) -> Any:
    """Return the value if all are the same, None if there is none, or else the list."""
    if not values:
        return None
    return values[0] if all(one == values[0] for one in values) else list(values)


class _Kind:
    """Lines that say the same, and what was left out since the last one."""

    __slots__ = ("about", "event", "last", "left_out", "said", "since", "text")

    def __init__(self, event: str, text: str, about: dict[str, Any]) -> None:
        self.event = event
        self.text = text  # what happened, for the line that counts
        self.about = about
        self.said = self.last = -EVERY  # times: of the last line, and occurrence
        self.since = 0.0  # the time of the first one that was left out
        self.left_out = 0

    def tell_count(self) -> None:
        """Say how many were left out since the last line."""
        count, self.left_out = self.left_out, 0
        if count:
            span = max(round(clock.now() - self.since), 1)
            times = "once more" if count == 1 else f"{count} times more"
            tell(self.event, "%s %s in %d s", self.text, times, span, **self.about)


class Notices:
    """What an engine has told lately: the same is not told all the time.

    A line that is left out is counted, and the number told by a timer of the mux.
    """

    __slots__ = ("_kinds", "_timers")

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}
        self._timers: Timers | None = None  # those that have a timer for `flush`

    def is_due(
        self,
        timers: Timers | None,
        key: Hashable,
        event: str,
        text: str,
        *,
        apart: float | None = None,
        count: int = 1,
        local: Any = None,
        handler: Any = None,
    ) -> bool:
        """True if an event is to be told now; else it is counted.

        Args:
            timers: of the mux; a timer tells the number that was left out. None if
                the mux is closed.
            key: events with one key are one kind.
            event: a key of LEVELS.
            text: what has happened, for the line with the number.
            apart: seconds without an event of this kind after which one is told;
                None: seconds after the last line of this kind, EVERY of them.
            count: how many there are.
            local, handler: attributes of the record with the number.
        """
        now = clock.now()
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KINDS:
                self._kinds.pop(next(iter(self._kinds))).tell_count()
            about = {"local": local, "handler": handler}
            kind = self._kinds[key] = _Kind(event, text, about)
        before, kind.last = kind.last, now
        due = now - kind.said >= EVERY if apart is None else now - before >= apart
        if due:
            kind.tell_count()
            kind.said = now
            return True
        if not kind.left_out:
            kind.since = before
        kind.left_out += count
        if timers is not None and self._timers is not timers:  # none is set yet
            timers.add(EVERY, self.flush, ())
            self._timers = timers
        return False

    def counts(self, key: Hashable, count: int) -> bool:
        """Count events of a kind of which some are left out already. False: see
        `is_due`, which takes longer. Peers may bring such events about at any rate."""
        kind = self._kinds.get(key)
        if kind is None or not kind.left_out:
            return False
        now = clock.now()
        if now - kind.said >= EVERY:
            return False
        kind.last = now
        kind.left_out += count
        return True

    def flush(self) -> None:
        """Tell how many were left out, and forget the kinds."""
        self._timers = None
        now = clock.now()
        for key, kind in list(self._kinds.items()):
            kind.tell_count()
            if now - kind.last >= EVERY:
                del self._kinds[key]
