"""`retire`: nobody new is accepted, and whoever is connected is served on."""

import contextlib
import errno
import socket

import pytest

import pymux

from . import util
from .serving import upper
from .util import harvest_until

LOCAL = ("127.0.0.1", 0)


def is_refused(address):
    """Whether nothing listens at an address any more."""
    try:
        util.connect(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def test_a_server_that_retires_serves_on(backend, place):
    with (
        util.serving(upper, backend, place) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"one")
        assert util.recv_exactly(sock, 3) == b"ONE"
        server.retire()
        util.wait_until(lambda: not server.stats().listeners)
        assert is_refused(server.address)
        server.retire()  # twice is once
        sock.sendall(b"two")
        assert util.recv_exactly(sock, 3) == b"TWO"


def test_who_waits_is_accepted_over_max_connections(backend, place):
    limits = pymux.Limits(max_connections=1)
    with (
        util.serving(upper, backend, place, limits=limits) as server,
        util.connect(server.address) as first,
        util.connect(server.address) as waiting,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        server.retire()
        for sock in first, waiting:
            sock.sendall(b"one")
            assert util.recv_exactly(sock, 3) == b"ONE"


def test_a_given_socket_keeps_its_backlog(mux):
    with util.listening() as given:
        listener = mux.listen(given)
        with util.connect(listener.address) as peer:
            mux.retire()
            assert not mux.stats().listeners
            util.assert_nothing(mux)
            with given.accept()[0] as ours:
                assert ours.getpeername() == peer.getsockname()


def test_a_handler_may_retire_its_server(backend):
    def handler(conn, data):
        server.retire()
        return data

    server = pymux.Server(handler, LOCAL, backend=backend)
    with server, util.connect(server.address) as sock:
        sock.sendall(b"one")
        assert util.recv_exactly(sock, 3) == b"one"
        util.wait_until(lambda: not server.stats().listeners)
        sock.sendall(b"two")
        assert util.recv_exactly(sock, 3) == b"two"


def test_a_server_that_was_not_started_cannot_retire():
    server = pymux.Server(upper, LOCAL)
    with pytest.raises(RuntimeError, match="not started"):
        server.retire()


def test_a_server_that_has_ended_has_retired():
    server = pymux.Server(upper, LOCAL)
    with server:
        pass
    server.retire()


def test_a_mux_that_retires_accepts_who_waits_and_may_listen_again(mux):
    listener = mux.listen(LOCAL)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(util.connect(listener.address))
        mux.retire()
        acc = harvest_until(
            mux, lambda acc: len(acc.opened) == 3 and not mux.stats().listeners
        )
        assert listener.fileno() == -1
        listener.close()
        again = mux.listen(LOCAL)
        with util.connect(again.address):
            harvest_until(mux, lambda acc: len(acc.opened) == 4, into=acc)


def test_a_closed_mux_cannot_retire(mux):
    mux.close()
    with pytest.raises(RuntimeError):
        mux.retire()


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_an_asyncio_server_retires(loop):
    async def main():
        async with pymux.aio.serve(upper, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            conn.send(b"one")
            assert await conn.recv() == b"ONE"
            server.retire()
            with pytest.raises(ConnectionRefusedError):
                while True:
                    (await pymux.aio.connect(server.address)).close()
            conn.send(b"two")
            assert await conn.recv() == b"TWO"
            conn.close()

    loop.run(main())


def test_another_process_goes_on_at_a_shared_socket(backend):
    with util.listening() as given:
        with (
            util.serving(upper, backend, given) as old,
            util.serving(lambda conn, data: b"new", backend, given) as new,
        ):
            old.retire()
            util.wait_until(lambda: not old.stats().listeners)
            for _ in range(5):
                assert util.exchange(given.getsockname(), b"x", 3) == b"new"
            assert old.stats().accepted == 0 or new.stats().accepted >= 5
        assert given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_a_closed_listener_is_no_error_for_the_operator(backend):
    with util.serving(upper, backend) as server:
        server.retire()
        util.wait_until(lambda: not server.stats().listeners)
    with pytest.raises(OSError) as caught:
        util.connect(server.address)
    assert caught.value.errno == errno.ECONNREFUSED
