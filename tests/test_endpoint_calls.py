"""Endpoints, URLs and lists in every call that takes an address."""

import contextlib
import errno
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

import pymux
import pymux.aio

from . import util
from .util import harvest_until

HERE = ("127.0.0.1", 0)
LINES = pymux.Lines()

needs_unix = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here"
)
needs_guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def upper(conn, data):
    return data.upper()


def url_of(address):
    """The URL of an address that a server has bound."""
    if isinstance(address, str):
        return f"unix://{address}"
    host, port = address
    return f"tcp://{host}:{port}"


def answer(where, sent, **options):
    """What a server answers to one message of a blocking client."""
    with pymux.connect(where, timeout=10, **options) as client:
        client.send(sent)
        return client.recv()


@pytest.fixture
def path():
    """The path of a Unix socket, short enough for one."""
    with tempfile.TemporaryDirectory(prefix="pymux-") as directory:
        yield f"{directory}/socket"


@contextlib.contextmanager
def taken():
    """An address on which another socket listens."""
    with socket.create_server(HERE) as sock:
        yield sock.getsockname()


# -- Mux ---------------------------------------------------------------------------


def test_a_mux_listens_on_a_url(mux):
    listener = mux.listen("tcp://127.0.0.1:0")
    assert listener.address[0] == "127.0.0.1"
    with util.connect(listener.address):
        harvest_until(mux, lambda acc: acc.opened)


def test_a_mux_connects_to_a_url(mux):
    listener = mux.listen(HERE)
    conn = mux.connect(url_of(listener.address))
    harvest_until(mux, lambda acc: conn in acc.opened)
    assert conn.peer == listener.address


@needs_unix
def test_a_url_of_a_path_listens_and_connects(mux, path):
    listener = mux.listen(f"unix://{path}")
    assert listener.address == path
    conn = mux.connect(f"unix://{path}")
    harvest_until(mux, lambda acc: conn in acc.opened)
    assert conn.peer == path


def test_an_endpoint_frames_what_its_listener_receives(mux):
    end = pymux.Endpoint(HERE, framing=LINES)
    listener = mux.listen(end, framing=pymux.LengthPrefix())
    with util.connect(listener.address) as peer:
        peer.sendall(b"one\ntwo\n")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
    assert [data for _, data in acc.messages] == [b"one", b"two"]


def test_an_endpoint_frames_what_an_outgoing_connection_sends(mux):
    with socket.create_server(HERE) as server:
        end = pymux.Endpoint(server.getsockname(), framing=LINES)
        conn = mux.connect(end, framing=pymux.LengthPrefix())
        conn.send(b"one")
        harvest_until(mux, lambda acc: conn in acc.opened)
        mux.harvest(0)
        with server.accept()[0] as peer:
            assert util.recv_exactly(peer, 4) == b"one\n"


def test_an_endpoint_limits_its_connections(mux):
    listener = mux.listen(HERE)
    limits = pymux.Limits(max_output=10)
    conn = mux.connect(pymux.Endpoint(listener.address, limits=limits))
    conn.send(b"x" * 10)
    conn.send(b"x" * 10)
    acc = harvest_until(mux, lambda acc: acc.closed)
    ends = [error.errno for ended, error in acc.closed if ended is conn]
    assert ends == [errno.ENOBUFS]


def test_a_list_gives_a_list_of_listeners_in_its_order(mux):
    first, second = mux.listen([("127.0.0.1", 0), pymux.Endpoint("tcp://127.0.0.1:0")])
    assert first.address != second.address
    with util.connect(second.address) as peer:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        assert conn.local == second.address == peer.getpeername()


def test_a_list_of_one_gives_a_list(mux):
    (listener,) = mux.listen([HERE])
    assert isinstance(listener, pymux.Listener)


def test_a_list_is_listened_on_whole_or_not_at_all(mux):
    with taken() as address:
        free = ("127.0.0.1", util.free_port())
        with pytest.raises(OSError) as info:
            mux.listen([free, address, HERE])
        assert info.value.errno == errno.EADDRINUSE
        assert info.value.filename == f"127.0.0.1:{address[1]}"
    assert mux.stats().listeners == 0
    mux.listen(free)


