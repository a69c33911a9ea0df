"""Names with several addresses: one that does not answer holds up no other."""

import asyncio
import contextlib
import socket
import sys

import pytest

import pymux

from . import util
from .hosts import know, needs_ipv6, results
from .util import harvest_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")


@pytest.fixture
def place(monkeypatch):
    """A port whose first address drops what comes, and whose second one listens."""
    port = util.free_port()
    with contextlib.ExitStack() as socks:
        hole = socket.create_server(("127.0.0.2", port), backlog=0)
        socks.enter_context(hole)
        for _ in range(6):  # from now on the kernel drops what comes
            sock = socks.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(hole.getsockname())
        socks.enter_context(socket.create_server(("127.0.0.1", port)))
        yield know(monkeypatch, "service.example", "127.0.0.2", "127.0.0.1"), port


# Without a second attempt a connect would take two minutes; a test may take one.


def test_a_mux_connects_to_the_address_that_answers(mux, place):
    conn = mux.connect(place)
    harvest_until(mux, lambda acc: conn in acc.opened)
    assert conn.peer == ("127.0.0.1", place[1])


@pytest.mark.usefixtures("client_backend")
def test_a_client_connects_to_the_address_that_answers(place):
    with pymux.connect(place, timeout=30) as client:
        assert client.peer == ("127.0.0.1", place[1])


def test_a_coroutine_connects_to_the_address_that_answers(place, backend):
    peers = []

    async def handler(conn):
        peers.append((await pymux.dial(place)).peer)

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
    assert peers == [("127.0.0.1", place[1])]


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_task_connects_to_the_address_that_answers(place):
    async def main():
        async with await pymux.aio.connect(place) as conn:
            return conn.peer

    assert asyncio.run(main()) == ("127.0.0.1", place[1])


@needs_ipv6
def test_the_families_take_turns(mux, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", results("127.0.0.2", "127.0.0.3", "::1"))
    conn = mux.connect(("a-name", util.free_port()))
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert conn.peer[0] == "127.0.0.3"  # the last that was tried
