"""Real signals in tests, and their handlers for a block."""

import contextlib
import signal

import pytest

needs_alarms = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="no interval timers here"
)


@contextlib.contextmanager
def on_signal(number, handler):
    """Install a signal's handler; pending alarms end with the block."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, before)


def on_alarm(handler):
    """The same for SIGALRM, which `signal.setitimer` sends."""
    return on_signal(signal.SIGALRM, handler)
