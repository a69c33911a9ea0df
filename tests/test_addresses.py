"""Addresses: TCP over IPv4 and IPv6, and names."""

import errno
import socket
import sys

import pytest

from . import util
from .hosts import needs_ipv6, results
from .processes import python
from .util import connect, harvest_until, pair, says_hello

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


# -- TCP ---------------------------------------------------------------------------


def test_port_zero_picks_one(mux):
    host, port = mux.listen(("127.0.0.1", 0)).address
    assert host == "127.0.0.1"
    assert 0 < port < 65536


def test_ipv4_works(mux):
    conn = says_hello(mux, ("127.0.0.1", 0))
    assert conn.local[0] == conn.peer[0] == "127.0.0.1"


@needs_ipv6
def test_ipv6_works(mux):
    conn = says_hello(mux, ("::1", 0))
    assert conn.local[0] == conn.peer[0] == "::1"
    assert len(conn.peer) == 2


@needs_ipv6
def test_an_ipv6_address_is_a_host_and_a_port(mux):
    address = mux.listen(("::1", 0)).address
    assert address == ("::1", address[1])


@needs_ipv6
def test_a_tuple_of_four_is_accepted(mux):
    says_hello(mux, ("::1", 0, 0, 0))


@needs_ipv6
def test_connect_accepts_a_tuple_of_four(mux):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert len(server.getsockname()) == 4
        conn = mux.connect(server.getsockname())
        harvest_until(mux, lambda acc: acc.opened == [conn])
        assert conn.peer == server.getsockname()[:2]


@needs_ipv6
@linux
def test_a_scope_is_accepted(mux):
    listener = mux.listen(("::1", 0))
    conn = mux.connect(("::1%1", listener.address[1]))
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 2)
    assert conn in acc.opened


def test_the_empty_host_is_every_ipv4_interface(mux):
    listener = mux.listen(("", 0))
    assert listener.address[0] == "0.0.0.0"
    with connect(("127.0.0.1", listener.address[1])):
        harvest_until(mux, lambda acc: acc.opened)


@needs_ipv6
def test_two_colons_are_dual_stack(mux):
    listener = mux.listen(("::", 0))
    assert listener.address[0] == "::"
    port = listener.address[1]
    with connect(("::1", port)), connect(("127.0.0.1", port)):
        harvest_until(mux, lambda acc: len(acc.opened) == 2)


def test_a_name_can_be_listened_on(mux):
    assert says_hello(mux, ("localhost", 0)).local[0] == "127.0.0.1"


