"""`proxy=`: connections behind a balancer that speaks the PROXY protocol."""

import asyncio
import ipaddress
import logging
import pickle
import socket
import struct

import pytest

import pymux

from . import util
from .hosts import needs_ipv6
from .util import FORMS, in_form

LOCAL = ("127.0.0.1", 0)
HERE = pymux.Proxy("127.0.0.0/8")
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 443\r\n"
PEER, OWN = ("192.0.2.1", 50000), ("198.51.100.2", 443)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def header_for(peer, local):
    """A header of version 2 with two names of one family."""
    ends = [(ipaddress.ip_address(host), port) for host, port in (peer, local)]
    family = {4: b"\x21\x11\0\x0c", 6: b"\x21\x21\0\x24"}[ends[0][0].version]
    ips = b"".join(ip.packed for ip, _ in ends)
    return SIGNATURE + family + ips + struct.pack("!HH", ends[0][1], ends[1][1])


V2 = header_for(PEER, OWN)


def with_tlvs(*tlvs, header=V2):
    """A header of version 2 with TLVs."""
    more = b"".join(struct.pack("!BH", kind, len(v)) + v for kind, v in tlvs)
    size = struct.unpack("!H", header[14:16])[0] + len(more)
    return header[:14] + struct.pack("!H", size) + header[16:] + more


class Seen:
    """Keeps what each connection has told, and answers in capitals."""

    def __init__(self):
        self.opened_by = []
        self.proxies = []
        self.ends = []

    def opened(self, conn):
        self.opened_by.append((conn.peer, conn.local))
        self.proxies.append(conn.proxy)

    def received(self, conn, data):
        return data.upper()

    def closed(self, conn, error):
        self.ends.append((conn.peer, conn.local, error, conn.proxy is not None))


def asked(address, sent, size=6):
    """What a server answers to this."""
    return util.exchange(address, sent, size)


def is_reset(address, sent):
    with util.connect(address) as sock:
        sock.sendall(sent)
        with pytest.raises(ConnectionResetError):
            util.recv_exactly(sock, 1)
    return True


# --- arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("10.0.0.0/8", ("10.0.0.0/8",)),
        (("10.1.2.3", "::1"), ("10.1.2.3/32", "::1/128")),
        (["unix"], ("unix",)),
        ((ipaddress.ip_network("fd00::/8"),), ("fd00::/8",)),
        ({"0.0.0.0/0"}, ("0.0.0.0/0",)),
    ],
)
def test_networks_are_shown_as_they_are_compared(given, shown):
    assert pymux.Proxy(given).trusted == shown


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (((),), ValueError, "a network like '10.0.0.0/8'"),
        (("",), ValueError, "trusted has ''"),
        (("balancer.example",), ValueError, "trusted has 'balancer.example'"),
        (("10.0.0.1/8",), ValueError, "'10.0.0.0/8' would be the network"),
        (("10.0.0.0/33",), ValueError, "trusted has '10.0.0.0/33'"),
        ((10,), TypeError, "trusted is 10; networks as strings"),
        (((10,),), TypeError, "networks as strings"),
        ((None,), TypeError, "networks as strings"),
    ],
)
def test_what_is_no_network_is_refused(arguments, error, text):
    with pytest.raises(error, match=text.replace("(", r"\(")):
        pymux.Proxy(*arguments)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 1e9])
def test_a_timeout_is_seconds_above_0(timeout):
    with pytest.raises(ValueError, match="timeout is "):
        pymux.Proxy("::1", timeout=timeout)


@pytest.mark.parametrize("timeout", [None, "5", True])
def test_a_timeout_is_a_number(timeout):
    with pytest.raises(TypeError, match="timeout is "):
        pymux.Proxy("::1", timeout=timeout)


def test_a_proxy_is_a_value():
    proxy = pymux.Proxy(("::1", "10.0.0.0/8"), timeout=2)
    assert pickle.loads(pickle.dumps(proxy)) == proxy
    assert proxy == pymux.Proxy(["::1/128", "10.0.0.0/8"], timeout=2.0)
    assert len({proxy, pymux.Proxy("::1")}) == 2


