"""The address of this machine that a connection comes from."""

import asyncio
import errno
import sys

import pytest

import pymux

from . import util
from .hosts import know, needs_ipv6
from .util import harvest_until

HERE = ("127.0.0.1", 0)


def coming_from(address, source):
    return pymux.Endpoint(address, source_address=source)


@pytest.fixture
def source():
    """A port that is free, and a host that is not the one the system would choose."""
    host = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
    return host, util.free_port()


def test_a_connection_comes_from_its_source(mux, source):
    listener = mux.listen(HERE)
    conn = mux.connect(coming_from(listener.address, source))
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 2)
    assert conn.local == source
    assert {one.peer for one in acc.opened} == {listener.address, source}


def test_the_system_chooses_the_port_where_none_is_given(mux, source):
    listener = mux.listen(HERE)
    conns = [
        mux.connect(coming_from(listener.address, (source[0], 0))) for _ in range(3)
    ]
    harvest_until(mux, lambda acc: len(acc.opened) == 6)
    assert {conn.local[0] for conn in conns} == {source[0]}
    assert len({conn.local[1] for conn in conns}) == 3


class Tells:
    def opened(self, conn):
        conn.send(repr(conn.peer).encode())
        conn.close()

    def received(self, conn, data):
        pass


@pytest.fixture
def teller():
    """A server that tells each peer the peer's address."""
    with util.serving(Tells(), None) as server:
        yield server


@pytest.mark.usefixtures("client_backend")
def test_a_client_comes_from_its_source(teller, source):
    with pymux.connect(coming_from(teller.address, source), timeout=30) as client:
        assert client.recv() == repr(source).encode()


def test_a_coroutine_comes_from_its_source(teller, source, backend):
    async def handler(conn):
        upstream = await pymux.dial(coming_from(teller.address, source))
        conn.send(await upstream.recv())

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == repr(source).encode()


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_task_comes_from_its_source(teller, source):
    async def main():
        async with await pymux.aio.connect(coming_from(teller.address, source)) as conn:
            return await conn.recv()

    assert asyncio.run(main()) == repr(source).encode()


def test_what_is_not_of_this_machine_fails(mux):
    conn = mux.connect(coming_from(("127.0.0.1", 1), ("192.0.2.1", 0)))
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.EADDRNOTAVAIL


@needs_ipv6
def test_of_a_name_the_addresses_of_the_same_family_are_tried(mux, monkeypatch):
    listener = mux.listen(("::1", 0))
    name = know(monkeypatch, "a-name", "127.0.0.1", "::1")
    conn = mux.connect(coming_from((name, listener.address[1]), ("::1", 0)))
    harvest_until(mux, lambda acc: conn in acc.opened)
    assert conn.local[0] == conn.peer[0] == "::1"


def test_another_family_is_refused(mux):
    with pytest.raises(OSError, match=r"127.0.0.1:1 has the family of source_address"):
        mux.connect(coming_from(("127.0.0.1", 1), ("::1", 0)))


@pytest.mark.parametrize(
    "source, error, said",
    [
        ("127.0.0.1", TypeError, "'127.0.0.1'; \\(host, port\\) or None is needed"),
        (("a-name", 0), ValueError, "'a-name', 0\\); a numeric host"),
        (("localhost", 0), ValueError, "'localhost', 0\\); a numeric host"),
        (("127.0.0.1", 65536), ValueError, "65536"),
    ],
)
def test_what_can_be_no_source_is_refused(source, error, said):
    with pytest.raises(error, match=said):
        coming_from(("127.0.0.1", 1), source)


def test_a_call_that_listens_takes_no_source(mux):
    with pytest.raises(ValueError, match=r"source_address is .* listens"):
        mux.listen(coming_from(HERE, ("127.0.0.1", 0)))


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
def test_a_unix_socket_has_no_source(mux):
    with pytest.raises(ValueError, match=r"source_address is .* Unix socket"):
        mux.connect(coming_from("/tmp/nowhere", ("127.0.0.1", 0)))
