"""How a client leaves: its close waits until the peer has everything.

The kernel resets a connection that is closed while the peer still sends, and some
peers then forget what they have not read yet. So a close reads and drops input until
the peer has acknowledged all output, and for a short while after that.
"""

from __future__ import annotations

import errno
import math
import sys
from typing import TYPE_CHECKING

from ..engine import clock
from ..values.errors import ConnectionClosed
from .waiting import LAST_NAP, Waiting

if TYPE_CHECKING:
    from ..mux import Mux

__all__ = ["FIRST_NAP", "Closing"]

# No descriptor tells of an acknowledgement. So a close naps for so many seconds at
# first, and twice as long each time, up to LAST_NAP.
FIRST_NAP = 0.0005

# A peer that has acknowledged everything may still be at work for this client. Where
# the peer sends, or has not answered the last message, a close waits for the peer's
# end until the peer has been quiet for QUIET seconds. A peer that is never quiet gets
# LINGER seconds.
QUIET = 0.05
LINGER = 0.5


class Closing(Waiting):
    """The second layer of a client: its end."""

    def __init__(self, mux: Mux, timeout: float | None) -> None:
        super().__init__(mux, timeout)
        self._accepted = 0  # bytes that completed calls have sent
        self._heard = 0  # bytes that had been received when the last of them returned
        self._asked_by: float | None = None  # when the caller that has asked gives up
        self._closing = False  # a close has begun inside the client
        self._closed = False  # that close is over
        self._barred = False  # `_asked`, `_closing` or `_closed` is True
        self._lingered = False  # the peer has everything, or the rest is lost
        self._loss: OSError | None = None  # what close() raises for a lost rest

    def _refusal(self) -> ConnectionClosed:
        """The exception of a call on a closed client."""
        return ConnectionClosed(
            errno.EBADF, "the client is closed", connection=self._conn
        )

    def _heed(self) -> None:
        """Close and raise, if another thread or a signal's handler has asked for it."""
        if not self._asked:
            return
        closed = self._refusal()
        try:
            self._finish(self._asked_by, False)
        except OSError as error:
            closed.__cause__ = error
        raise closed

    def _finish(self, by: float | None, at_once: bool) -> None:
        """Close, inside the client. A call can repeat one that was interrupted."""
        self._closing = self._barred = True
        engine = self._engine
        if engine.c is not None:
            engine.lend()
            if not self._lingered and not self._lost and self._opened:
                self._loss = self._linger(by, at_once)
            self._lingered = True
            counts = engine.counts
            queued, discarded = counts.queued, counts.discarded
            engine.close()
            if queued and counts.discarded == discarded and not self._lost:
                self._loss = None  # the kernel has taken the rest after all
        self._closed = True
        if self._loss is not None:
            raise self._loss

    def _give_up(self) -> None:
        """Close at once: the client was not connected, or not returned."""
        self._closed = self._closing = self._barred = True
        self._error = self._noted = None  # the error's traceback holds this client
        self._engine.close()

    def _linger(self, by: float | None, at_once: bool) -> OSError | None:
        """End the stream; read and drop input until the peer has everything.

        Args:
            by: the time of the clock to stop at; None waits for ever.
            at_once: do not wait for a peer that is still at work.

        Returns:
            The exception for what the peer did not get; None if nothing is lost.
        """
        mux, engine, conn = self._mux, self._engine, self._open_conn()
        counts = engine.counts
        self._note()
        if not conn.closed:
            conn.close()
        span, nap, over = 0.0, FIRST_NAP, math.inf
        # When the peer was last at work. The last message may keep the peer busy.
        busy = -math.inf
        if self._accepted and counts.bytes_in == self._heard:
            busy = clock.now()
        while True:
            missing = self._missing(self._unacknowledged())
            heard = counts.bytes_in
            mux.harvest(span)
            self._note()
            if self._lost:
                if self._error is None or not missing:
                    return None
                return self._gone("closing")
            left = self._unacknowledged()
            now = clock.now()
            if counts.bytes_in != heard:
                busy = now
            if left is not None and left <= 1 and not engine.log.entries:
                # The 1 is the end of the stream, which kernels acknowledge late.
                if now - busy > QUIET or (at_once and not left):
                    return None
                over = min(over, now + LINGER)
                if now >= over and not left and sys.platform == "linux":
                    return None
            if by is not None and now >= by:
                missing = self._missing(left)
                comes = now - busy <= QUIET and not at_once
                if not missing or not (counts.queued or comes):
                    return None  # or the kernel goes on sending
                return TimeoutError(
                    errno.ETIMEDOUT,
                    f"{missing} bytes to {conn.peer!r} not acknowledged in time",
                )
            span = nap if by is None else min(nap, by - now)
            nap = min(2 * nap, LAST_NAP)
            engine.can_be_woken()

    def _unacknowledged(self) -> int | None:
        """Bytes that the peer's system does not have; None: the OS cannot tell."""
        return self._engine.unacknowledged(self._open_conn().id)

    def _missing(self, left: int | None) -> int:
        """How many bytes of completed calls the peer has not acknowledged.

        Args:
            left: what `_unacknowledged` returned.
        """
        counts = self._engine.counts
        queued = counts.queued
        if left is None:  # the peer may have all that has left
            left = queued
        elif left and not queued:
            left -= 1  # the end of the stream
        return max(0, self._accepted - int(counts.bytes_out + queued - left))
