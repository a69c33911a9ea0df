"""Addresses: TCP over IPv4 and IPv6, names, Unix socket paths, abstract ones."""

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from . import inside, util
from .processes import python
from .util import connect, harvest_until, pair, recv_exactly


def ipv6_works():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="no IPv6 here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def says_hello(mux, address, to=None):
    """Assert that a listener at `address` serves who connects; the Connection."""
    listener = mux.listen(address)
    with connect(listener.address if to is None else to(listener.address)) as peer:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        peer.sendall(b"hello")
        harvest_until(mux, lambda acc: acc.received(conn) == b"hello")
        conn.send(b"yourself")
        mux.harvest(0)
        assert recv_exactly(peer, 8) == b"yourself"
    return conn


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


def results(*addresses):
    """A resolver that gives these addresses, in this order."""

    def getaddrinfo(host, port, *args, **kwargs):
        return [
            (
                socket.AF_INET6 if ":" in found else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (found, port, 0, 0) if ":" in found else (found, port),
            )
            for found in addresses
        ]

    return getaddrinfo


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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


def test_a_unix_path_works(mux, path):
    conn = says_hello(mux, str(path))
    assert conn.local == str(path)
    assert conn.peer == ""


def test_a_path_object_works(mux, path):
    assert isinstance(path, Path)
    assert mux.listen(path).address == str(path)


