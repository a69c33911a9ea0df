"""Hostile records and handshakes: each ends its own connection at most, what it costs
is bounded, and every peer gets its own bytes alone."""

import contextlib
import random
import ssl

import pytest

import pymux

from . import handshakes, util
from .hostile import (
    ALERT,
    CHANGE_CIPHER_SPEC,
    DATA,
    HANDSHAKE,
    HEAD,
    HEARTBEAT,
    VERSIONS,
    Hostile,
    Left,
    padded,
    record,
    records_of,
)
from .tls import secure
from .util import recv_exactly, serving, wait_until

pytestmark = pytest.mark.usefixtures("secured_by")

LINES = pymux.Lines()
RENEGOTIATION = b"\1\0\0\x29" + b"\3\3" + bytes(32) + b"\0\0\2\xc0\x2b\1\0"  # a hello


class Watched:
    """A server of lines over TLS, and honest peers that must notice nothing."""

    def __init__(self, server, handler, answered, honest):
        self.server = server
        self.handler = handler
        self.answered = answered
        self.honest = honest
        self.address = server.address

    def all_are_well(self):
        """Assert that honest peers are served, and get their own bytes."""
        for number, peer in enumerate(self.honest):
            message = b"%d" % number * 5000 + b"\n"
            peer.sendall(message)
            assert recv_exactly(peer, len(message)) == message

    def one_has_ended(self):
        """The error with which the one other connection has ended."""
        wait_until(lambda: self.handler.ended)
        self.all_are_well()
        ((_, error),) = self.handler.ended
        return error


@pytest.fixture
def watched(papers, backend):
    answered = []

    def note(data):
        answered.append(data)
        return data

    handler = util.Ends(note)
    with (
        serving(handler, backend, framing=LINES, ssl=papers.server()) as server,
        contextlib.ExitStack() as stack,
    ):
        context = papers.client()
        honest = [
            stack.enter_context(secure(server.address, context)) for _ in range(3)
        ]
        watched = Watched(server, handler, answered, honest)
        watched.all_are_well()
        yield watched
        watched.all_are_well()


@pytest.fixture(params=VERSIONS)
def version(request):
    """Each version of TLS, in turn."""
    return request.param


@pytest.fixture
def peer(watched, version):
    """A `Hostile` that has been answered."""
    with Hostile(watched.address, version) as peer:
        peer.say(peer.sealed(DATA, b"mine\n"))
        peer.hears(b"mine\n")
        yield peer


@pytest.fixture
def latest(watched):
    """The same of TLS 1.3."""
    with Hostile(watched.address) as peer:
        peer.say(peer.sealed(DATA, b"mine\n"))
        peer.hears(b"mine\n")
        yield peer


# --- records that end a connection ---------------------------------------------------


