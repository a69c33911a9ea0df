"""The package's own locks, when the handler of a signal raises."""

import signal
import sys
import time

import pytest

from .alarms import needs_alarms, on_alarm
from .inside import RLock

SECONDS = 0.5  # of which the alarms leave a thousand rounds or more


class Interrupted(Exception):
    """What the handler raises."""


@pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="a handler may run between any two instructions here, `with` included",
)
@needs_alarms
def test_no_lock_stays_locked_behind_a_block_that_was_not_entered():
    lock = RLock()
    armed = False

    def handler(number, frame):
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    end = time.monotonic() + SECONDS
    with on_alarm(handler):
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        while time.monotonic() < end:
            with pytest.raises(Interrupted):
                armed = True
                while True:
                    with lock:
                        pass
            with pytest.raises(RuntimeError):
                lock.release()
