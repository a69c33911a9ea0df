"""What floods of records and of handshakes cost a server over TLS: bounded memory and
time, and peers that behave are served."""

import contextlib
import hmac
import random
import socket
import ssl
import struct
import sys
import threading

import pytest

import pymux

from . import bounds, handshakes, util
from .flooding import KIB, MIB
from .hostile import DATA, HEAD, Hostile, record, records_of
from .tls import NAME, secure

pytestmark = [
    pytest.mark.usefixtures("secured_by"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes as Linux has"),
]
EACH = 0.002  # seconds of a processor for a record; it takes a hundredth of that
LINES = pymux.Lines()
LIMITS = {"max_output": 4 * MIB}


class Flooded:
    """A server in a process of its own, and an honest peer."""

    def __init__(self, server, honest):
        self.server = server
        self.address = server.address
        self.honest = honest
        self.before = None  # its figures, before the flood

    def serves(self):
        """Assert that the honest peer is served, and gets its own bytes alone."""
        message = random.randbytes(2000).hex().encode() + b"\n"
        self.honest.sendall(message)
        assert util.recv_exactly(self.honest, len(message)) == message

    def costs(self, memory, records):
        """Assert that so many bytes and so many records' time were not exceeded."""
        self.serves()
        figures = self.server.figures()
        spent = figures["cpu"] - self.before["cpu"]
        assert spent < 1 + EACH * records, f"{spent:.2f} s for {records} records"
        self.server.within(bounds.FIXED + memory)
        return figures


@pytest.fixture
def flooded(papers):
    with (
        handshakes.tls_server(papers, None, limits=LIMITS) as server,
        secure(server.address, papers.client()) as honest,
    ):
        flooded = Flooded(server, honest)
        flooded.serves()
        flooded.before = server.figures("collect")
        server.idle = flooded.before["resident"]
        yield flooded


# --- records -------------------------------------------------------------------------


def test_a_million_bytes_in_records_of_one_byte_cost_what_records_cost(flooded):
    with Hostile(flooded.address, "TLSv1.2") as peer:
        once = b"".join(peer.sealed(DATA, b"x") for _ in range(3000))
        once += peer.sealed(DATA, b"\n")
        peer.say(once)
        peer.hears(b"x" * 3000 + b"\n")
        flooded.costs(256 * KIB, 3001)


def expand(secret, label, size):
    """HKDF-Expand-Label of RFC 8446, for one block of SHA-256."""
    label = b"tls13 " + label
    info = struct.pack(">HB", size, len(label)) + label + b"\0\1"
    return hmac.digest(secret, info, "sha256")[:size]


def updates(peer, count, wanted):
    """So many KeyUpdates of a peer that has said nothing under its keys, and behind
    them a line. tlslite's would take a minute."""
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead")
    secret = bytes(peer.session.cl_app_secret)
    update = b"\x18\0\0\1" + bytes([wanted]) + b"\x16"
    for plain in [update] * count + [b"behind them\n\x17"]:
        head = b"\x17\3\3" + (len(plain) + 16).to_bytes(2, "big")
        key, nonce = expand(secret, b"key", 32), expand(secret, b"iv", 12)
        yield head + aead.ChaCha20Poly1305(key).encrypt(nonce, plain, head)
        secret = expand(secret, b"traffic upd", 32)


@pytest.mark.parametrize("wanted", [False, True], ids=["not wanted", "wanted"])
def test_updates_of_keys_that_nobody_reads_are_bounded(flooded, wanted):
    messages = flooded.before["messages_in"]
    with Hostile(flooded.address) as peer:
        peer.say(*updates(peer, 40_000, wanted))
        flooded.server.until(lambda f: f["messages_in"] == messages + 1)
        flooded.costs(2 * MIB, 40_000)
        assert flooded.server.figures()["connections"] == 2


def test_a_peer_that_wants_updates_and_reads_none_is_paused(papers, tmp_path):
    # a Unix socket's kernel takes little for it
    place = str(tmp_path / "s")
    with (
        util.serving(
            lambda conn, data: data, None, place, framing=LINES, ssl=papers.server()
        ) as server,
        Hostile(place) as peer,
    ):
        data = b"".join(updates(peer, 40_000, True))
        thread = threading.Thread(target=peer.flood, args=([data],))
        thread.start()
        # an answer has 27 bytes; 64 KiB are high water
        util.wait_until(lambda: server.stats().queued > 64 * KIB, 30)
        queued = 0
        while queued != (queued := server.stats().queued):
            util.settle(server)
        assert queued < MIB
        assert server.stats().messages_in == 0  # the line behind them
        assert thread.is_alive()
        with secure_at(place, papers) as honest:
            honest.sendall(b"hello\n")
            assert util.recv_exactly(honest, 6) == b"hello\n"
        peer.raw.shutdown(socket.SHUT_RDWR)
        thread.join()
        util.wait_until(lambda: server.stats().connections == 0)


def test_others_are_served_before_a_flood_of_updates_is_through(papers):
    said = []
    with (
        util.serving(
            lambda conn, data: said.append(data), framing=LINES, ssl=papers.server()
        ) as server,
        Hostile(server.address) as peer,
        secure(server.address, papers.client()) as honest,
    ):
        data = b"".join(updates(peer, 40_000, False))
        thread = threading.Thread(target=peer.flood, args=([data],))
        with util.held(server):
            thread.start()
            honest.sendall(b"honest\n")
        util.wait_until(lambda: len(said) == 2, 30)
        thread.join()
    assert said == [b"honest", b"behind them"]


def secure_at(path, papers):
    """A client at a path that has shaken hands."""
    return papers.client().wrap_socket(util.connect(path), server_hostname=NAME)


def test_a_record_that_never_ends_is_kept_by_many_in_bounded_memory(flooded, papers):
    with contextlib.ExitStack() as stack:
        context = papers.client()
        socks = [
            stack.enter_context(secure(flooded.address, context)) for _ in range(50)
        ]
        for sock in socks:
            socket.socket.sendall(sock, b"\x17\3\3\x41\0" + bytes(16_000))
        flooded.costs(50 * 80 * KIB, 50)
        assert flooded.server.figures()["connections"] == 51


def test_many_that_send_and_never_read_take_what_the_documentation_says(papers):
    count, water = 60, 16 * KIB
    limits = {"high_water": water, "low_water": water // 4}
    line = b"x" * 60_000 + b"\n"
    context = papers.client()
    with (
        handshakes.tls_server(papers, None, limits=limits) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = []
        for _ in range(count):
            narrow = util.connect_narrow(server.address)
            sock = context.wrap_socket(narrow, server_hostname=NAME)
            socks.append(stack.enter_context(sock))
            sock.setblocking(False)
        now, before = server.figures(), None
        while now["queued"] <= count * water or now["bytes_in"] != before:
            before = now["bytes_in"]
            for sock in socks:
                fill(sock, line)
            now = server.figures()
        assert now["connections"] == count
        server.within(
            bounds.memory(
                count,
                framing=LINES,
                limits=pymux.Limits(**limits),
                carry=0,
                queued=server.most,  # all that is queued and unfinished
                tls=True,
            )
        )


def fill(sock, line):
    """Send until the kernel takes no more."""
    with contextlib.suppress(ssl.SSLWantWriteError):
        while True:
            sock.send(line)


# --- handshakes ----------------------------------------------------------------------


@pytest.fixture
def hello(papers):
    """The message by which a client begins."""
    return handshakes.hello(papers)[HEAD:]


@contextlib.contextmanager
def halves(flooded, count, data):
    """So many peers that say the same, and no more, for a block."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(util.connect(flooded.address))
            sock.sendall(data)
        flooded.server.until(lambda f: f["connections"] == count + 1)
        yield
    flooded.server.until(lambda f: f["connections"] == 1)


def test_half_handshakes_take_what_the_documentation_says(flooded, hello):
    with halves(flooded, 200, records_of(hello)):
        flooded.costs(200 * bounds.SHAKING, 200)
    assert flooded.server.figures()["tls_failed"] == 200


def test_hellos_as_long_as_openssl_takes_them_stay_within_what_is_documented(flooded):
    data = records_of(b"\1\2\0\0\3\3" + bytes(0x20000 - 2))
    with halves(flooded, 100, data[:-1]):
        flooded.costs(100 * bounds.LONG_HELLO, 100)


def test_hellos_that_only_claim_to_be_large(flooded):
    # OpenSSL makes room for the largest that it accepts, 128 KiB
    data = record(22, b"\1\1\xff\xff\3\3", 0x0301)
    with halves(flooded, 50, data):
        flooded.costs(50 * 256 * KIB, 50)


def test_a_crowd_of_garbage_costs_no_more_than_itself(flooded):
    chance = random.Random(15)
    for _ in range(300):
        with util.connect(flooded.address) as sock, contextlib.suppress(OSError):
            sock.sendall(chance.randbytes(chance.randrange(1, 20_000)))
    flooded.server.until(lambda f: f["connections"] == 1 and f["tls_failed"] == 300)
    flooded.costs(300 * 64 * KIB, 300)  # where all of it is here at once


# --- everybody gets their own --------------------------------------------------------


def test_among_peers_that_err_at_random_each_gets_its_own_bytes_alone(flooded, papers):
    chance = random.Random(16)
    context = papers.client()
    with contextlib.ExitStack() as stack:
        honest = [
            stack.enter_context(secure(flooded.address, context)) for _ in range(20)
        ]
        for number in range(20):
            peer = stack.enter_context(Hostile(flooded.address))
            mine = b"hostile %d\n" % number
            peer.say(peer.sealed(DATA, mine))
            peer.hears(mine)
            for k, sock in enumerate(honest):
                sock.sendall(b"%d of %d\n" % (number, k) * chance.randrange(1, 2000))
            bad = peer.sealed(DATA, b"x" * chance.randrange(1, 10_000))
            at = chance.randrange(HEAD, len(bad))
            peer.say(bad[:at] + bytes([bad[at] ^ 0x80]) + bad[at + 1 :])
            assert peer.hears_the_end() == 20  # which it could decrypt
            for k, sock in enumerate(honest):
                line = b"%d of %d\n" % (number, k)
                assert util.recv_exactly(sock, len(line)) == line
                rest(sock, line)
        flooded.serves()
    flooded.server.until(lambda f: f["connections"] == 1)


def rest(sock, line):
    """Assert that no other line comes than this one, as often as it was sent."""
    last = b"last\n"
    sock.sendall(last)
    data = b""
    while not data.endswith(last):
        data += sock.recv(1 << 20)
    assert data == line * ((len(data) - len(last)) // len(line)) + last