def flipped(data, at):
    """Bytes of which one has another bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [HEAD, HEAD + 9, -1], ids=["first", "tenth", "last"])
def test_a_forged_record_ends_the_connection(peer, watched, at):
    made = peer.sealed(DATA, b"forged line\n")
    peer.say(flipped(made, at % len(made)))
    assert peer.hears_the_end() == 20  # bad_record_mac
    assert type(watched.one_has_ended()) is ssl.SSLError
    assert b"forged line" not in watched.answered


def test_records_in_another_order_end_the_connection(peer, watched):
    first, second = peer.sealed(DATA, b"first\n"), peer.sealed(DATA, b"second\n")
    peer.say(second, first)
    assert peer.hears_the_end() == 20
    assert type(watched.one_has_ended()) is ssl.SSLError
    assert b"first" not in watched.answered
    assert b"second" not in watched.answered


def test_a_record_that_comes_twice_ends_the_connection_behind_its_message(
    peer, watched
):
    once = peer.sealed(DATA, b"once\n")
    peer.say(once)
    peer.hears(b"once\n")
    peer.say(once)
    assert peer.hears_the_end() == 20
    assert type(watched.one_has_ended()) is ssl.SSLError
    assert watched.answered.count(b"once") == 1


def test_a_record_that_is_lost_ends_the_connection(peer, watched):
    peer.sealed(DATA, b"lost\n")
    peer.say(peer.sealed(DATA, b"found\n"))
    assert peer.hears_the_end() == 20
    assert type(watched.one_has_ended()) is ssl.SSLError
    assert b"found" not in watched.answered


@pytest.mark.parametrize("left", [1, HEAD, HEAD + 1, -1])
def test_a_truncated_record_is_a_cut(peer, watched, left):
    peer.say(peer.sealed(DATA, b"whole\n"), peer.sealed(DATA, b"cut\n")[:left])
    peer.hears(b"whole\n")
    peer.leave()
    assert type(watched.one_has_ended()) is ssl.SSLEOFError
    assert b"cut" not in watched.answered


def too_long(peer):
    return record(DATA, b"", size=16384 + 2049)


def too_long_inside(peer):
    return peer.sealed(DATA, b"x" * 16384 + b"\n")


def plain(peer):
    return record(DATA, b"never encrypted, or so\n")


def of_no_kind(peer):
    return peer.sealed(99, b"line\n")


def heartbeat(peer):
    return peer.sealed(HEARTBEAT, b"\1\x40\0")  # that of Heartbleed


def of_another_version(peer):
    made = peer.sealed(DATA, b"line\n")
    return made[:1] + b"\2\0" + made[3:]


def ssl_2(peer):
    return b"\x80\x2e\1\0\2" + bytes(42)


def bad_message(peer):
    return peer.sealed(HANDSHAKE, b"\xfe\0\0\1x")


def empty_message(peer):
    return peer.sealed(HANDSHAKE, b"")


def hello_done_again(peer):
    return peer.sealed(HANDSHAKE, b"\x14\0\0\x20" + bytes(32))  # Finished


@pytest.mark.parametrize(
    "make",
    [
        too_long,
        too_long_inside,
        plain,
        of_no_kind,
        heartbeat,
        of_another_version,
        ssl_2,
        bad_message,
        hello_done_again,
    ],
    ids=lambda make: make.__name__,
)
def test_a_record_that_has_no_place_ends_the_connection(peer, watched, make):
    peer.say(make(peer))
    peer.hears_the_end()
    assert type(watched.one_has_ended()) is ssl.SSLError
    assert watched.answered.count(b"mine") == 1
    assert b"line" not in watched.answered


BAD_IN_1_3 = {
    "a second hello": (HANDSHAKE, RENEGOTIATION),
    "an update of no kind": (HANDSHAKE, b"\x18\0\0\1\7"),
    "an update without a body": (HANDSHAKE, b"\x18\0\0\0"),
    "an update and more": (HANDSHAKE, b"\x18\0\0\1\0\x18\0\0\1\0"),
    "a message of 16 MB": (HANDSHAKE, b"\x18\xff\xff\xff" + bytes(100)),
    "a certificate unasked": (HANDSHAKE, b"\x0b\0\0\4\0\0\0\0"),
    "a ticket of a client's": (HANDSHAKE, b"\4\0\0\5\0\0\0\0\0"),
    "the end of early data": (HANDSHAKE, b"\5\0\0\0"),
    "an alert of one byte": (ALERT, b"\2"),
    "an alert of no level": (ALERT, b"\7\x50"),
    "a sealed change of ciphers": (CHANGE_CIPHER_SPEC + 100, b"\1"),
}


@pytest.mark.parametrize("what", BAD_IN_1_3)
def test_a_message_that_has_no_place_ends_the_connection(latest, watched, what):
    latest.say(latest.sealed(*BAD_IN_1_3[what]))
    latest.hears_the_end()
    assert type(watched.one_has_ended()) is ssl.SSLError


def test_a_fatal_alert_is_the_error_of_the_connection(peer, watched):
    peer.say(peer.sealed(ALERT, b"\2\x50"))  # internal_error
    peer.hears_the_end()
    error = watched.one_has_ended()
    assert type(error) is ssl.SSLError
    assert "INTERNAL_ERROR" in error.reason


# --- floods of small records ---------------------------------------------------------


def test_empty_records_in_a_row_end_the_connection(peer, watched):
    peer.flood(peer.sealed(DATA, b"") for _ in range(1000))
    peer.hears_the_end()
    error = watched.one_has_ended()
    assert isinstance(error, OSError)


def test_a_few_empty_records_among_others_do_no_harm(peer, watched):
    for _ in range(20):
        peer.say(*[peer.sealed(DATA, b"") for _ in range(10)])
        peer.say(peer.sealed(DATA, b"line\n"))
        peer.hears(b"line\n")
    assert watched.handler.ended == []


def test_a_line_in_records_of_one_byte_is_one_message(peer, watched):
    line = b"%05d" * 400 % tuple(range(400)) + b"\n"
    peer.say(*[peer.sealed(DATA, bytes([byte])) for byte in line])
    peer.hears(line)
    assert watched.answered.count(line[:-1]) == 1


def test_updates_of_keys_without_end_change_nothing(latest, watched):
    for turn in range(5):
        latest.say(*[latest.update() for _ in range(200)])
        line = b"%d\n" % turn
        latest.say(latest.sealed(DATA, line))
        latest.hears(line)
    assert watched.handler.ended == []


def test_updates_of_both_keys_are_answered(latest, watched):
    for turn in range(5):
        latest.say(*[latest.update(wanted=True) for _ in range(50)])
        line = b"%d\n" % turn
        latest.say(latest.sealed(DATA, line))
        latest.hears(line)
    assert watched.handler.ended == []


def test_warnings_without_end_are_no_work_without_end(peer, watched):
    alert = b"\1\x5a"  # user_canceled
    peer.flood(peer.sealed(ALERT, alert) for _ in range(1000))
    peer.hears_the_end()
    assert type(watched.one_has_ended()) is ssl.SSLError


# --- handshakes ----------------------------------------------------------------------


@pytest.fixture
def hello(papers):
    """The message by which a client begins."""
    return handshakes.hello(papers)[HEAD:]


def fails(watched, *parts):
    """Assert that a peer that sends bytes has failed, and that no other has."""
    failed = watched.server.stats().tls_failed
    with util.connect(watched.address) as sock:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                sock.sendall(part)
        answer = util.until_end(sock)[0]
    wait_until(lambda: watched.server.stats().tls_failed == failed + 1)
    watched.all_are_well()
    assert watched.handler.ended == []
    return answer


def test_garbage_fails_whatever_it_is(watched):
    chance = random.Random(14)
    for size in (1, 5, 6, 100, 5000, 70_000, 300_000) * 3:
        start = chance.choice([b"", b"\x16\3\1\2\0", b"\x16\3\1\2\0\1\0\1\xfc\3\3"])
        data = start + chance.randbytes(size)
        failed = watched.server.stats().tls_failed
        with util.connect(watched.address) as sock, contextlib.suppress(OSError):
            sock.sendall(data)
            sock.shutdown(1)
            util.until_end(sock)
        wait_until(lambda n=failed: watched.server.stats().tls_failed == n + 1)
    assert watched.handler.ended == []


def test_a_hello_of_60_kb_is_answered(watched, hello):
    with util.connect(watched.address) as sock:
        sock.sendall(records_of(padded(hello, 60_000)))
        assert recv_exactly(sock, 1) == bytes([HANDSHAKE])


def test_a_hello_of_60_kb_in_records_of_a_byte_is_answered_or_fails(watched, hello):
    with util.connect(watched.address) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(records_of(padded(hello, 60_000), 1))
        assert recv_exactly(sock, 1) in (bytes([HANDSHAKE]), bytes([ALERT]))


def test_a_hello_that_claims_16_mb_fails_at_its_first_bytes(watched):
    fails(watched, records_of(b"\1\xff\xff\xff" + b"\3\3" + bytes(200)))


def test_a_hello_that_comes_twice_fails(watched, hello):
    fails(watched, records_of(hello), records_of(hello))


def test_changes_of_ciphers_without_end_fail(watched, hello):
    change = record(CHANGE_CIPHER_SPEC, b"\1")
    fails(watched, records_of(hello), change * 1000)


def test_empty_records_without_end_fail(watched):
    fails(watched, record(HANDSHAKE, b"", 0x0301) * 1000)


def test_a_message_of_a_server_fails(watched, hello):
    fails(watched, records_of(b"\2" + hello[1:]))


def test_a_bad_end_of_the_handshake_fails(watched, hello, version):
    finished = record(DATA, bytes(53)) if version == "TLSv1.3" else b""
    fails(
        watched,
        records_of(hello),
        record(CHANGE_CIPHER_SPEC, b"\1"),
        finished or record(HANDSHAKE, bytes(40)),
    )


def test_a_handshake_that_is_left_anywhere_leaves_nothing(watched, version):
    with Hostile(watched.address, version) as peer:
        pieces = list(peer.pieces)
    wait_until(lambda: watched.handler.ended)
    places = [
        (piece, at)
        for piece, data in enumerate(pieces)
        for at in range(0, len(data), max(1, len(data) // 12))
    ]
    for cut in places:
        with pytest.raises(Left):
            Hostile(watched.address, version, cut=cut)
    wait_until(lambda: watched.server.stats().tls_failed == len(places))
    wait_until(lambda: watched.server.stats().connections == len(watched.honest))
    assert len(watched.handler.ended) == 1
