"""The echo's round trip: pymux in a process of its own, and a select() loop."""

import socket

import pytest

from . import machine, runner
from .contenders import CONTENDERS

NAMES = ("select", "pymux-function", "pymux-coroutine", "pymux-batch")
MESSAGE = b"x" * 64


@pytest.mark.parametrize("conns", [1, 100])
@pytest.mark.parametrize("name", NAMES)
def test_round_trip(benchmark, name, conns):
    """One message on each connection, and its answer."""
    contender = next(c for c in CONTENDERS if c.name == name)
    if why := contender.missing():
        pytest.skip(why)
    machine.raise_descriptor_limit()
    with runner.server(contender.command("raw", ())) as (_, port, _):
        peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(conns)]

        def round_trip():
            for peer in peers:
                peer.sendall(MESSAGE)
            return [peer.recv(len(MESSAGE), socket.MSG_WAITALL) for peer in peers]

        answers = benchmark(round_trip)
        for peer in peers:
            peer.close()
    assert answers == [MESSAGE.upper()] * conns
