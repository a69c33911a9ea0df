"""`pymux serve --metrics ADDRESS` in one process: a thread that answers Prometheus.

The thread asks no handler, so it answers while one is stuck, unless that holds the GIL.
With workers the supervisor answers.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict

from ..figures.exposition import CONTENT_TYPE, exposition
from ..figures.pages import own_file
from ..figures.reading import NoFigures, Reader
from ..server.server import Server
from ..workers.status import Status, http
from .words import Address, Failure, describe, explain

__all__ = ["metrics_at"]


@contextlib.contextmanager
def metrics_at(address: Address | None, server: Server) -> Iterator[None]:
    """Answer Prometheus at an address while the block runs; None: nothing is done.

    Raises:
        Failure: the address cannot be had.
    """
    if address is None:
        yield
        return

    def say(http_asked: bool) -> bytes:
        return http("200 OK", CONTENT_TYPE, _text(server))

    with selectors.DefaultSelector() as selector:
        try:
            status = Status(selector, [(address.value, say)])
        except OSError as error:
            raise Failure(describe(error, address)) from None
        except ValueError as error:
            raise Failure(explain(error, address)) from None
        ours, theirs = socket.socketpair()
        selector.register(theirs, selectors.EVENT_READ)
        thread = threading.Thread(
            target=_serve, args=(selector, status, theirs), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ours.close()
            thread.join()
            theirs.close()
            status.close()


def _text(server: Server) -> str:
    try:
        file = own_file()
        if file is not None:
            with Reader(file) as reader:
                return exposition(reader.read())
    except NoFigures:
        pass
    return exposition([{"worker": 0, **asdict(server.stats())}])


def _serve(
    selector: selectors.BaseSelector, status: Status, end: socket.socket
) -> None:
    """Answer until the other end of a socket closes."""
    while True:
        at = status.next_time
        span = None if at is None else max(at - time.monotonic(), 0)
        for key, events in selector.select(span):
            if key.fileobj is end:
                return
            if key.fileobj in selector.get_map():  # no other peer's turn has ended it
                key.data(events)
        status.tick()
