"""What the socket of a connection tells, and the options that limits set on it."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

import pytest

import pymux

from . import util

LINES = pymux.Lines()
NEEDS_UNIX = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here"
)
US = (os.getpid(), os.getuid(), os.getgid()) if hasattr(os, "getuid") else None

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def option(descriptor, level, name):
    """An option of the socket behind a descriptor, which stays open."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getsockopt(level, name)


def is_ours(credentials):
    """Whether they are this process's; some systems do not tell the pid."""
    return credentials == US or credentials == (None, *US[1:])


def test_a_connection_has_a_descriptor_while_it_is_open(mux):
    conn, peer = util.pair(mux)
    with peer:
        with socket.socket(fileno=os.dup(conn.fileno())) as sock:
            assert sock.getpeername() == conn.peer == peer.getsockname()
        assert mux.listen(("127.0.0.1", 0)).fileno() != conn.fileno()
        conn.abort()
        util.harvest_until(mux, lambda got: got.closed)
        assert conn.fileno() == -1


def test_a_connection_that_is_being_made_has_a_descriptor(mux):
    with util.full_backlog() as address:
        conn = mux.connect(address)
        assert conn.fileno() >= 0
        assert conn.credentials is None


def test_a_listener_has_a_descriptor_until_it_closes(mux):
    listener = mux.listen(("127.0.0.1", 0))
    with socket.socket(fileno=os.dup(listener.fileno())) as sock:
        assert sock.getsockname() == listener.address
    listener.close()
    assert listener.fileno() == -1


def test_nothing_has_a_descriptor_after_the_mux(backend):
    with pymux.Mux(backend) as mux:
        listener = mux.listen(("127.0.0.1", 0))
        conn = mux.connect(listener.address)
    assert (conn.fileno(), listener.fileno()) == (-1, -1)
    assert conn.credentials is None


def test_a_descriptor_is_for_the_thread_of_the_mux(backend):
    conns = []

    def handler(conn, data):
        conns.append(conn)
        return data

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"
        for ask in (conns[0].fileno, lambda: conns[0].credentials):
            with pytest.raises(RuntimeError, match="thread"):
                ask()


@pytest.mark.skipif(sys.platform == "win32", reason="its calls take no such flag")
def test_a_duplicate_that_is_made_blocking_blocks_nobody(mux):
    conn, peer = util.pair(mux)
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        sock.setblocking(True)
    assert os.get_blocking(conn.fileno())
    peer.sendall(b"x")
    util.harvest_until(mux, lambda acc: acc.messages)
    conn.send(bytes(16 << 20))  # more than the kernel takes
    mux.harvest(0)
    assert conn.queued
    conn.abort()
    peer.close()


def test_a_client_has_a_descriptor_until_it_closes(echo_server):
    with pymux.connect(echo_server.address, framing=LINES, timeout=10) as client:
        with socket.socket(fileno=os.dup(client.fileno())) as sock:
            assert sock.getsockname() == client.local
        client.send(b"as before")
        assert client.recv() == b"as before"
    assert client.fileno() == -1


@NEEDS_UNIX
@pytest.mark.parametrize("form", ["function", "coroutine"])
def test_a_unix_socket_tells_the_peers_credentials(backend, tmp_path, form):
    told = []

    def function(conn, data):
        told.append(conn.credentials)
        return data

    async def coroutine(conn):
        async for data in conn:
            conn.send(function(conn, data))

    handler = {"function": function, "coroutine": coroutine}[form]
    with util.serving(handler, backend, tmp_path / "s") as server:
        assert util.exchange(server.address, b"x", 1) == b"x"
    (credentials,) = told
    assert is_ours(credentials)
    assert credentials.uid == US[1]


@NEEDS_UNIX
def test_another_process_is_told_by_its_own_number(backend, tmp_path):
    told = []

    def handler(conn, data):
        told.append(conn.credentials)
        return data

    path = str(tmp_path / "s")
    with util.serving(handler, backend, path):
        code = (
            "import socket; sock = socket.socket(socket.AF_UNIX); "
            f"sock.connect({path!r}); sock.sendall(b'x'); sock.recv(1)"
        )
        child = subprocess.Popen([sys.executable, "-c", code])
        assert child.wait(30) == 0
    (credentials,) = told
    assert credentials.pid in (child.pid, None)


