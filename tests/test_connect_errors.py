"""What the error of a connect that failed says: the address, and what may be meant."""

import asyncio
import socket

import pytest

import pymux

from . import util

guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
NOT_HERE = ("192.0.2.55", 0)  # an address of documentation, no machine's


def block(address):
    return pymux.connect(address)


def dial(address):
    """The same by `dial` in a coroutine handler: its error is raised here."""
    told = []

    async def handler(conn):
        try:
            await pymux.dial(address)
        except OSError as error:
            told.append(error)

    with util.serving(handler) as server:
        assert util.everything(server.address, b"") == b""
    raise told[0]


def in_loop(address):
    async def main():
        return await pymux.aio.connect(address)

    return asyncio.run(main())


WAYS = [block, dial, pytest.param(in_loop, marks=guests)]


@pytest.mark.parametrize("connect", WAYS)
def test_a_refused_connect_names_the_address(connect):
    address = "127.0.0.1", util.free_port()
    with pytest.raises(ConnectionRefusedError) as caught:
        connect(address)
    assert caught.value.filename == "{}:{}".format(*address)
    assert str(caught.value).endswith(f"'127.0.0.1:{address[1]}'")


@unix
@pytest.mark.parametrize("connect", WAYS)
def test_a_name_that_is_taken_for_a_path_is_told_how_tcp_is_written(connect, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\(host, port\)") as caught:
        connect("no-such-file-here")
    assert caught.value.filename == "unix:no-such-file-here"
    path = str(tmp_path / "none.sock")
    with pytest.raises(FileNotFoundError) as caught:
        connect(path)
    assert caught.value.filename == f"unix:{path}"
    assert "(host, port)" not in str(caught.value)


@pytest.mark.parametrize("connect", WAYS)
def test_a_source_address_that_is_not_here_is_named_beside_the_other(connect):
    with util.listening() as listener:
        address = listener.getsockname()
        with pytest.raises(OSError) as caught:
            connect(pymux.Endpoint(address, source_address=NOT_HERE))
    assert caught.value.filename == f"127.0.0.1:{address[1]} from 192.0.2.55:0"


@pytest.mark.parametrize("connect", [block, pytest.param(in_loop, marks=guests)])
def test_a_name_of_very_many_addresses_has_its_first_ones_tried(monkeypatch, connect):
    resolve = socket.getaddrinfo

    def many(host, port, *args, **options):
        if host != b"many.invalid":
            return resolve(host, port, *args, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        found = ("127.0.0.1", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", found)] * 2000

    monkeypatch.setattr(socket, "getaddrinfo", many)
    with util.listening() as listener:
        connect(("many.invalid", listener.getsockname()[1])).close()


# --- adopt, and iteration -------------------------------------------------------


@pytest.mark.parametrize("kind", ["datagrams", "listener", "not connected", "closed"])
def test_a_socket_that_cannot_be_adopted_is_told_what_is_needed(mux, kind):
    needed = "; a connected stream socket, TCP or Unix, is needed"
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket() as unconnected,
    ):
        closed = socket.socket()
        closed.close()
        datagrams.connect(("127.0.0.1", 9))
        sockets = {"datagrams": datagrams, "listener": listener, "closed": closed}
        with pytest.raises(OSError, match=needed) as caught:
            mux.adopt(sockets.get(kind, unconnected))
    assert "socket" in caught.value.filename


@pytest.mark.parametrize("call", ["adopt", "connect"])
def test_a_function_handler_that_makes_a_connection_hears_of_its_own_call(call):
    told = []

    def handler(conn, data):
        if call == "connect":
            conn.mux.connect(("127.0.0.1", 9))
        one, other = socket.socketpair()
        with one, other:
            conn.mux.adopt(one)

    with util.serving(handler, on_error=lambda *args: told.append(args)) as server:
        assert util.everything(server.address, b"x") == b""
    ((_conn, error),) = told
    assert f"give {call}() a handler=" in str(error)
    assert ("pymux.dial" in str(error)) == (call == "connect")


def test_a_plain_for_is_told_of_async_for(mux):
    conn, peer = util.pair(mux)
    with peer, pytest.raises(TypeError, match=r"async for.*pymux\.connect"):
        next(iter(conn))
    with pytest.raises(TypeError, match="async for"):
        list(pymux.Queue())
