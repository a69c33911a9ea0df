"""TLS through every call that listens or connects, with the standard library's TLS at
the other end, or with another call."""

import asyncio
import errno
import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

import pymux
import pymux.aio

from . import util
from .tls import cut, secure
from .tls_peers import asked, tls_peer

HERE = ("127.0.0.1", 0)
LINES = pymux.Lines()

pytestmark = pytest.mark.usefixtures("secured_by")
needs_unix = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here"
)
needs_guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def upper(conn, data):
    return data.upper()


@pytest.fixture
def client(papers):
    """A context of a client that trusts the certificates of `peer` and of servers."""
    return papers.client()


@pytest.fixture
def peer(papers):
    """A server of the standard library's."""
    with tls_peer(papers.server()) as peer:
        yield peer


def at_localhost(address):
    """The same address by the name that certificates have."""
    return "localhost", address[1]


# -- calls that listen -------------------------------------------------------------


@pytest.mark.parametrize("form", util.FORMS)
def test_a_server_speaks_tls_in_every_form(papers, client, backend, form):
    handler = util.in_form(form, bytes.upper)
    with pymux.Server(
        handler, HERE, ssl=papers.server(), framing=LINES, backend=backend
    ) as server:
        assert asked(server.address, client, b"hello\n") == b"HELLO\n"
        assert server.stats().tls_handshakes == 1


@needs_guests
def test_an_asyncio_server_speaks_tls(papers, client, loop):
    async def main():
        context = papers.server()
        async with pymux.aio.serve(upper, HERE, ssl=context) as server:
            where = at_localhost(server.address)
            async with await pymux.aio.connect(where, ssl=client) as conn:
                conn.send(b"hello")
                assert await conn.recv(10) == b"HELLO"

    loop.run(main())


def test_a_mux_speaks_tls_with_itself(papers, client, mux):
    listener = mux.listen(HERE, ssl=papers.server(), framing=LINES)
    conn = mux.connect(at_localhost(listener.address), ssl=client, framing=LINES)
    conn.send(b"hello")  # before it is open
    acc = util.harvest_until(mux, lambda acc: acc.messages)
    ((accepted, data),) = acc.messages
    assert data == b"hello"
    assert {*acc.opened} == {conn, accepted}


def test_one_handler_serves_plain_text_and_tls(papers, client, backend):
    addresses = [
        HERE,
        pymux.Endpoint(HERE, ssl=papers.server()),
        pymux.Endpoint("tls://127.0.0.1:0", ssl=papers.server()),
    ]
    with pymux.Server(upper, addresses, backend=backend) as server:
        plain, first, second = server.addresses
        assert util.exchange(plain, b"plain", 5) == b"PLAIN"
        assert asked(first, client, b"first") == b"FIRST"
        assert asked(second, client, b"second") == b"SECOND"


def test_localhost_speaks_tls_in_both_families(papers, client):
    context = papers.server(papers.certificate("127.0.0.1", "::1"))
    with pymux.Server(upper, ("localhost", 0), ssl=context) as server:
        for host in "127.0.0.1", "::1":
            if host == "::1" and not socket.has_ipv6:
                continue
            where = host, server.address[1]
            assert asked(where, client, b"hello", host) == b"HELLO"


@needs_unix
def test_a_path_speaks_tls(papers, client, tmp_path):
    path = str(tmp_path / "s")
    with (
        pymux.Server(upper, f"unix://{path}", ssl=papers.server()),
        pymux.connect(path, ssl=client, server_hostname="localhost") as conn,
    ):
        conn.send(b"hello")
        assert conn.recv(10) == b"HELLO"


def test_a_given_socket_speaks_tls(papers, client):
    with (
        socket.create_server(HERE) as listening,
        pymux.Server(upper, listening, ssl=papers.server()) as server,
    ):
        assert asked(server.address, client, b"hello") == b"HELLO"


def test_a_peer_of_plain_text_harms_nobody(papers, client, backend):
    with pymux.Server(upper, HERE, ssl=papers.server(), backend=backend) as server:
        with util.connect(server.address) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = util.until_end(plain)[0]
        assert b"GET" not in answer  # an alert at most
        assert asked(server.address, client, b"hello") == b"HELLO"
        util.wait_until(lambda: server.stats().tls_failed == 1)
        assert server.stats().messages_in == 1


# -- calls that connect ------------------------------------------------------------


def test_a_client_speaks_tls(peer, client, client_backend):
    with pymux.connect(at_localhost(peer.address), ssl=client, timeout=10) as conn:
        conn.send(b"hello")
        assert conn.recv() == b"HELLO"
        conn.send_eof()
        assert conn.recv() is None
    assert peer.names == ["localhost"]
    assert peer.errors == []