@NEEDS_UNIX
def test_whoever_dials_a_unix_socket_learns_of_its_listener(mux, tmp_path):
    conn = mux.connect(mux.listen(tmp_path / "s").address)
    util.harvest_until(mux, lambda got: conn in got.opened)
    assert is_ours(conn.credentials)


def test_tcp_has_no_credentials(mux):
    conn, peer = util.pair(mux)
    with peer:
        assert conn.credentials is None


@NEEDS_UNIX
def test_what_has_ended_has_no_credentials_any_more(mux, tmp_path):
    conn = mux.connect(mux.listen(tmp_path / "s").address)
    util.harvest_until(mux, lambda got: conn in got.opened)
    conn.abort()
    util.harvest_until(mux, lambda got: got.closed)
    assert conn.credentials is None


@guests
def test_a_connection_of_a_loop_tells_the_same(loop, tmp_path):
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")

    async def handler(conn):
        async for data in conn:
            assert is_ours(conn.credentials)
            assert conn.fileno() >= 0
            conn.send(data)

    async def main():
        async with pymux.aio.serve(handler, tmp_path / "s") as server:
            sent = asyncio.to_thread(util.exchange, server.address, b"x", 1)
            assert await sent == b"x"

    loop.run(main())


# --- options that limits set ------------------------------------------------------


def sized(conn):
    return option(conn.fileno(), socket.SOL_SOCKET, socket.SO_SNDBUF)


@pytest.mark.parametrize("make", [util.pair, util.outgoing])
def test_a_send_buffer_is_as_large_as_limits_say(mux, make):
    small, peer = make(mux, limits=pymux.Limits(send_buffer=20_000))
    with peer:
        assert 20_000 <= sized(small) <= 40_000  # Linux doubles it
    large, peer = make(mux, limits=pymux.Limits(send_buffer=50_000))
    with peer:
        assert 50_000 <= sized(large) <= 100_000


NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Python 3.12 has the name
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux's number")


@ON_LINUX
@pytest.mark.parametrize("make", [util.pair, util.outgoing])
def test_unsent_output_is_bounded_as_limits_say(mux, make):
    conn, peer = make(mux, limits=pymux.Limits(notsent_lowat=16_384))
    with peer:
        assert option(conn.fileno(), socket.IPPROTO_TCP, NOTSENT_LOWAT) == 16_384


@ON_LINUX
def test_output_under_a_bound_of_unsent_bytes_all_arrives(mux):
    limits = pymux.Limits(notsent_lowat=4096, send_buffer=20_000)
    conn, peer = util.pair(mux, limits=limits)
    sent = bytes(range(256)) * 4000
    with peer:
        conn.send(sent)
        mux.harvest(0)
        assert conn.queued > len(sent) // 2  # the kernel has not taken it
        conn.close()
        got = b""
        peer.setblocking(False)

        def has_all():
            nonlocal got
            with contextlib.suppress(BlockingIOError):
                got += peer.recv(65536)
            mux.harvest(0.001)
            return len(got) == len(sent)

        util.wait_until(has_all)
    assert got == sent


@NEEDS_UNIX
def test_options_of_tcp_do_no_harm_on_unix_sockets(backend, tmp_path):
    limits = pymux.Limits(notsent_lowat=4096, send_buffer=20_000)
    with util.serving(
        lambda conn, data: data, backend, tmp_path / "s", limits=limits
    ) as server:
        assert util.exchange(server.address, b"x", 1) == b"x"


@pytest.mark.parametrize("name", ["send_buffer", "notsent_lowat"])
def test_options_are_checked(name):
    for value in (0, -1, 2**31):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            pymux.Limits(**{name: value})
    with pytest.raises(TypeError, match=name):
        pymux.Limits(**{name: "large"})
