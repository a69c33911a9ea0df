"""`Limits(keepalive=...)`: what becomes of it in the kernel. What it is for is in
test_network.py."""

import contextlib
import os
import socket
import stat

import pytest

import pymux

from . import util
from .loops import until

LIMITS = pymux.Limits(keepalive=(60, 10, 5))
IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
FIGURES = {
    IDLE: 60,
    getattr(socket, "TCP_KEEPINTVL", None): 10,
    getattr(socket, "TCP_KEEPCNT", None): 5,
    # a little less: half an interval, or an eighth of it all if that is less
    getattr(socket, "TCP_USER_TIMEOUT", None): (60 + 10 * 5) * 1000 - 5000,
}

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="finds sockets in /proc"
)


@contextlib.contextmanager
def socket_of(conn):
    """A socket object for the descriptor of a connection of this process."""
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
            continue
        blocking = os.get_blocking(int(name))
        with socket.socket(fileno=os.dup(int(name))) as sock:
            os.set_blocking(int(name), blocking)  # PyPy has just made it blocking
            names = sock.getsockname(), None
            with contextlib.suppress(OSError):
                names = sock.getsockname(), sock.getpeername()
            if names == (conn.local, conn.peer):
                yield sock
                return
    raise AssertionError(f"no descriptor of {conn!r}")


def options(conn):
    """{option: value} of a connection, and whether it is kept alive at all."""
    with socket_of(conn) as sock:
        found = {
            option: sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in FIGURES
            if option is not None
        }
        on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return found, bool(on)


WANTED = {option: value for option, value in FIGURES.items() if option is not None}


def test_an_accepted_connection_has_the_three_figures(mux):
    conn, peer = util.pair(mux, limits=LIMITS)
    with peer:
        assert options(conn) == (WANTED, True)


def test_an_outgoing_connection_has_the_three_figures(mux):
    conn, peer = util.outgoing(mux, limits=LIMITS)
    with peer:
        assert options(conn) == (WANTED, True)


def test_without_limits_nothing_is_asked(mux):
    conn, peer = util.pair(mux)
    with peer:
        assert options(conn)[1] is False


def test_a_unix_socket_takes_them_and_needs_none(mux, tmp_path):
    listener = mux.listen(tmp_path / "s", limits=LIMITS)
    made = mux.connect(tmp_path / "s", limits=LIMITS)
    made.send(b"hello")
    acc = util.harvest_until(mux, lambda acc: acc.payloads == [b"hello"])
    assert not acc.closed
    listener.close()


def test_connections_with_other_figures_do_not_share_them(mux):
    one, first = util.outgoing(mux, limits=LIMITS)
    two, second = util.outgoing(mux, limits=pymux.Limits(keepalive=(61, 10, 5)))
    with first, second:
        assert options(one)[0][IDLE] == 60
        assert options(two)[0][IDLE] == 61


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_both_ends_of_aio_have_the_three_figures(loop):
    opened = []

    async def handler(conn):
        opened.append(conn)
        await conn.recv()

    async def main():
        where = ("127.0.0.1", 0)
        async with (
            pymux.aio.serve(handler, where, limits=LIMITS) as server,
            await pymux.aio.connect(server.address, limits=LIMITS) as conn,
        ):
            await until(lambda: opened)
            assert options(conn) == (WANTED, True)
            assert options(opened[0]) == (WANTED, True)

    loop.run(main())


def test_a_list_is_as_good_as_a_tuple_and_the_value_stays_hashable():
    limits = pymux.Limits(keepalive=[60, 10, 5])
    assert limits.keepalive == (60, 10, 5)
    assert hash(limits) == hash(LIMITS)
    assert limits == LIMITS