def test_something_else_than_a_proxy_is_refused(mux):
    with pytest.raises(TypeError, match=r"proxy is True; a pymux\.Proxy is needed"):
        mux.listen(LOCAL, proxy=True)
    with pytest.raises(TypeError, match=r"a pymux\.Proxy is needed"):
        pymux.Server(print, LOCAL, proxy="10.0.0.0/8")
    with pytest.raises(TypeError, match=r"a pymux\.Proxy is needed"):
        pymux.Endpoint(LOCAL, proxy=("10.0.0.0/8",))


def test_an_endpoint_with_a_proxy_is_not_connected_to(mux):
    with pytest.raises(ValueError, match=r"proxy is .*which cannot apply here"):
        mux.connect(pymux.Endpoint(("127.0.0.1", 1), proxy=HERE))


# --- what a header does -----------------------------------------------------------


@pytest.mark.parametrize("header", [LINE, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("form", FORMS)
def test_a_handler_of_each_form_serves_behind_a_header(backend, form, header):
    with util.serving(in_form(form, bytes.upper), backend, proxy=HERE) as server:
        assert asked(server.address, header + b"hello!") == b"HELLO!"


@pytest.mark.parametrize("header", [LINE, V2], ids=["v1", "v2"])
def test_a_connection_has_the_names_of_its_header(backend, header):
    seen = Seen()
    with util.serving(seen, backend, framing=pymux.Lines(), proxy=HERE) as server:
        assert util.everything(server.address, header + b"one\ntwo\n") == b"ONE\nTWO\n"
        util.wait_until(lambda: seen.ends)
    assert seen.opened_by == [(PEER, OWN)]
    assert seen.ends == [(PEER, OWN, None, True)]
    assert seen.proxies[0].transport[0] == "127.0.0.1"
    assert seen.proxies[0].tlvs == ()


def test_names_can_be_read_after_the_end(mux):
    listener = mux.listen(LOCAL, proxy=HERE)
    with util.connect(listener.address) as sock:
        sock.sendall(LINE)
        record = util.harvest_until(mux, lambda record: record.opened)
        (conn,) = record.opened
        proxy = conn.proxy
        assert conn.proxy.transport == sock.getsockname()
    util.harvest_until(mux, lambda record: record.closed)
    mux.harvest(0)
    assert (conn.peer, conn.local) == (PEER, OWN)
    assert conn.proxy is None
    assert proxy.transport[0] == "127.0.0.1"
    assert repr(conn).startswith("<Connection 192.0.2.1:50000 at 198.51.100.2:443")


def test_a_header_names_addresses_of_ipv6():
    seen = Seen()
    names = ("2001:db8::1", 1), ("2001:db8::2", 2)
    with util.serving(seen, proxy=HERE) as server:
        for header in (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
            header_for(*names),
        ):
            assert asked(server.address, header + b"hello!") == b"HELLO!"
    assert seen.opened_by == [names, names]


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ::1 ::2 1 2\r\n",
        SIGNATURE + b"\x20\0\0\0",
        SIGNATURE + b"\x21\0\0\0",
        SIGNATURE + b"\x21\x31\0\xd8" + b"/a".ljust(108, b"\0") * 2,
        SIGNATURE + b"\x21\x12" + V2[14:],
    ],
)
def test_a_header_that_names_nobody_leaves_the_sockets_names(backend, header):
    seen = Seen()
    with util.serving(seen, backend, proxy=HERE) as server:
        with util.connect(server.address) as sock:
            sock.sendall(header + b"hello!")
            assert util.recv_exactly(sock, 6) == b"HELLO!"
            names = sock.getsockname(), server.address
        util.wait_until(lambda: seen.ends)
    assert seen.opened_by == [names]
    is_local = header[12:13] == b"\x20"
    assert (seen.proxies[0] is None) is is_local


def test_a_connection_without_a_balancer_has_no_proxy(backend):
    seen = Seen()
    with util.serving(seen, backend) as server:
        assert asked(server.address, b"hello!") == b"HELLO!"
    assert seen.proxies == [None]