def test_listen_on_a_name_takes_its_first_ipv4_result(mux, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", results("::1", "127.0.0.2", "127.0.0.1"))
    assert mux.listen(("a-name", 0)).address[0] == "127.0.0.2"


@needs_ipv6
def test_listen_on_a_name_without_ipv4_takes_its_first_result(mux, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", results("::1"))
    assert mux.listen(("a-name", 0)).address[0] == "::1"


def test_connect_by_name_works(mux):
    listener = mux.listen(("127.0.0.1", 0))
    conn = mux.connect(("localhost", listener.address[1]))
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 2)
    assert conn in acc.opened


@linux
def test_connect_tries_the_results_in_order(mux, monkeypatch):
    listener = mux.listen(("127.0.0.3", 0))
    monkeypatch.setattr(
        socket, "getaddrinfo", results("127.0.0.2", "127.0.0.3", "127.0.0.4")
    )
    conn = mux.connect(("a-name", listener.address[1]))
    conn.send(b"hello")
    acc = harvest_until(mux, lambda acc: acc.messages)
    assert acc.opened.count(conn) == 1
    assert acc.closed == []
    assert conn.peer == listener.address


@linux
def test_connect_reports_the_last_error(mux, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", results("127.0.0.2", "127.0.0.3"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        conn = mux.connect(("a-name", taken.getsockname()[1]))
        acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
        assert acc.errno(conn) == errno.ECONNREFUSED
        acc.add(mux.harvest(0))
        assert len(acc.closed) == 1
        assert acc.opened == []


@pytest.mark.parametrize("call", ["listen", "connect"])
def test_a_name_that_does_not_resolve_is_raised(mux, call):
    with pytest.raises(OSError, match="no such host"):
        getattr(mux, call)(("no such host", 80))


@pytest.mark.parametrize("call", ["listen", "connect"])
@pytest.mark.parametrize("port", [-1, 65536, 1 << 40])
def test_a_port_out_of_range_is_named(mux, call, port):
    with pytest.raises((ValueError, OverflowError), match=str(port)):
        getattr(mux, call)(("127.0.0.1", port))


@pytest.mark.parametrize("call", ["listen", "connect"])
@pytest.mark.parametrize(
    "address", [8093, None, ("127.0.0.1",), (), ("127.0.0.1", "http", 3), (1, 2), b"x"]
)
def test_what_is_no_address_is_refused(mux, call, address):
    with pytest.raises((TypeError, ValueError)):
        getattr(mux, call)(address)
    assert mux.stats().listeners == mux.stats().connections == 0


@pytest.mark.parametrize("call", ["listen", "connect"])
@pytest.mark.parametrize(
    "text, host", [("127.0.0.1:8093", "127.0.0.1"), ("localhost:8093", "localhost")]
)
def test_host_and_port_in_a_string_show_the_tuple(mux, call, text, host):
    with pytest.raises(ValueError) as caught:
        getattr(mux, call)(text)
    assert str((host, 8093)) in str(caught.value).replace('"', "'")


def test_an_address_of_nobody_here_is_raised_by_listen(mux):
    with pytest.raises(OSError, match=r"192\.0\.2\.77") as caught:
        mux.listen(("192.0.2.77", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


# -- Unix paths --------------------------------------------------------------------


def test_an_address_stays_after_its_connection_is_aborted(mux):
    conn, peer = pair(mux)
    with peer:
        expected = peer.getsockname()
        conn.abort()
        mux.harvest(0)
        assert conn.peer == expected


# -- a connection to oneself -------------------------------------------------------

ALONE = """
import asyncio, ctypes, errno, os, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x40000000):  # CLONE_NEWNET
    sys.exit("skip: no network namespace: " + os.strerror(ctypes.get_errno()))
try:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
        file.write("40000 40007")
except (OSError, subprocess.CalledProcessError) as error:
    sys.exit(f"skip: {error}")

import socket
import pymux, pymux.aio

HOST, PORT = sys.argv[2], 40004


def plain():
    "Whether a plain socket is connected to itself here at all."
    family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    for _ in range(400):
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1" + bytes(7))
            if not sock.connect_ex((HOST, PORT)):
                return True
    return False


def refused(error):
    assert isinstance(error, ConnectionRefusedError), error


def by_mux():
    with pymux.Mux() as mux:
        conns = {mux.connect((HOST, PORT)) for _ in range(8)}
        while conns:
            batch = mux.harvest(5)
            assert not batch.opened, batch.opened[0].local
            for conn, error in batch.closed:
                conns.remove(conn)
                refused(error)


def by_client():
    try:
        pymux.connect((HOST, PORT), timeout=5).close()
    except OSError as error:
        refused(error)
    else:
        raise AssertionError("connected")


def by_aio():
    async def main():
        try:
            conn = await pymux.aio.connect((HOST, PORT))
        except OSError as error:
            refused(error)
        else:
            raise AssertionError(f"connected: {conn.local}")

    asyncio.run(main())


if not plain():
    sys.exit("skip: no socket is connected to itself here")
for _ in range(200):
    {"mux": by_mux, "client": by_client, "aio": by_aio}[sys.argv[1]]()
# and nothing of it is left that would keep a server from the port
with socket.socket(socket.AF_INET6 if ":" in HOST else socket.AF_INET) as server:
    server.bind((HOST, PORT))
"""


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("way", ["mux", "client", "aio"])
def test_a_connection_to_oneself_is_refused(way, host):
    """With eight ports to choose from, the kernel soon chooses the one that is
    dialled, on which nobody listens."""
    if way == "aio" and util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    with python("-c", ALONE, way, host) as child:
        _, said = child.communicate(timeout=60)
        if said.startswith("skip: "):
            pytest.skip(said[len("skip: ") :].strip())
        assert (child.returncode, said) == (0, "")
