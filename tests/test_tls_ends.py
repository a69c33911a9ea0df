"""How connections over TLS end: a cut is no end."""

import errno
import socket
import ssl
import threading

import pytest

import pymux

from . import util
from .tls import NAME, accept, cut, ends, secure
from .util import harvest_until, in_server, recv_exactly, serving, wait_until

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()


@pytest.fixture
def noted(papers, backend):
    """(a server of lines over TLS, its handler, which notes ends)."""
    handler = util.Ends(bytes.upper)
    with serving(handler, backend, framing=LINES, ssl=papers.server()) as server:
        yield server, handler


# --- the peer ends -------------------------------------------------------------------


def test_close_notify_is_an_ordinary_end(noted, papers):
    server, handler = noted
    assert ends(secure(server.address, papers.client())) == b""
    wait_until(lambda: handler.ended)
    assert handler.errors() == [None]


def test_a_cut_is_an_error_and_frames_before_it_are_delivered(noted, papers):
    server, handler = noted
    with secure(server.address, papers.client()) as peer:
        peer.sendall(b"whole\nhalf a line")
        cut(peer)
        assert recv_exactly(peer, 6) == b"WHOLE\n"
        wait_until(lambda: handler.ended)
    ((_, error),) = handler.ended
    assert isinstance(error, ssl.SSLEOFError)
    assert isinstance(error, OSError)
    assert "close_notify" in str(error)
    assert server.stats().messages_in == 1


def test_the_last_line_without_its_end_is_a_message_only_behind_close_notify(
    noted, papers
):
    server, _ = noted
    with secure(server.address, papers.client()) as peer:
        peer.sendall(b"whole\nhalf")
        assert recv_exactly(peer, 6) == b"WHOLE\n"
        with pytest.raises(ssl.SSLError, match=r"(?i)after close.notify"):
            peer.unwrap()  # the answer comes before the server's end
        wait_until(lambda: server.stats().messages_in == 2)


def test_a_cut_is_an_ordinary_end_where_that_is_asked_for(backend, papers):
    handler = util.Ends(bytes.upper)
    with (
        serving(
            handler,
            backend,
            framing=LINES,
            ssl=papers.server(),
            require_close_notify=False,
        ) as server,
        secure(server.address, papers.client()) as peer,
    ):
        peer.sendall(b"whole\nhalf")
        cut(peer)
        assert recv_exactly(peer, 11) == b"WHOLE\nHALF\n"
        wait_until(lambda: handler.ended)
    assert handler.errors() == [None]


def test_a_coroutine_learns_of_a_cut(backend, papers):
    caught = []

    async def handler(conn):
        try:
            while await conn.recv() is not None:
                pass
        except pymux.ConnectionClosed as error:
            caught.append(error)
            raise

    with (
        serving(handler, backend, framing=LINES, ssl=papers.server()) as server,
        secure(server.address, papers.client()) as peer,
    ):
        cut(peer)
        wait_until(lambda: caught)
    (error,) = caught
    assert isinstance(error.__cause__, ssl.SSLEOFError)


def test_a_reset_stays_a_reset(noted, papers):
    server, handler = noted
    peer = secure(server.address, papers.client())
    wait_until(lambda: handler.open)  # the client is done first
    util.reset(peer)
    wait_until(lambda: handler.ended)
    assert handler.errors() == [errno.ECONNRESET]


def test_what_stands_before_a_bad_record_is_delivered_once(noted, papers):
    server, handler = noted
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = papers.client().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with util.connect(server.address) as sock:
        done = False
        while not done:
            try:
                made.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        made.write(b"one\ntwo\n")
        sock.sendall(outgoing.read() + b"\x17\x03\x03\x00\x20" + b"z" * 32)
        wait_until(lambda: handler.ended)
    ((_, error),) = handler.ended
    assert type(error) is ssl.SSLError
    assert server.stats().messages_in == 2


def test_a_bad_record_ends_the_connection_with_the_reason(noted, papers):
    server, handler = noted
    with secure(server.address, papers.client()) as peer:
        peer.sendall(b"one\n")
        assert recv_exactly(peer, 4) == b"ONE\n"
        socket.socket.sendall(peer, b"\x17\x03\x03\x00\x20" + b"z" * 32)
        with pytest.raises(ssl.SSLError):
            peer.recv(1)
        wait_until(lambda: handler.ended)
    ((_, error),) = handler.ended
    assert type(error) is ssl.SSLError
    assert "record" in str(error)


