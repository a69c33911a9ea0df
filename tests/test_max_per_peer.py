"""`max_per_peer`: how many connections one peer address may have."""

import asyncio
import socket

import pytest

import pymux

from . import util

LINES = pymux.Lines()
TWO = pymux.Limits(max_per_peer=2)

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def echo(conn, data):
    return data


def is_served(sock):
    sock.sendall(b"hello\n")
    return util.recv_exactly(sock, 6) == b"hello\n"


def from_other_address(address):
    """Connect from 127.0.0.2, where this machine has that address."""
    try:
        return socket.create_connection(
            address, timeout=10, source_address=("127.0.0.2", 0)
        )
    except OSError:
        pytest.skip("127.0.0.2 is no address of this machine")


def turned_away(server):
    """Connect once too often; how the stream ends."""
    before = server.stats().refused_per_peer
    with util.connect(server.address) as sock:
        assert util.recv_all(sock) == b""
    util.wait_until(lambda: server.stats().refused_per_peer == before + 1)


def the_third_is_turned_away(server):
    with util.connect(server.address) as one, util.connect(server.address) as two:
        assert is_served(one)
        assert is_served(two)
        turned_away(server)
        turned_away(server)
        assert is_served(one)
        two.shutdown(socket.SHUT_WR)
        assert util.recv_all(two) == b""
        with util.connect(server.address) as other:  # in its place
            assert is_served(other)
            turned_away(server)
    stats = server.stats()
    assert stats.accepted == 3
    assert (stats.refused, stats.accept_pauses) == (0, 0)


@pytest.mark.parametrize("form", util.FORMS)
def test_a_connection_too_many_is_closed_at_once(backend, form):
    handler = util.in_form(form, bytes.lower)
    with util.serving(handler, backend, framing=LINES, limits=TWO) as server:
        the_third_is_turned_away(server)


@guests
def test_a_connection_too_many_is_closed_in_a_loop_too(loop):
    async def main():
        async with pymux.aio.serve(
            echo, ("127.0.0.1", 0), framing=LINES, limits=TWO
        ) as server:
            await asyncio.to_thread(the_third_is_turned_away, server)

    loop.run(main())


def test_other_addresses_have_places_of_their_own(backend):
    with (
        util.serving(echo, backend, framing=LINES, limits=TWO) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
    ):
        assert is_served(one)
        assert is_served(two)
        with from_other_address(server.address) as other:
            assert is_served(other)
        turned_away(server)


def test_a_peer_of_ipv4_is_the_same_on_a_dual_stack_listener(backend):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual-stack listeners here")
    limits = pymux.Limits(max_per_peer=1)
    with util.serving(echo, backend, ("::", 0), framing=LINES, limits=limits) as server:
        port = server.address[1]
        with util.connect(("127.0.0.1", port)) as one:
            assert is_served(one)
            with from_other_address(("127.0.0.1", port)) as other:
                assert is_served(other)
            with util.connect(("127.0.0.1", port)) as over:
                assert util.recv_all(over) == b""
            with util.connect(("::1", port)) as sixth:
                assert is_served(sixth)
                with util.connect(("::1", port)) as over:
                    assert util.recv_all(over) == b""


def test_each_listener_counts_for_itself(backend):
    one_each = pymux.Limits(max_per_peer=1)
    with util.serving(
        echo,
        backend,
        [("127.0.0.1", 0), ("127.0.0.1", 0)],
        framing=LINES,
        limits=one_each,
    ) as server:
        first, second = server.addresses
        with util.connect(first) as one, util.connect(second) as two:
            assert is_served(one)
            assert is_served(two)
        util.wait_until(lambda: server.stats().closed == 2)
    assert server.stats().refused_per_peer == 0


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_peers_on_unix_sockets_are_not_counted(backend, tmp_path):
    with (
        util.serving(
            echo, backend, tmp_path / "s", framing=LINES, limits=TWO
        ) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
        util.connect(server.address) as three,
    ):
        assert is_served(one)
        assert is_served(two)
        assert is_served(three)


def test_a_limit_of_none_at_all_is_refused():
    with pytest.raises(ValueError, match="max_per_peer is 0"):
        pymux.Limits(max_per_peer=0)
