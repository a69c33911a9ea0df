"""Servers that say what no honest one says, to connections that a mux makes: each ends
its own connection at most, with an error that says so."""

import contextlib
import random
import ssl
import threading

import pytest

import pymux

from . import util
from .hostile import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    DATA,
    HANDSHAKE,
    VERSIONS,
    HostileServer,
    record,
    records_of,
)
from .tls import NAME
from .util import harvest_until

pytestmark = pytest.mark.usefixtures("secured_by")

TICKET = (
    b"\4\0\0\x2e" + b"\0\1\0\0" + bytes(4) + b"\1\0" + b"\0\x20" + bytes(32) + b"\0\0"
)


class Caller:
    """A mux with a connection to an honest server, and one to a server of the test."""

    def __init__(self, mux, listener, context, honest):
        self.mux = mux
        self.listener = listener
        self.honest = self.connect(honest, context)
        self.all_are_well()
        self.conn = self.connect(listener.getsockname(), context)

    def connect(self, address, context):
        return self.mux.connect(
            address, framing=pymux.Lines(), ssl=context, server_hostname=NAME
        )

    def all_are_well(self):
        """Assert that the honest server is heard."""
        self.honest.send(b"0123456789" * 3000)
        acc = harvest_until(
            self.mux, lambda acc: any(conn is self.honest for conn, _ in acc.messages)
        )
        (data,) = [data for conn, data in acc.messages if conn is self.honest]
        assert data == b"0123456789" * 3000
        return acc

    def meets(self, act):
        """Run act(listener) in a thread, until the connection has closed: what was
        harvested."""
        caught = []

        def run():
            try:
                act(self.listener)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        acc = harvest_until(self.mux, lambda acc: acc.is_closed(self.conn), 30)
        thread.join()
        assert caught == []
        self.all_are_well()
        return acc


@pytest.fixture
def caller(mux, listening, papers):
    with util.serving(lambda conn, data: data, ssl=papers.server()) as honest:
        yield Caller(mux, listening, papers.client(), honest.address)


@pytest.fixture(params=VERSIONS)
def meets(request, caller, papers):
    """Calls act(peer) with a `HostileServer` of each version; what was harvested."""

    def meets(act):
        def serve(listener):
            with HostileServer(listener, papers.certificate(), request.param) as peer:
                peer.say(peer.sealed(DATA, b"hello\n"))
                act(peer)
                with contextlib.suppress(OSError):
                    util.until_end(peer.raw)

        return caller.meets(serve)

    meets.version = request.param
    meets.conn = caller.conn
    return meets


# --- instead of a handshake ----------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"220 smtp.example ready\r\n",
        random.Random(17).randbytes(50_000),
        record(HANDSHAKE, b"", 0x0301) * 1000,
        records_of(b"\2\xff\xff\xff" + bytes(1000)),
        records_of(b"\2\0\0\x26\3\3" + bytes(36)),
        record(CHANGE_CIPHER_SPEC, b"\1") * 1000,
        record(ALERT, b"\2\x28"),
        record(ALERT, b"\1\x5a") * 1000,
        record(DATA, b"hello\n"),
    ],
    ids=[
        "lines",
        "garbage",
        "empty records",
        "a hello of 16 MB",
        "a hello of zeroes",
        "changes of ciphers",
        "an alert",
        "warnings",
        "data",
    ],
)
def test_what_is_no_hello_of_a_server_ends_the_connection(caller, data):
    def act(listener):
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            sock.settimeout(10)
            sock.recv(65536)
            sock.sendall(data)
            util.until_end(sock)

    acc = caller.meets(act)
    assert isinstance(acc.error(caller.conn), ssl.SSLError)
    assert acc.opened == []
    assert acc.received(caller.conn) == b""


# --- behind it -----------------------------------------------------------------------


def test_a_forged_record_of_a_server_ends_the_connection(meets):
    def act(peer):
        made = peer.sealed(DATA, b"forged\n")
        peer.say(made[:-1] + bytes([made[-1] ^ 1]))

    acc = meets(act)
    assert type(acc.error(meets.conn)) is ssl.SSLError
    assert acc.received(meets.conn) == b"hello"


def test_records_of_a_server_in_another_order_end_the_connection(meets):
    def act(peer):
        first, second = peer.sealed(DATA, b"first\n"), peer.sealed(DATA, b"second\n")
        peer.say(second, first)

    acc = meets(act)
    assert type(acc.error(meets.conn)) is ssl.SSLError
    assert acc.received(meets.conn) == b"hello"


def test_a_server_that_leaves_in_a_record_has_cut(meets):
    def act(peer):
        peer.say(peer.sealed(DATA, b"cut\n")[:-1])
        peer.leave()

    acc = meets(act)
    assert type(acc.error(meets.conn)) is ssl.SSLEOFError
    assert acc.received(meets.conn) == b"hello"


def test_empty_records_of_a_server_in_a_row_end_the_connection(meets):
    acc = meets(lambda peer: peer.flood(peer.sealed(DATA, b"") for _ in range(1000)))
    assert isinstance(acc.error(meets.conn), OSError)


def test_requests_to_negotiate_again_are_refused_or_have_no_place(meets):
    """A HelloRequest, of TLS 1.2."""
    acc = meets(
        lambda peer: peer.flood(
            [*(peer.sealed(HANDSHAKE, bytes(4)) for _ in range(1000)), bytes(5)]
        )
    )
    assert isinstance(acc.error(meets.conn), OSError)
    assert acc.received(meets.conn) == b"hello"


def test_tickets_and_updates_without_end_are_taken(caller, papers):
    def act(listener):
        with HostileServer(listener, papers.certificate()) as peer:
            for number in range(5):
                peer.say(*[peer.sealed(HANDSHAKE, TICKET) for _ in range(300)])
                peer.say(*[peer.update(number % 2) for _ in range(50)])
                peer.say(peer.sealed(DATA, b"%d\n" % number))
            peer.say(peer.sealed(ALERT, b"\1\0"))  # close_notify
            util.until_end(peer.raw)

    acc = caller.meets(act)
    assert acc.error(caller.conn) is None
    assert acc.received(caller.conn) == b"01234"
