""" "localhost" is both 127.0.0.1 and ::1, to listen on and to connect to."""

import asyncio
import errno
import socket

import pytest

import pymux

from . import inside, util
from .hosts import needs_ipv6
from .util import connect, harvest_until

LOCALHOST = ("localhost", 0)


def upper(conn, data):
    return data.upper()


def both(port):
    return ("127.0.0.1", port), ("::1", port)


@needs_ipv6
def test_a_listener_listens_on_both(mux):
    listener = mux.listen(LOCALHOST)
    assert listener.address[0] == "127.0.0.1"
    assert listener.addresses == list(both(listener.address[1]))
    peers = [connect(address) for address in both(listener.address[1])]
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 2)
    assert {conn.local for conn in acc.opened} == set(both(listener.address[1]))
    for peer in peers:
        peer.close()


@needs_ipv6
@pytest.mark.parametrize("name", ["LocalHost", "localhost."])
def test_a_server_serves_both(name, backend):
    with util.serving(upper, backend, (name, 0)) as server:
        for address in both(server.address[1]):
            assert util.exchange(address, b"hello", 5) == b"HELLO"
        assert server.addresses == [server.address]


@needs_ipv6
@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_loop_serves_both():
    async def main():
        async with await pymux.aio.serve(upper, LOCALHOST) as server:
            for address in both(server.address[1]):
                async with await pymux.aio.connect(address) as conn:
                    conn.send(b"hello")
                    assert await conn.recv() == b"HELLO"

    asyncio.run(main())


@needs_ipv6
def test_both_have_the_places_of_one_listener(mux):
    limits = pymux.Limits(max_connections=1)
    listener = mux.listen(LOCALHOST, limits=limits)
    ours, theirs = both(listener.address[1])
    with connect(ours), connect(theirs):
        harvest_until(mux, lambda acc: acc.opened)
        mux.harvest(0)
        mux.harvest(0)
        assert mux.stats().connections == 1


@needs_ipv6
def test_close_ends_both(mux):
    listener = mux.listen(LOCALHOST)
    listener.close()
    assert mux.stats().listeners == 0
    for address in both(listener.address[1]):
        with pytest.raises(ConnectionRefusedError):
            connect(address)


@needs_ipv6
def test_a_port_that_one_of_both_has_in_use_is_refused(mux):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="localhost") as caught:
            mux.listen(("localhost", port))
    assert caught.value.errno == errno.EADDRINUSE
    assert mux.stats().listeners == 0


@needs_ipv6
def test_another_port_is_chosen_if_one_of_both_has_it_in_use(mux, monkeypatch):
    inside.fail_beside(monkeypatch, [errno.EADDRINUSE, errno.EADDRINUSE])
    listener = mux.listen(LOCALHOST)
    assert mux.stats().listeners == 2
    for address in both(listener.address[1]):
        connect(address).close()


def test_a_machine_without_ipv6_listens_on_the_other(mux, monkeypatch):
    inside.fail_beside(monkeypatch, [errno.EADDRNOTAVAIL])
    listener = mux.listen(LOCALHOST)
    assert mux.stats().listeners == 1
    assert listener.addresses == [listener.address]
    connect(listener.address).close()


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_connect_finds_the_one_that_listens(mux, host, monkeypatch):
    listener = mux.listen((host, 0))
    monkeypatch.setattr(socket, "getaddrinfo", None)  # no resolver is asked
    conn = mux.connect(("localhost", listener.address[1]))
    harvest_until(mux, lambda acc: conn in acc.opened)
    assert conn.peer == listener.address


def test_of_two_that_refuse_the_error_of_ipv4_is_told(mux):
    conn = mux.connect(("localhost", util.free_port()))
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.errno(conn) == errno.ECONNREFUSED
    assert conn.peer[0] == "127.0.0.1"