def test_tlvs_are_told():
    tls = b"\x07\0\0\0\0" + b"\x21\0\7TLSv1.3" + b"\x22\0\5alice" + b"\x23\0\4AES!"
    header = with_tlvs(
        (1, b"h2"), (2, b"www.example"), (5, b"\0id"), (0x20, tls), (0xE0, b"own")
    )
    seen = Seen()
    with util.serving(seen, proxy=HERE) as server:
        assert asked(server.address, header + b"hello!") == b"HELLO!"
    (proxy,) = seen.proxies
    assert [kind for kind, _ in proxy.tlvs] == [1, 2, 5, 0x20, 0xE0]
    assert proxy.tlvs[-1] == (0xE0, b"own")
    assert proxy.alpn == b"h2"
    assert proxy.authority == "www.example"
    assert proxy.unique_id == b"\0id"
    assert proxy.ssl.over_tls and proxy.ssl.certificate and proxy.ssl.verified
    assert proxy.ssl.version == "TLSv1.3"
    assert proxy.ssl.common_name == "alice"
    assert proxy.ssl.cipher == "AES!"
    assert proxy.ssl.key is None


def test_tlvs_that_do_not_come_are_none():
    seen = Seen()
    with util.serving(seen, proxy=HERE) as server:
        for header in (V2, with_tlvs((0x20, b"abc")), with_tlvs((2, b"\xff"))):
            assert asked(server.address, header + b"hello!") == b"HELLO!"
    plain, short, odd = seen.proxies
    assert (plain.unique_id, plain.authority, plain.alpn, plain.ssl) == (None,) * 4
    assert short.ssl is None
    assert odd.authority == "\\xff"


# --- who is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        V2[:12] + b"\x31" + V2[13:],
        with_tlvs((3, b"\0\0\0\0")),
    ],
)
def test_a_peer_without_a_valid_header_is_reset(backend, sent):
    seen = Seen()
    with util.serving(seen, backend, proxy=HERE) as server:
        assert is_reset(server.address, sent)
        util.wait_until(lambda: server.stats().refused == 1)
        util.wait_until(lambda: server.stats().connections == 0)
    assert seen.opened_by == seen.ends == []


def test_a_peer_of_another_network_is_reset(backend):
    proxy = pymux.Proxy(("10.0.0.0/8", "::/0", "unix"))
    seen = Seen()
    with util.serving(seen, backend, proxy=proxy) as server:
        with util.connect(server.address) as sock, pytest.raises(ConnectionError):
            sock.sendall(LINE)
            util.recv_exactly(sock, 1)
        util.wait_until(lambda: server.stats().refused == 1)
    assert seen.opened_by == []


@needs_ipv6
def test_an_ipv4_peer_of_a_dual_stack_listener_is_in_networks_of_ipv4(backend):
    seen = Seen()
    with util.serving(seen, backend, ("::", 0), proxy=HERE) as server:
        address = "127.0.0.1", server.address[1]
        assert asked(address, LINE + b"hello!") == b"HELLO!"
    assert seen.opened_by == [(PEER, OWN)]
    assert seen.proxies[0].transport[0] == "::ffff:127.0.0.1"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
@pytest.mark.parametrize("trusted", ["unix", "127.0.0.0/8"])
def test_unix_is_the_peers_of_a_unix_socket(backend, tmp_path, trusted):
    seen = Seen()
    place = str(tmp_path / "s")
    with util.serving(seen, backend, place, proxy=pymux.Proxy(trusted)) as server:
        if trusted == "unix":
            assert asked(place, LINE + b"hello!") == b"HELLO!"
            assert seen.opened_by == [(PEER, OWN)]
            assert seen.proxies[0].transport == ""
        else:
            with util.connect(place) as sock, pytest.raises(ConnectionError):
                sock.sendall(LINE)
                if not sock.recv(1):
                    raise ConnectionError
            util.wait_until(lambda: server.stats().refused == 1)


def test_a_header_that_does_not_come_in_time_is_a_reset(backend):
    proxy = pymux.Proxy("127.0.0.1", timeout=0.05)
    with util.serving(Seen(), backend, proxy=proxy) as server:
        assert is_reset(server.address, LINE[:10])
        util.wait_until(lambda: server.stats().refused == 1)


def test_an_opened_connection_outlives_the_timeout(mux):
    listener = mux.listen(LOCAL, proxy=pymux.Proxy("127.0.0.1", timeout=0.05))
    with util.connect(listener.address) as sock:
        sock.sendall(LINE)
        util.harvest_until(mux, lambda record: record.opened)
        mux.call_later(0.2, mux.wakeup)
        assert not mux.harvest(0.2).closed