def test_a_relative_path_works(mux, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    says_hello(mux, "socket")


def test_a_path_with_a_slash_may_hold_a_colon(mux, tmp_path):
    assert mux.listen(str(tmp_path / "a:80")).address == str(tmp_path / "a:80")


def test_the_path_of_a_named_peer_is_told(mux, path, tmp_path):
    listener = mux.listen(path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(str(tmp_path / "named"))
        peer.connect(listener.address)
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        assert conn.peer == str(tmp_path / "named")


def test_unix_addresses_are_readable_after_closing(mux, path):
    listener = mux.listen(path)
    with connect(path):
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    listener.close()
    mux.harvest(0)
    assert (conn.local, conn.peer, listener.address) == (str(path), "", str(path))


@linux
def test_an_abstract_name_works(mux, path):
    name = "\0" + str(path)
    conn = says_hello(mux, name)
    assert conn.local == name
    assert list(path.parent.iterdir()) == []


@linux
def test_an_abstract_name_can_be_connected_to(mux, path):
    name = "\0" + str(path)
    mux.listen(name)
    conn = mux.connect(name)
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 2)
    assert conn in acc.opened
    assert conn.peer == name


@linux
def test_an_abstract_name_in_use_is_refused(mux, path):
    mux.listen("\0" + str(path))
    with pytest.raises(OSError) as caught:
        mux.listen("\0" + str(path))
    assert caught.value.errno == errno.EADDRINUSE


def test_a_path_that_is_too_long_is_refused_in_words(mux, tmp_path):
    long = str(tmp_path / ("x" * 200))
    for call in (mux.listen, mux.connect):
        with pytest.raises((ValueError, OSError), match="xxxxx"):
            call(long)
    assert list(tmp_path.iterdir()) == []


def test_a_nul_inside_a_path_is_refused(mux, path):
    with pytest.raises(ValueError):
        mux.listen(str(path) + "\0more")


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_file_gets_its_mode(mux, path, mode):
    mux.listen(path, mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_socket_file_is_private_by_default(mux, path):
    mux.listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_umask_is_left_as_it_was(mux, path):
    before = os.umask(0o027)
    try:
        mux.listen(path, mode=0o666)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_stale_socket_is_replaced(mux, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    says_hello(mux, path)


def test_a_living_socket_is_in_use(mux, path):
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        inode = path.stat().st_ino
        with pytest.raises(OSError, match="socket") as caught:
            mux.listen(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.stat().st_ino == inode
        connect(path).close()


def test_a_path_of_this_very_mux_is_in_use(mux, path):
    mux.listen(path)
    with pytest.raises(OSError) as caught:
        mux.listen(path)
    assert caught.value.errno == errno.EADDRINUSE
    connect(path).close()


def test_a_living_socket_with_a_full_backlog_is_in_use(mux, path):
    with contextlib.ExitStack() as crowd:
        alive = crowd.enter_context(socket.socket(socket.AF_UNIX))
        alive.bind(str(path))
        alive.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                sock = crowd.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(str(path))
        with pytest.raises(OSError) as caught:
            mux.listen(path)
        assert caught.value.errno == errno.EADDRINUSE


def test_a_file_that_is_no_socket_is_in_use_and_kept(mux, path):
    path.write_text("precious")
    with pytest.raises(OSError) as caught:
        mux.listen(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert path.read_text() == "precious"


def test_a_directory_is_in_use_and_kept(mux, path):
    path.mkdir()
    with pytest.raises(OSError) as caught:
        mux.listen(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert path.is_dir()


def test_a_datagram_socket_is_in_use_and_kept(mux, path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(OSError) as caught:
            mux.listen(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


def test_a_path_in_a_missing_directory_is_raised(mux, tmp_path):
    with pytest.raises(FileNotFoundError):
        mux.listen(tmp_path / "missing" / "socket")


def test_closing_the_listener_unlinks_the_socket_file(mux, path):
    listener = mux.listen(path)
    assert path.exists()
    listener.close()
    mux.harvest(0)
    assert not path.exists()


def test_closing_the_mux_unlinks_the_socket_file(mux, path):
    mux.listen(path)
    mux.close()
    assert not path.exists()


def test_a_socket_file_that_is_no_longer_ours_is_kept(mux, path):
    listener = mux.listen(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        listener.close()
        mux.harvest(0)
        assert path.exists()
        connect(path).close()


def test_a_socket_file_that_is_already_gone_is_no_trouble(mux, path):
    listener = mux.listen(path)
    path.unlink()
    listener.close()
    mux.harvest(0)


def test_a_failed_listen_leaves_no_file(mux, path):
    with pytest.raises(TypeError):
        mux.listen(path, framing="lines")
    assert not path.exists()


def test_a_mode_out_of_range_is_refused(mux, path):
    with pytest.raises(ValueError):
        mux.listen(path, mode=-1)
    assert not path.exists()


def test_an_address_stays_after_its_connection_is_aborted(mux):
    conn, peer = pair(mux)
    with peer:
        expected = peer.getsockname()
        conn.abort()
        mux.harvest(0)
        assert conn.peer == expected


def test_a_path_too_long_for_the_bsds_is_refused_there(mux):
    with (
        inside.on_a_bsd(),
        pytest.raises(ValueError, match="at most 103 fit"),
    ):
        mux.listen("/" + "x" * 103)


def test_an_abstract_name_is_refused_where_there_are_none(monkeypatch, mux):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="Linux"):
        mux.listen("\0pymux-test")


# -- what a local user may have put there ------------------------------------------


@pytest.mark.parametrize("target", ["nothing", "a file", "a dead socket", "a socket"])
def test_a_symlink_is_in_use_and_neither_followed_nor_removed(mux, path, target):
    real = path.with_name("real")
    with contextlib.ExitStack() as stack:
        if target == "a file":
            real.write_text("precious")
            real.chmod(0o644)
        elif "socket" in target:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(real))
            if target == "a socket":
                sock.listen()
            else:
                sock.close()
        before = real.lstat() if real.exists() else None
        path.symlink_to(real)
        with pytest.raises(OSError) as caught:
            mux.listen(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.is_symlink()
        after = real.lstat() if real.exists() else None
        assert (before is None) == (after is None)
        if before is not None:
            assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_a_file_that_is_no_socket_is_kept_at_close(mux, path):
    listener = mux.listen(path)
    path.unlink()
    path.write_text("precious")
    listener.close()
    mux.harvest(0)
    assert path.read_text() == "precious"


def test_a_symlink_in_its_place_is_kept_at_close_and_not_followed(mux, path):
    listener = mux.listen(path)
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)
    listener.close()
    mux.harvest(0)
    assert path.is_symlink()
    assert moved.exists()


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o177, 0o777])
def test_the_mode_is_as_asked_whatever_the_umask(mux, path, mask):
    before = os.umask(mask)
    try:
        mux.listen(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="traces system calls")
def test_a_socket_file_is_never_wider_than_asked(path):
    # From bind() on, not only once listen() has returned: under the widest umask the
    # kernel itself gives the file its mode, and no chmod follows.
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    script = (
        "import os, sys, pymux\n"
        "os.umask(0)\n"
        "with pymux.Mux() as mux:\n"
        "    mux.listen(sys.argv[1])\n"
        "    print(oct(os.stat(sys.argv[1]).st_mode & 0o777))\n"
    )
    out = path.with_name("strace")
    trace = [strace, "-f", "-o", out, "-e", "trace=chmod,fchmod,fchmodat"]
    done = subprocess.run(
        [*trace, sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if "attach" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("no tracing here")
    assert done.stdout == "0o600\n", done.stderr
    calls = [line for line in out.read_text().splitlines() if "chmod" in line]
    assert [line for line in calls if "fchmod(" not in line] == []


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