def test_a_mux_connects_over_tls(peer, client, mux):
    conn = mux.connect(at_localhost(peer.address), ssl=client)
    conn.send(b"hello")
    acc = util.harvest_until(mux, lambda acc: acc.messages)
    assert acc.messages == [(conn, b"HELLO")]
    assert peer.names == ["localhost"]


@needs_guests
def test_a_task_connects_over_tls(peer, client, loop):
    async def main():
        where = at_localhost(peer.address)
        async with await pymux.aio.connect(where, ssl=client, timeout=10) as conn:
            conn.send(b"hello")
            assert await conn.recv(10) == b"HELLO"

    loop.run(main())
    assert peer.names == ["localhost"]


def dialling(where, client, **options):
    """A handler that has its answers from a server over TLS."""

    async def handler(conn):
        upstream = await pymux.dial(where, ssl=client, timeout=10, **options)
        async for data in conn:
            upstream.send(data)
            conn.send(await upstream.recv(10))

    return handler


def test_a_coroutine_dials_over_tls(peer, client, backend):
    handler = dialling(at_localhost(peer.address), client)
    with pymux.Server(handler, HERE, backend=backend) as server:
        assert util.exchange(server.address, b"hello", 5) == b"HELLO"
    assert peer.names == ["localhost"]


@needs_guests
def test_a_task_dials_over_tls(peer, client, loop):
    async def main():
        handler = dialling(at_localhost(peer.address), client)
        async with pymux.aio.serve(handler, HERE) as server:
            conn = await pymux.aio.connect(server.address)
            conn.send(b"hello")
            assert await conn.recv(10) == b"HELLO"
            conn.close()

    loop.run(main())
    assert peer.names == ["localhost"]


def test_a_url_and_an_endpoint_connect_over_tls(peer, client):
    end = pymux.Endpoint(f"tls://localhost:{peer.address[1]}", ssl=client)
    with pymux.connect(end, timeout=10) as conn:
        conn.send(b"hello")
        assert conn.recv() == b"HELLO"


def test_a_number_is_verified_and_not_told_by_sni(peer, client):
    with pymux.connect(peer.address, ssl=client, timeout=10) as conn:
        conn.send(b"hello")
        assert conn.recv() == b"HELLO"
    assert peer.names == [None]


def test_a_name_of_its_own_is_verified_and_told_by_sni(papers, client):
    context = papers.server(papers.certificate("broker.example"))
    with tls_peer(context) as peer:
        with pymux.connect(
            peer.address, ssl=client, server_hostname="broker.example", timeout=10
        ) as conn:
            conn.send(b"hello")
            assert conn.recv() == b"HELLO"
        assert peer.names == ["broker.example"]


def test_a_context_that_verifies_nothing_connects_to_anybody(peer):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pymux.connect(peer.address, ssl=context, timeout=10) as conn:
        conn.send(b"hello")
        assert conn.recv() == b"HELLO"


# -- servers that are refused --------------------------------------------------------


def error_of_client(where, **options):
    with pytest.raises(OSError) as info:
        pymux.connect(where, timeout=10, **options)
    return info.value


def error_of_mux(where, **options):
    with pymux.Mux() as mux:
        conn = mux.connect(where, timeout=10, **options)
        conn.send(b"secret")
        acc = util.harvest_until(mux, lambda acc: acc.closed)
        assert acc.opened == acc.messages == []
        ((closed, error),) = acc.closed
        assert closed is conn
        return error


def error_of_task(where, **options):
    async def main():
        with pytest.raises(OSError) as info:
            await pymux.aio.connect(where, timeout=10, **options)
        return info.value

    return asyncio.run(main())


def error_of_dial(where, **options):
    told = []

    async def handler(conn):
        try:
            await pymux.dial(where, timeout=10, **options)
        except OSError as error:
            told.append(error)

    with pymux.Server(handler, HERE) as server:
        util.everything(server.address, b"")
    return told[0]


ERRORS = {
    "connect": error_of_client,
    "Mux.connect": error_of_mux,
    "dial": error_of_dial,
}
if not util.NO_GUESTS:
    ERRORS["aio.connect"] = error_of_task