@needs_unix
def test_a_list_that_fails_leaves_no_file(mux, path):
    with taken() as address, pytest.raises(OSError):
        mux.listen([path, address])
    assert not Path(path).exists()


def test_a_list_with_a_wrong_option_is_refused_before_any_is_bound(mux):
    with pytest.raises(ValueError, match="server_hostname"):
        mux.listen([HERE, pymux.Endpoint(HERE, server_hostname="example.org")])
    assert mux.stats().listeners == 0


# -- Server ------------------------------------------------------------------------


@needs_unix
def test_a_server_serves_several_addresses_each_with_its_own_framing(backend, path):
    where = [HERE, pymux.Endpoint(HERE, framing=LINES), f"unix://{path}"]
    with pymux.Server(
        upper, where, framing=pymux.LengthPrefix(2), backend=backend
    ) as server:
        prefixed, lines, local = server.addresses
        assert server.address == prefixed
        assert local == path
        assert answer(prefixed, b"one", framing=pymux.LengthPrefix(2)) == b"ONE"
        assert answer(lines, b"two", framing=LINES) == b"TWO"
        assert answer(local, b"three", framing=pymux.LengthPrefix(2)) == b"THREE"


def test_the_addresses_of_a_server_can_be_read_when_it_has_ended():
    with pymux.Server(upper, [HERE, HERE]) as server:
        addresses = server.addresses
    assert server.addresses == addresses
    assert len(set(addresses)) == 2


def test_a_server_that_was_not_started_has_no_addresses():
    server = pymux.Server(upper, [HERE, HERE])
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.addresses


def test_a_list_that_is_changed_changes_no_server():
    where = [HERE]
    server = pymux.Server(upper, where)
    where.append(HERE)
    with server:
        assert len(server.addresses) == 1


def test_a_server_starts_on_all_addresses_or_on_none():
    with taken() as address:
        free = ("127.0.0.1", util.free_port())
        with pytest.raises(OSError) as info:
            pymux.Server(upper, [free, address]).start()
        assert str(address[1]) in str(info.value)
        with socket.create_server(free):
            pass


def test_a_servers_arguments_are_checked_when_it_is_made():
    for wrong in [], [HERE, None], "tcp://localhost", "udp://localhost:80":
        with pytest.raises((TypeError, ValueError)):
            pymux.Server(upper, wrong)


def test_repr_shows_where_a_server_listens():
    server = pymux.Server(upper, [HERE, HERE])
    assert repr(server) == f"<Server {[HERE, HERE]}>"
    with server:
        assert repr(server) == f"<Server {server.addresses}>"


# -- sockets that listen already ---------------------------------------------------


@pytest.fixture
def listening():
    """A listening socket of the standard library's."""
    with socket.create_server(HERE) as sock:
        yield sock


def test_a_given_socket_is_listened_on(mux, listening):
    listener = mux.listen(pymux.Endpoint(listening, framing=LINES))
    assert listener.address == listening.getsockname()
    with util.connect(listener.address) as peer:
        peer.sendall(b"one\ntwo\n")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
    assert [data for _, data in acc.messages] == [b"one", b"two"]


def test_a_given_socket_goes_on_when_its_listener_is_closed(mux, listening):
    listener = mux.listen(listening)
    listener.close()
    assert mux.stats().listeners == 0
    with util.connect(listening.getsockname()) as peer:
        conn, address = listening.accept()
        conn.close()
        assert address == peer.getsockname()


class NeverBlocking(socket.socket):
    """A socket that others accept from: blocking, it would hold them in accept()."""

    def settimeout(self, timeout):
        raise AssertionError(f"it is made blocking, for all who have it: {timeout}")


@pytest.mark.skipif(sys.platform == "win32", reason="the mode is each duplicate's own")
def test_a_given_socket_is_at_no_time_blocking_for_others_that_accept(mux):
    with (
        socket.create_server(HERE) as sock,
        NeverBlocking(fileno=os.dup(sock.fileno())) as shared,
    ):
        mux.listen(shared).close()
        assert not os.get_blocking(sock.fileno())


def test_a_mux_goes_on_when_the_given_socket_is_closed(mux):
    with socket.create_server(HERE) as sock:
        listener = mux.listen(sock)
    with util.connect(listener.address):
        harvest_until(mux, lambda acc: acc.opened)