# --- this side ends ------------------------------------------------------------------


def test_close_says_close_notify_behind_all_output(mux, papers):
    listener = mux.listen(("127.0.0.1", 0), ssl=papers.server())
    got = []

    def visit():
        with secure(listener.address, papers.client()) as peer:
            got.append(util.recv_all(peer))

    thread = threading.Thread(target=visit)
    thread.start()
    (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
    conn.send(b"x" * util.LONG)
    conn.close()
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    thread.join()
    assert acc.error(conn) is None
    assert got == [b"x" * util.LONG]


def test_abort_says_no_close_notify(mux, papers):
    listener = mux.listen(("127.0.0.1", 0), ssl=papers.server())
    caught = []

    def visit():
        with (
            secure(listener.address, papers.client()) as peer,
            pytest.raises(OSError) as error,
        ):
            peer.recv(1)
        caught.append(error.value)

    thread = threading.Thread(target=visit)
    thread.start()
    (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
    conn.abort()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    thread.join()
    assert caught


def test_send_eof_ends_one_direction_and_the_other_goes_on(mux, papers):
    with util.listening() as listener:
        conn = mux.connect(
            listener.getsockname(),
            framing=LINES,
            ssl=papers.client(),
            server_hostname=NAME,
            half_open=True,
        )
        conn.send(b"question")
        conn.send_eof()
        got = []

        def serve():
            with accept(listener, papers.server()) as peer:
                got.append(util.recv_all(peer))
                for k in range(2000):
                    peer.sendall(b"answer %d\n" % k)
                peer.unwrap().close()

        thread = threading.Thread(target=serve)
        thread.start()
        acc = harvest_until(mux, lambda acc: conn in acc.ended)
        thread.join()
        assert got == [b"question\n"]
        assert acc.payloads == [b"answer %d" % k for k in range(2000)]
        conn.close()
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn), into=acc)
        assert acc.error(conn) is None


def test_send_eof_behind_input_that_is_not_delivered_yet_loses_none(mux, papers):
    text = b"".join(b"line %d\n" % k for k in range(3000))
    with util.listening() as listener:
        conn = mux.connect(
            listener.getsockname(),
            framing=LINES,
            ssl=papers.client(),
            server_hostname=NAME,
            half_open=True,
        )
        done = threading.Event()

        def serve():
            with accept(listener, papers.server()) as peer:
                peer.sendall(text)
                done.set()
                util.recv_all(peer)
                peer.unwrap().close()

        thread = threading.Thread(target=serve)
        thread.start()
        acc = harvest_until(mux, lambda acc: acc.messages)
        conn.pause()
        mux.harvest(0)
        assert done.wait(10)
        conn.send_eof()
        acc.add(mux.harvest(0))
        conn.resume()
        acc = harvest_until(mux, lambda acc: conn in acc.ended, into=acc)
        thread.join()
    assert b"".join(data + b"\n" for data in acc.payloads) == text


def test_a_stop_says_close_notify(papers, backend):
    with (
        serving(util.Ends(), backend, ssl=papers.server()) as server,
        secure(server.address, papers.client()) as peer,
    ):
        server.stop(drain_timeout=10)
        assert peer.recv(1) == b""


def test_a_stop_closes_connections_that_shake_hands(papers, backend):
    handler = util.Ends()
    with (
        serving(handler, backend, ssl=papers.server()) as server,
        util.connect(server.address) as peer,
    ):
        wait_until(lambda: server.stats().connections == 1)
        server.stop(drain_timeout=60)
        assert util.until_end(peer)[0] == b""
    assert handler.open == []


def test_a_fork_leaves_the_connection_to_the_parent(mux, papers):
    from .processes import in_child

    with serving(lambda conn, data: data, ssl=papers.server()) as server:
        conn = mux.connect(server.address, ssl=papers.client(), server_hostname=NAME)
        harvest_until(mux, lambda acc: acc.opened)
        in_child(mux.close)
        conn.send(b"hello")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.payloads == [b"hello"]
        assert in_server(server, lambda mux: len(mux.stats().ends)) == 0