@pytest.mark.parametrize("call", ERRORS)
def test_an_unknown_papers_is_refused_by_name(peer, call):
    error = ERRORS[call](at_localhost(peer.address), ssl=True)
    assert type(error) is ssl.SSLCertVerificationError
    assert "issuer" in error.verify_message or "self" in error.verify_message
    assert error.verify_code in (19, 20)
    if call != "Mux.connect":  # which tells of a connection, not of an address
        where = f"localhost:{peer.address[1]}"
        assert error.filename == where
        assert str(error).startswith(f"{where}: ")
    util.wait_until(lambda: peer.errors)


@pytest.mark.parametrize("call", ERRORS)
def test_a_wrong_name_is_refused(papers, client, call):
    with tls_peer(papers.server(papers.certificate("other.example"))) as peer:
        error = ERRORS[call](at_localhost(peer.address), ssl=client)
    assert type(error) is ssl.SSLCertVerificationError
    assert "localhost" in error.verify_message


@pytest.mark.parametrize("call", ERRORS)
def test_a_server_of_plain_text_is_refused(client, call):
    with pymux.Server(lambda conn, data: b"220 ready\r\n", HERE) as server:
        error = ERRORS[call](server.address, ssl=client)
    assert type(error) is ssl.SSLError
    assert error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")


@pytest.mark.parametrize("call", ERRORS)
def test_a_server_that_never_answers_a_hello_is_given_up(client, call):
    limits = pymux.Limits(handshake_timeout=0.05)
    with socket.create_server(HERE) as listener:
        error = ERRORS[call](listener.getsockname(), ssl=client, limits=limits)
    assert isinstance(error, TimeoutError)
    assert error.errno == errno.ETIMEDOUT


def test_the_timeout_of_connecting_covers_the_handshake(client):
    with (
        socket.create_server(HERE) as listener,
        pytest.raises(TimeoutError),
    ):
        pymux.connect(listener.getsockname(), ssl=client, timeout=0.05)


# -- ends --------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_a_cut_is_an_end_only_if_the_call_says_so(papers, client, mux, strict):
    listener = mux.listen(
        HERE, ssl=papers.server(), require_close_notify=strict, framing=LINES
    )
    sock = secure_beside(mux, listener.address, client)
    with sock:
        sock.sendall(b"one\n")
        cut(sock)
        acc = util.harvest_until(mux, lambda acc: acc.closed)
    assert [data for _, data in acc.messages] == [b"one"]
    ((_, error),) = acc.closed
    assert (type(error) is ssl.SSLEOFError) if strict else (error is None)


def cut_after(conn, data):
    """A handler that answers, and then cuts: it ends TCP's stream, but not TLS'."""
    conn.send(data.upper())
    conn.mux.call_later(0, cut_connection, conn)


def cut_connection(conn):
    with socket.socket(fileno=os.dup(conn.fileno())) as raw:
        raw.shutdown(socket.SHUT_WR)


@pytest.fixture
def cutting(papers):
    """A server that answers the first message, and then cuts."""
    with pymux.Server(cut_after, HERE, ssl=papers.server()) as server:
        yield server


def test_a_client_gets_a_cut_as_the_cause_of_its_error(cutting, client):
    with pymux.connect(cutting.address, ssl=client, timeout=10) as conn:
        conn.send(b"hello")
        assert conn.recv() == b"HELLO"
        with pytest.raises(
            pymux.ConnectionClosed, match="without close_notify"
        ) as info:
            conn.recv()
    assert info.value.errno == errno.EPROTO
    assert type(info.value.__cause__) is ssl.SSLEOFError


def test_a_client_takes_a_cut_for_an_end_if_it_is_told_to(cutting, client):
    with pymux.connect(
        cutting.address, ssl=client, require_close_notify=False, timeout=10
    ) as conn:
        conn.send(b"hello")
        assert list(conn) == [b"HELLO"]


def test_a_coroutine_gets_a_cut_as_the_cause_of_its_error(papers, client, backend):
    told = []

    async def handler(conn):
        try:
            async for data in conn:
                conn.send(data.upper())
        except pymux.ConnectionClosed as error:
            told.append(error)
            raise

    with (
        pymux.Server(handler, HERE, ssl=papers.server(), backend=backend) as server,
        secure(server.address, client) as sock,
    ):
        sock.sendall(b"hello")
        assert util.recv_exactly(sock, 5) == b"HELLO"
        cut(sock)
        util.wait_until(lambda: told)
    assert told[0].errno == errno.EPROTO
    assert "without close_notify" in str(told[0])
    assert type(told[0].__cause__) is ssl.SSLEOFError


def secure_beside(mux, address, client):
    """A socket over TLS, whose handshake the mux answers meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(secure, address, client)
        while not done.done():
            mux.harvest(0.01)
        return done.result()
