"""Servers that a test stops itself, and stops in other threads."""

import contextlib
import threading

import pymux

from . import inside
from .util import wait_until


def stop(server, drain_timeout):
    """Stop a server, and raise what `stop` raises; an AssertionError if it hangs."""
    raised = []

    def call():
        try:
            server.stop(drain_timeout)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "stop() does not return"
    if raised:
        raise raised[0]


@contextlib.contextmanager
def started(handler, backend, address=("127.0.0.1", 0), **options):
    """A started server, which the block has to stop."""
    server = pymux.Server(handler, address, backend=backend, **options)
    yield server.start()
    assert inside.has_ended(server)


@contextlib.contextmanager
def stopping(server, drain_timeout):
    """During the block a thread is in `server.stop`, and the server has begun to
    drain. The thread is given; at the end of the block it has to return."""
    thread = threading.Thread(target=server.stop, args=[drain_timeout], daemon=True)
    thread.start()
    wait_until(lambda: not server.stats().listeners)
    yield thread
    thread.join(10)
    assert not thread.is_alive(), "stop() does not return"