@needs_unix
def test_the_path_of_a_given_socket_is_not_unlinked(mux, path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        listener = mux.listen([sock])[0]
        assert listener.address == path
        listener.close()
        assert Path(path).exists()


def test_a_server_serves_a_given_socket_beside_other_addresses(listening):
    with pymux.Server(upper, [HERE, listening]) as server:
        assert server.addresses[1] == listening.getsockname()
        assert [answer(where, b"one") for where in server.addresses] == [b"ONE"] * 2
    with util.connect(listening.getsockname()):
        listening.accept()[0].close()


def test_a_list_that_fails_leaves_a_given_socket_as_it_was(mux, listening):
    with taken() as address, pytest.raises(OSError):
        mux.listen([listening, address])
    with util.connect(listening.getsockname()):
        listening.accept()[0].close()


# -- Client ------------------------------------------------------------------------


def test_a_client_takes_a_url_and_an_endpoint():
    with pymux.Server(upper, HERE, framing=LINES) as server:
        url = url_of(server.address)
        assert answer(url, b"one", framing=LINES) == b"ONE"
        assert answer(pymux.Endpoint(url, framing=LINES), b"two") == b"TWO"


@pytest.mark.parametrize("option", [{"handler": upper}, {"backlog": 5}])
def test_a_client_refuses_what_cannot_apply(option):
    with pytest.raises(ValueError, match="cannot apply"):
        pymux.connect(pymux.Endpoint(HERE, **option))


# -- asyncio -----------------------------------------------------------------------


@needs_guests
def test_an_asyncio_server_and_connection_take_endpoints(loop):
    async def main():
        where = [pymux.Endpoint(HERE, framing=LINES), "tcp://127.0.0.1:0"]
        async with pymux.aio.serve(upper, where) as server:
            lines, raw = server.addresses
            assert server.address == lines
            end = pymux.Endpoint(url_of(lines), framing=LINES)
            async with await pymux.aio.connect(end) as conn:
                conn.send(b"one")
                assert await conn.recv() == b"ONE"
            async with await pymux.aio.connect(url_of(raw)) as conn:
                conn.send(b"two")
                assert await conn.recv() == b"TWO"

    loop.run(main())


@needs_guests
@pytest.mark.parametrize("option", [{"handler": upper}, {"mode": 0o640}])
def test_an_asyncio_connection_refuses_what_cannot_apply(loop, option):
    async def main():
        with pytest.raises(ValueError, match="cannot apply"):
            await pymux.aio.connect(pymux.Endpoint(HERE, **option))

    loop.run(main())


# -- types -------------------------------------------------------------------------

PROGRAM = """
import asyncio
from pathlib import Path

import pymux
import pymux.aio

def handler(conn: pymux.Connection, data: bytes) -> bytes:
    return data

end = pymux.Endpoint(
    ("", 8093), framing=pymux.Lines(), limits=pymux.Limits(), handler=handler
)
tuples = [("", 1), ("::1", 2)]
texts = ["/run/x", "tcp://:3"]
ends = [end, end]
with pymux.Mux() as mux:
    one: pymux.Listener = mux.listen(end)
    one = mux.listen("tcp://:1")
    one = mux.listen(Path("x"))
    several: list[pymux.Listener] = mux.listen([("", 1), end, "/run/x", Path("x")])
    several = mux.listen(tuples) + mux.listen(texts) + mux.listen(ends)
    conn: pymux.Connection = mux.connect(end)
    conn = mux.connect("unix:///run/x")
pymux.Server(handler, end)
pymux.Server(handler, [end, ("", 1), "/run/x"])
pymux.serve(handler, ends)
pymux.connect(end)
pymux.aio.serve(handler, [end, "tcp://:1"])

async def main() -> None:
    await pymux.aio.connect(end)
"""


def test_a_type_checker_accepts_endpoints_everywhere(tmp_path):
    api = pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    out, errors, code = api.run(
        ["--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    )
    assert (code, errors) == (0, ""), out


def test_a_type_checker_finds_what_is_no_address(tmp_path):
    api = pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text("import pymux\npymux.Mux().connect([('', 1)])\n")
    out, _, code = api.run(
        ["--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    )
    assert code == 1, out
    assert "connect" in out
