"""`listener.ssl = context` and `server.ssl = context`: a certificate is replaced, and
nobody is disconnected."""

import threading

import pytest

import pymux
import pymux.aio

from . import util
from .tls import secure
from .tls_peers import asked

HERE = ("127.0.0.1", 0)

pytestmark = pytest.mark.usefixtures("secured_by")


def upper(conn, data):
    return data.upper()


@pytest.fixture
def old(papers):
    """A context whose certificate is for old.example, and 127.0.0.1."""
    return papers.server(papers.certificate("old.example", "127.0.0.1"))


@pytest.fixture
def new(papers):
    """A context whose certificate is for new.example, and 127.0.0.1."""
    return papers.server(papers.certificate("new.example", "127.0.0.1"))


@pytest.fixture
def client(papers):
    """A context of a client that trusts both certificates."""
    return papers.client()


def name_at(address, client):
    """Of which name the certificate is that a new connection is shown."""
    with secure(address, client, "127.0.0.1") as sock:
        names = dict(sock.getpeercert()["subjectAltName"])
    return names["DNS"]


def test_new_connections_have_the_new_certificate_and_open_ones_go_on(
    old, new, client, backend
):
    with pymux.Server(upper, HERE, ssl=old, backend=backend) as server:
        assert server.ssl is old
        with secure(server.address, client, "old.example") as sock:
            server.ssl = new
            assert server.ssl is new
            assert name_at(server.address, client) == "new.example"
            sock.sendall(b"hello")
            assert util.recv_exactly(sock, 5) == b"HELLO"
        assert asked(server.address, client, b"bye", "new.example") == b"BYE"


def test_a_server_replaces_the_context_of_each_address_with_tls(old, new, client):
    addresses = [
        HERE,
        pymux.Endpoint(HERE, ssl=old),
        pymux.Endpoint(("localhost", 0), ssl=old),
    ]
    with pymux.Server(upper, addresses) as server:
        server.ssl = new
        plain, first, second = server.addresses
        assert name_at(first, client) == name_at(second, client) == "new.example"
        assert util.exchange(plain, b"hello", 5) == b"HELLO"


def test_each_listener_has_a_context_of_its_own(old, new, client, mux):
    first, second = mux.listen([HERE, HERE], ssl=old)
    assert first.ssl is second.ssl is old
    first.ssl = new
    assert (first.ssl, second.ssl) == (new, old)
    names = []

    def look():
        names.extend(name_at(one.address, client) for one in (first, second))
        mux.wakeup()

    thread = threading.Thread(target=look)
    thread.start()
    util.harvest_until(mux, lambda acc: len(names) == 2)
    thread.join()
    assert names == ["new.example", "old.example"]


def test_a_context_may_be_replaced_before_the_start_and_after_the_end(old, new, client):
    server = pymux.Server(upper, HERE, ssl=old)
    server.ssl = new
    with server:
        assert name_at(server.address, client) == "new.example"
    server.ssl = old
    assert server.ssl is old


def test_a_context_may_be_replaced_when_the_listener_has_closed(old, new, mux):
    listener = mux.listen(HERE, ssl=old)
    listener.close()
    listener.ssl = new
    mux.close()
    listener.ssl = old
    assert listener.ssl is old


def test_a_handler_may_replace_the_context(old, new, client):
    def handler(conn, data):
        server.ssl = new
        return data

    with pymux.Server(handler, HERE, ssl=old) as server:
        asked(server.address, client, b"hello", "old.example")
        assert name_at(server.address, client) == "new.example"


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_an_asyncio_server_replaces_its_context(old, new, client, loop):
    async def main():
        async with pymux.aio.serve(upper, HERE, ssl=old) as server:
            server.ssl = new
            async with await pymux.aio.connect(
                server.address, ssl=client, server_hostname="new.example"
            ) as conn:
                assert dict(conn.tls.peer_certificate()["subjectAltName"])

    loop.run(main())


# -- what cannot be ----------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, False, "cert.pem"])
def test_only_a_context_replaces_a_context(old, mux, value):
    listener = mux.listen(HERE, ssl=old)
    server = pymux.Server(upper, HERE, ssl=old)
    for one in listener, server:
        with pytest.raises(TypeError, match=f"ssl is {value!r}"):
            one.ssl = value
        assert one.ssl is old


def test_a_clients_context_replaces_none(old, client, mux):
    for one in mux.listen(HERE, ssl=old), pymux.Server(upper, HERE, ssl=old):
        with pytest.raises(ValueError, match="ssl is a context for a client"):
            one.ssl = client
        assert one.ssl is old


def test_plain_text_does_not_become_tls(new, mux):
    listener = mux.listen(HERE)
    with pytest.raises(ValueError, match=r"<Listener 127.*> is plain text"):
        listener.ssl = new
    assert listener.ssl is None
    server = pymux.Server(upper, [HERE, pymux.Endpoint(HERE)])
    with pytest.raises(ValueError, match=r"no address of .* has TLS"):
        server.ssl = new
    assert server.ssl is None


# -- sessions ------------------------------------------------------------------------


def came_back(address, client, session=None):
    """The session that a client gets, and whether its handshake was made short."""
    sock = util.connect(address)
    with client.wrap_socket(
        sock, server_hostname="127.0.0.1", session=session
    ) as secure:
        secure.sendall(b"hello")
        assert util.recv_exactly(secure, 5) == b"HELLO"  # tickets come before it
        return secure.session, secure.session_reused


def test_a_client_comes_back_with_its_session_until_the_context_is_replaced(
    old, new, client
):
    with pymux.Server(upper, [HERE, HERE], ssl=old) as server:
        first, second = server.addresses
        session, resumed = came_back(first, client)
        assert not resumed
        session, resumed = came_back(second, client, session)
        assert resumed  # the tickets are the context's
        server.ssl = new
        session, resumed = came_back(first, client, session)
        assert not resumed
        assert came_back(second, client, session)[1]
        stats = server.stats()
    assert (stats.tls_handshakes, stats.tls_resumed) == (4, 2)
