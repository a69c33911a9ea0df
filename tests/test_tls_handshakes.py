"""Handshakes: who never gets through one, and what one agrees on."""

import contextlib
import socket
import ssl
import threading

import pytest

import pymux

from . import util
from .logs import at_debug
from .tls import NAME, accept, ends, secure
from .util import harvest_until, in_server, recv_exactly, serving, wait_until

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()


def echo(conn, data):
    return data


@pytest.fixture
def guarded(papers, backend):
    """(a server over TLS, its handler)."""
    handler = util.Ends()
    with serving(handler, backend, framing=LINES, ssl=papers.server()) as server:
        yield server, handler


# --- who does not get through --------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP_REQUEST"),
        (b"hello\n" * 10, "WRONG_VERSION_NUMBER"),
        (b"\x16\x03\x01\x00\x05" + b"\x01\x00\x00\x01\xff" * 9, ""),
        (b"\x00" * 5000, ""),
    ],
    ids=["http", "lines", "a broken hello", "zeroes"],
)
def test_what_is_no_hello_is_refused_and_told_at_debug(sent, reason, guarded):
    server, handler = guarded
    with at_debug() as records, util.connect(server.address) as peer:
        local = peer.getsockname()
        with contextlib.suppress(ConnectionError):
            peer.sendall(sent)
        util.until_end(peer)
        wait_until(lambda: server.stats().tls_failed == 1)
        in_server(server, lambda mux: None)
    assert handler.open == []
    assert server.stats().connections == 0
    (record,) = [record for record in records if record.event == "handshake"]
    assert record.levelname == "DEBUG"
    assert record.peer == local
    assert "TLS handshake" in record.getMessage()
    assert reason in record.getMessage()


def test_a_peer_that_says_nothing_and_leaves_has_failed(guarded):
    server, handler = guarded
    util.connect(server.address).close()
    wait_until(lambda: server.stats().tls_failed == 1)
    assert handler.open == []


def test_others_are_served_while_one_fails(guarded, papers):
    server, _ = guarded
    with (
        util.connect(server.address) as bad,
        secure(server.address, papers.client()) as good,
    ):
        bad.sendall(b"nonsense" * 100)
        util.until_end(bad)
        good.sendall(b"hello\n")
        assert recv_exactly(good, 6) == b"hello\n"


def test_tls_to_a_plain_port_fails_with_the_reason(mux):
    with serving(echo) as server:
        conn = mux.connect(server.address, ssl=True, server_hostname=NAME)
        conn.send(b"secret")
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    error = acc.error(conn)
    assert isinstance(error, ssl.SSLError)
    assert error.reason  # the server has echoed our hello
    assert acc.opened == []


def test_a_server_that_hangs_up_in_the_handshake_has_cut_it(mux):
    with util.listening() as listener:

        def hang_up():
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(10)
                assert peer.recv(4096)

        thread = threading.Thread(target=hang_up)
        thread.start()
        conn = mux.connect(listener.getsockname(), ssl=True, server_hostname=NAME)
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        thread.join()
    assert isinstance(acc.error(conn), ssl.SSLEOFError)


def test_a_handshake_has_a_time_limit(backend, papers, clock):
    limits = pymux.Limits(handshake_timeout=60)
    handler = util.Ends()
    with serving(handler, backend, ssl=papers.server(), limits=limits) as server:
        with util.connect(server.address) as peer:
            wait_until(lambda: server.stats().connections == 1)
            clock.advance(59, server)
            assert server.stats().tls_failed == 0
            clock.advance(2, server)
            util.until_end(peer)
        wait_until(lambda: server.stats().tls_failed == 1)
    assert handler.open == []


@pytest.mark.parametrize(
    ("of_connect", "of_handshake"), [(60, None), (None, 60), (60, 90), (90, 60)]
)
def test_an_outgoing_handshake_has_a_time_limit(of_connect, of_handshake, mux, clock):
    with util.listening() as listener:
        conn = mux.connect(
            listener.getsockname(),
            ssl=True,
            server_hostname=NAME,
            timeout=of_connect,
            limits=pymux.Limits(handshake_timeout=of_handshake),
        )
        peer, _ = listener.accept()
        with peer:
            mux.harvest(0)
            clock.advance(59, mux)
            util.assert_nothing(mux)
            clock.advance(2, mux)
            acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert isinstance(acc.error(conn), TimeoutError)


