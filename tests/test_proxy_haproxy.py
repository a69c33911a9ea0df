"""Servers behind a real HAProxy that speaks the PROXY protocol."""

import pytest

import pymux

from . import util
from .balancers import haproxy
from .tls import NAME, ends, secure

HERE = pymux.Proxy(("127.0.0.0/8", "::1", "unix"))
KINDS = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2 with TLVs": "send-proxy-v2 proxy-v2-options unique-id,crc32c",
}
FRAMINGS = {  # (framing, what is sent, what comes back)
    "raw": (None, b"hello", b"HELLO"),
    "lines": (pymux.Lines(), b"hello\nyou\n", b"HELLO\nYOU\n"),
    "length": (pymux.LengthPrefix(2), b"\0\5hello", b"\0\5HELLO"),
    "varint": (pymux.Varint(), b"\5hello", b"\5HELLO"),
    "fixed": (pymux.Fixed(5), b"hello", b"HELLO"),
}


class Seen:
    def __init__(self):
        self.opened_by = []
        self.proxies = []

    def opened(self, conn):
        self.opened_by.append((conn.peer, conn.local))
        self.proxies.append(conn.proxy)

    def received(self, conn, data):
        return data.upper()


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_framing_lies_behind_each_header(tmp_path, kind, framing):
    framing, sent, answer = FRAMINGS[framing]
    seen = Seen()
    with (
        haproxy(tmp_path) as balancer,
        util.serving(seen, framing=framing, proxy=HERE) as server,
    ):
        balancer.front("all", server.address, KINDS[kind])
        balancer.start()
        util.wait_until(lambda: seen.opened_by)  # of the look whether it listens
        with util.connect(balancer.fronts["all"]) as sock:
            sock.sendall(sent)
            assert util.recv_exactly(sock, len(answer)) == answer
            name = sock.getsockname()
        assert server.stats().refused == 0
    assert seen.opened_by[-1] == (name, balancer.fronts["all"])
    with_id = "TLV" in kind
    assert seen.proxies[-1].unique_id == (b"id-of-this" if with_id else None)
    assert [kind for kind, _ in seen.proxies[-1].tlvs] == ([3, 5] if with_id else [])


@pytest.mark.parametrize("kind", KINDS)
def test_tls_that_haproxy_passes_through_lies_behind_the_header(tmp_path, papers, kind):
    seen = Seen()
    with (
        haproxy(tmp_path) as balancer,
        util.serving(seen, ssl=papers.server(), proxy=HERE) as server,
    ):
        balancer.front("all", server.address, KINDS[kind])
        balancer.start()
        sock = secure(balancer.fronts["all"], papers.client())
        name = sock.getsockname()
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"
        assert ends(sock) == b""
    assert seen.opened_by == [(name, balancer.fronts["all"])]
    assert seen.proxies[0].transport[0] == "127.0.0.1"


def test_tls_that_haproxy_ends_is_told(tmp_path, papers):
    certificate = papers.certificate()
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        certificate.private_key_pem.bytes()
        + b"".join(one.bytes() for one in certificate.cert_chain_pems)
    )
    options = "send-proxy-v2-ssl proxy-v2-options ssl,ssl-cipher,authority"
    seen = Seen()
    with (
        haproxy(tmp_path) as balancer,
        util.serving(seen, proxy=HERE) as server,
    ):
        balancer.front("all", server.address, options, bind=f"ssl crt {pem}")
        balancer.start()
        sock = secure(balancer.fronts["all"], papers.client())
        told = sock.version(), sock.cipher()[0]
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"
        sock.close()
    proxy = seen.proxies[-1]
    assert proxy.authority == NAME
    assert proxy.ssl.over_tls
    assert not proxy.ssl.certificate
    assert not proxy.ssl.verified
    assert (proxy.ssl.version, proxy.ssl.cipher) == told


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_a_health_check_is_the_balancers_own(tmp_path, options):
    """And a server that does not trust the balancer is down for it."""
    seen = Seen()
    options += " check check-send-proxy inter 50ms fall 1 rise 1"
    nobody = pymux.Proxy("192.0.2.0/24")
    with (
        haproxy(tmp_path) as balancer,
        util.serving(seen, proxy=HERE) as server,
        util.serving(Seen(), proxy=nobody) as distrustful,
    ):
        balancer.front("all", server.address, options)
        balancer.front("none", distrustful.address, options)
        balancer.start()
        util.wait_until(lambda: len(seen.proxies) > 3)
        util.wait_until(lambda: distrustful.stats().refused > 3)
        assert balancer.status("to_all") == "UP"
        assert server.stats().refused == 0
    local = [peer[0] for peer, _ in seen.opened_by]
    assert set(local) == {"127.0.0.1"}


def test_unix_sockets_lie_behind_haproxy_too(tmp_path):
    seen = Seen()
    place = str(tmp_path / "server")
    with (
        haproxy(tmp_path) as balancer,
        util.serving(seen, address=place, proxy=pymux.Proxy("unix")),
    ):
        balancer.front("all", f"unix@{place}", KINDS["v2"])
        balancer.start()
        with util.connect(balancer.fronts["all"]) as sock:
            sock.sendall(b"hello")
            assert util.recv_exactly(sock, 5) == b"HELLO"
            name = sock.getsockname()
    assert seen.opened_by[-1] == (name, balancer.fronts["all"])
    assert seen.proxies[-1].transport == ""


@pytest.mark.parametrize("options", ["", "send-proxy"])
def test_haproxy_takes_the_header_that_a_mux_sends(tmp_path, options):
    """client → mux → HAProxy (accept-proxy) → server: the names come through."""
    names = ("192.0.2.1", 50000), ("198.51.100.2", 443)
    seen = Seen()
    with (
        haproxy(tmp_path) as balancer,
        util.serving(seen, proxy=HERE if options else None) as server,
        pymux.Mux() as mux,
    ):
        balancer.front("all", server.address, options, bind="accept-proxy")
        balancer.start()
        conn = mux.connect(balancer.fronts["all"], proxy=names)
        conn.send(b"hello")
        record = util.harvest_until(mux, lambda record: record.received(conn))
        assert record.received(conn) == b"HELLO"
    if options:
        assert seen.opened_by[-1] == names