def test_who_awaits_a_header_counts_for_max_connections(backend):
    limits = pymux.Limits(max_connections=1)
    seen = Seen()
    with (
        util.serving(seen, backend, proxy=HERE, limits=limits) as server,
        util.connect(server.address) as first,
    ):
        util.wait_until(lambda: server.stats().connections == 1)
        with util.connect(server.address) as second:
            second.sendall(LINE + b"hello!")
            util.wait_until(lambda: server.stats().accept_pauses == 1)
            assert seen.opened_by == []
            first.close()
            assert util.recv_exactly(second, 6) == b"HELLO!"


def test_max_per_peer_counts_the_client_and_not_the_balancer(backend):
    limits = pymux.Limits(max_per_peer=1)
    other = b"PROXY TCP4 192.0.2.9 198.51.100.2 50000 443\r\n"
    with (
        util.serving(Seen(), backend, proxy=HERE, limits=limits) as server,
        util.connect(server.address) as first,
    ):
        first.sendall(LINE + b"hello!")
        assert util.recv_exactly(first, 6) == b"HELLO!"
        assert asked(server.address, other + b"hello!") == b"HELLO!"
        assert is_reset(server.address, LINE)
        util.wait_until(lambda: server.stats().refused_per_peer == 1)


def test_the_log_tells_who_was_refused_and_why(caplog):
    with (
        caplog.at_level(logging.WARNING, "pymux"),
        util.serving(Seen(), proxy=HERE) as server,
    ):
        with util.connect(server.address) as sock:
            name = sock.getsockname()
            sock.sendall(b"GET /\r\n")
            with pytest.raises(ConnectionResetError):
                util.recv_exactly(sock, 1)
        util.wait_until(lambda: caplog.records)
        address = server.address
    (record,) = caplog.records
    assert (record.event, record.peer, record.local) == ("proxy", name, address)
    assert "no PROXY header" in record.getMessage()
    caplog.clear()


def test_a_probe_without_a_byte_is_not_told(caplog):
    with (
        caplog.at_level(logging.WARNING, "pymux"),
        util.serving(Seen(), proxy=HERE) as server,
    ):
        util.connect(server.address).close()
        util.wait_until(lambda: server.stats().refused == 1)
    assert caplog.records == []


# --- where it is given --------------------------------------------------------------


def test_an_endpoint_has_its_own_balancers():
    seen = Seen()
    places = [pymux.Endpoint(LOCAL, proxy=HERE), LOCAL]
    with pymux.Server(seen, places) as server:
        behind, plain = server.addresses
        assert asked(behind, LINE + b"hello!") == b"HELLO!"
        assert asked(plain, b"hello!") == b"HELLO!"
    assert [proxy is None for proxy in seen.proxies] == [False, True]


def test_an_asyncio_server_has_balancers():
    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    seen = Seen()

    async def main():
        async with pymux.aio.serve(seen, LOCAL, proxy=HERE) as server:
            await asyncio.to_thread(asked, server.address, LINE + b"hello!")

    asyncio.run(main())
    assert seen.opened_by == [(PEER, OWN)]


def test_stop_takes_the_headers_that_have_come(backend):
    with util.serving(Seen(), backend, proxy=HERE) as server:
        with util.then_stopped(server):
            sock = util.connect(server.address)
            sock.sendall(LINE + b"hello!")
        with sock:
            assert util.until_end(sock) == (b"HELLO!", None)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="nothing moves there")
def test_a_connection_that_moves_keeps_what_its_header_told(backend):
    header = with_tlvs((5, b"id"))
    with pymux.Mux(backend) as old, pymux.Mux(backend) as new:
        listener = old.listen(LOCAL, proxy=HERE)
        with util.connect(listener.address) as sock:
            sock.sendall(header)
            record = util.harvest_until(old, lambda record: record.opened)
            old.harvest(0)
            conn = new.adopt(old.detach(record.opened[0]))
            assert (conn.peer, conn.local) == (PEER, OWN)
            assert conn.proxy.unique_id == b"id"
            assert conn.proxy.transport == sock.getsockname()
            conn.abort()