def test_unfinished_handshakes_are_bounded_and_the_rest_waits(backend, papers, caplog):
    limits = pymux.Limits(max_handshakes=2)
    with serving(
        echo, backend, ssl=papers.server(), limits=limits, framing=LINES
    ) as server:
        idle = [util.connect(server.address) for _ in range(2)]
        wait_until(lambda: server.stats().connections == 2)
        waiting = util.connect(server.address)
        wait_until(lambda: server.stats().accept_pauses == 1)
        idle.pop().close()
        with waiting:
            peer = papers.client().wrap_socket(waiting, server_hostname=NAME)
            peer.sendall(b"hello\n")
            assert recv_exactly(peer, 6) == b"hello\n"
            peer.close()
        idle.pop().close()
    told = [record.getMessage() for record in caplog.records]
    assert "max_handshakes, 2, is reached, peers wait in the backlog" in told
    assert not any("max_connections" in text for text in told)


def test_a_hello_in_single_bytes_is_understood(guarded, papers):
    server, _ = guarded
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = papers.client().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with util.connect(server.address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                peer.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    sock.sendall(bytes([byte]))
                incoming.write(sock.recv(65536))
        peer.write(b"hello\n")
        for byte in outgoing.read():
            sock.sendall(bytes([byte]))
        assert sock.recv(1)


def test_the_turn_with_handshakes_alone_does_not_end_a_harvest(mux, papers):
    listener = mux.listen(("127.0.0.1", 0), ssl=papers.server())
    thread = threading.Thread(
        target=lambda: ends(secure(listener.address, papers.client()))
    )
    thread.start()
    batch = mux.harvest(10)
    assert len(batch.opened) == 1
    acc = harvest_until(mux, lambda acc: acc.closed)
    thread.join()
    assert acc.turns <= 2


# --- what is agreed on ---------------------------------------------------------------


def seen_by_a_server(papers, ours, theirs, name=NAME):
    """What `Connection.tls` tells a server of a peer; and the peer's socket, closed."""
    views = []

    def handler(conn, data):
        views.append(conn.tls)
        assert conn.tls is views[0]
        return data

    with serving(handler, ssl=ours) as server:
        peer = secure(server.address, theirs, name)
        peer.sendall(b"x")
        assert peer.recv(1) == b"x"
        binding = peer.get_channel_binding()
        ends(peer)
    return views[0], binding


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_the_view_tells_what_was_agreed_on(version, papers):
    ours, theirs = papers.server(), papers.client()
    theirs.maximum_version = ssl.TLSVersion[version]
    ours.set_alpn_protocols(["b", "a"])
    theirs.set_alpn_protocols(["a", "c"])
    view, binding = seen_by_a_server(papers, ours, theirs)
    assert view.version == version.replace("_", ".")
    assert len(view.cipher) == 3
    assert view.cipher[0] in repr(view)
    assert view.alpn == "a"
    assert view.server_name == NAME
    assert view.session_reused is False
    assert view.peer_certificate() is None
    assert view.channel_binding() == binding
    with pytest.raises(ValueError, match="tls-unique"):
        view.channel_binding("tls-exporter")


def test_the_view_of_a_peer_that_asks_for_nothing(papers):
    theirs = papers.client(check_hostname=False, verify_mode=ssl.CERT_NONE)
    view, _ = seen_by_a_server(papers, papers.server(), theirs, None)
    assert view.alpn is None
    assert view.server_name is None


def test_a_view_outlives_its_connection_and_is_any_threads(mux, papers):
    with serving(echo, ssl=papers.server()) as server:
        conn = mux.connect(server.address, ssl=papers.client(), server_hostname=NAME)
        harvest_until(mux, lambda acc: acc.opened)
        view = conn.tls
        assert conn.tls is view
        conn.close()
        harvest_until(mux, lambda acc: acc.is_closed(conn))
        mux.harvest(0)
        assert conn.tls is None
    assert view.server_name == NAME
    names = []

    def read():
        names.append(view.peer_certificate()["subjectAltName"])

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert ("DNS", NAME) in names[0]


def test_the_view_can_be_read_in_closed(papers):
    seen = []

    class Handler:
        def received(self, conn, data):
            return data

        def closed(self, conn, error):
            seen.append(conn.tls.version)

    with serving(Handler(), ssl=papers.server()) as server:
        ends(secure(server.address, papers.client()))
    assert seen == ["TLSv1.3"]


def test_a_plain_connection_has_no_view(mux):
    conn, peer = util.pair(mux)
    with peer:
        assert conn.tls is None


def test_a_client_tells_any_thread_what_was_agreed_on_after_closing_too(papers):
    with serving(echo, ssl=papers.server()) as server:
        with pymux.connect(
            server.address, ssl=papers.client(), server_hostname=NAME, timeout=10
        ) as client:
            view = client.tls
        views = []
        thread = threading.Thread(target=lambda: views.append(client.tls))
        thread.start()
        thread.join()
    assert views == [view]
    assert (view.version, view.server_name) == ("TLSv1.3", NAME)
    assert ("DNS", NAME) in view.peer_certificate()["subjectAltName"]


def test_a_client_whose_server_leaves_at_once_was_verified_all_the_same(papers):
    class Handler:
        def opened(self, conn):
            conn.close()

        def received(self, conn, data):
            pass

    theirs = papers.client()
    with (
        serving(Handler(), ssl=papers.server()) as server,
        pymux.connect(
            server.address, ssl=theirs, server_hostname=NAME, timeout=10
        ) as client,
    ):
        assert client.recv() is None
        assert client.tls.server_name == NAME


def test_a_plain_client_has_no_view(client_backend):
    with serving(echo) as server, pymux.connect(server.address, timeout=10) as client:
        assert client.tls is None


def test_another_thread_may_not_ask_the_connection(mux, papers):
    with serving(echo, ssl=papers.server()) as server:
        conn = mux.connect(server.address, ssl=papers.client(), server_hostname=NAME)
        harvest_until(mux, lambda acc: acc.opened)
        caught = []

        def ask():
            with pytest.raises(RuntimeError) as error:
                conn.tls  # noqa: B018
            caught.append(error.value)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert caught


# --- SNI, sessions, keys -------------------------------------------------------------


def test_a_sni_callback_chooses_the_certificate(mux, papers):
    other = papers.server(papers.certificate("other.example"))
    ours = papers.server()
    asked = []

    def choose(made, name, context):
        asked.append(name)
        if name == "other.example":
            made.context = other

    ours.sni_callback = choose
    with serving(echo, ssl=ours) as server:
        for name in (NAME, "other.example"):
            conn = mux.connect(
                server.address, ssl=papers.client(), server_hostname=name
            )
            conn.send(b"hello")
            harvest_until(mux, lambda acc: acc.messages)
            shown = conn.tls.peer_certificate()["subjectAltName"]
            assert ("DNS", name) in shown
            assert conn.tls.server_name == name
    assert asked == [NAME, "other.example"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sni_callback_that_raises_ends_that_connection_alone(papers):
    ours = papers.server()

    def choose(made, name, context):
        if name == "bad.example":
            raise KeyError(name)

    ours.sni_callback = choose
    with serving(echo, ssl=ours) as server:
        with pytest.raises(ssl.SSLError):
            secure(server.address, papers.client(), "bad.example")
        with secure(server.address, papers.client()) as peer:
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_is_resumed(version, papers, backend):
    views = []

    def handler(conn, data):
        views.append(conn.tls)
        return data

    theirs = papers.client(maximum_version=ssl.TLSVersion[version])
    with serving(handler, backend, ssl=papers.server()) as server:
        session = None
        for _ in range(2):
            peer = secure(server.address, theirs, session=session)
            peer.sendall(b"x")
            assert peer.recv(1) == b"x"
            session = peer.session
            ends(peer)
        stats = server.stats()
    assert [view.session_reused for view in views] == [False, True]
    assert (stats.tls_handshakes, stats.tls_resumed) == (2, 1)


def test_keys_are_logged_where_the_context_says_so(papers, tmp_path):
    ours = papers.server()
    ours.keylog_filename = str(tmp_path / "keys")
    with serving(echo, ssl=ours) as server:
        ends(secure(server.address, papers.client()))
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


def test_a_renewed_context_is_that_of_new_connections(papers, backend):
    ours, renewed = papers.server(), papers.server(papers.certificate("new.example"))
    with (
        serving(echo, backend, ssl=ours) as server,
        secure(server.address, papers.client()) as old,
    ):
        server.ssl = renewed
        with secure(server.address, papers.client(), "new.example") as new:
            for peer in (old, new):
                peer.sendall(b"x")
                assert peer.recv(1) == b"x"
    assert server.stats().tls_handshakes == 2


def test_a_peer_of_tls_is_accepted_by_pythons_own_ssl_in_both_directions(mux, papers):
    with util.listening() as listener:
        conn = mux.connect(
            listener.getsockname(), ssl=papers.client(), server_hostname=NAME
        )
        got = []

        def serve():
            with accept(listener, papers.server()) as peer:
                got.append(recv_exactly(peer, util.LONG))
                peer.sendall(got[0])
                peer.unwrap().close()

        thread = threading.Thread(target=serve)
        thread.start()
        conn.send(b"0123456789abcdef" * (util.LONG // 16))
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        thread.join()
    assert acc.received(conn) == got[0] == b"0123456789abcdef" * (util.LONG // 16)
