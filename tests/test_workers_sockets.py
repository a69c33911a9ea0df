"""Sockets of a server with workers: who gets an address, and what becomes of files."""

import contextlib
import errno
import os
import socket
import stat
import sys
import threading

import pytest

import pymux

from . import util
from .inside import bind_all, listen_settings
from .supervised import APP, SCRIPT, Supervised, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")


@contextlib.contextmanager
def bound(address, **options):
    """The place of an address, with the sockets of one slot that starts."""
    [place] = bind_all(listen_settings([address], **options))
    try:
        with contextlib.ExitStack() as stack:
            for sock in place.bind_slot():
                stack.enter_context(sock)
            yield place
    finally:
        place.close()


def refused(address, **options):
    """Check that no other server gets an address."""
    with pytest.raises(OSError) as caught:
        bind_all(listen_settings([address], **options))
    assert caught.value.errno == errno.EADDRINUSE


def leave_a_stale_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def connects(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
    return True


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


def test_a_path_on_which_a_server_with_workers_starts_is_in_use(path):
    with bound(path):
        refused(path)
        assert connects(path)
    assert not os.path.exists(path)


def test_a_stale_socket_is_replaced_and_the_file_has_the_mode(path):
    leave_a_stale_socket(path)
    with bound(path, mode=0o640):
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o640
        assert connects(path)


def test_of_many_servers_that_start_on_a_stale_path_one_gets_it(path):
    for _ in range(20):
        leave_a_stale_socket(path)
        start, made, failed = threading.Barrier(4), [], []

        def one(start=start, made=made, failed=failed):
            start.wait()
            try:
                made += bind_all(listen_settings([path]))
            except OSError as error:
                failed.append(error.errno)

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reached = connects(path)
        for place in made:
            place.close()
        assert (len(made), failed, reached) == (1, [errno.EADDRINUSE] * 3, True)


def test_a_link_in_place_of_the_socket_is_neither_followed_nor_removed(tmp_path, path):
    target = tmp_path / "target"
    leave_a_stale_socket(str(target))
    mode = target.stat().st_mode
    os.symlink(target, path)
    refused(path, mode=0o666)
    assert os.path.islink(path)
    assert target.stat().st_mode == mode


def test_a_file_that_another_has_put_there_stays_at_the_end(path):
    with bound(path):
        os.unlink(path)
        leave_a_stale_socket(path)
    assert os.path.exists(path)


SLOW = """
import pathlib, time
pathlib.Path("imports").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""


def script(folder, address, app):
    folder.mkdir()
    (folder / "app.py").write_text(app)
    text = SCRIPT.format(
        before="", handler="'app:handler'", address=address, options="workers=1"
    )
    (folder / "main.py").write_text(text)
    return Supervised(folder, "main.py")


def second_is_refused(tmp_path, address):
    """Start a server while another one starts; the first is to serve."""
    first = script(tmp_path / "a", address, SLOW + APP)
    try:
        wait_until((tmp_path / "a" / "imports").exists)
        second = script(tmp_path / "b", address, APP)
        try:
            code, _ = second.finish()
            assert code == 1
            assert any("Address already in use" in line for line in second.log)
        finally:
            second.close()
        (tmp_path / "a" / "go").touch()
        assert first.listen().ask(b"hello") == b"HELLO"
    finally:
        first.close()


def test_a_server_does_not_take_the_path_of_another_that_is_starting(tmp_path, path):
    second_is_refused(tmp_path, path)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", ""])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_port_on_which_a_server_with_workers_starts_is_in_use(host, reuse_port):
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    with bound((host, 0), reuse_port=reuse_port) as place:
        port = place.addresses[0][1]
        refused((host, port))
        with pytest.raises(OSError), pymux.Mux() as mux:
            mux.listen((host, port))
        for sock in place.bind_slot():  # one worker more
            sock.close()
    with bound((host, port)):
        pass


def test_servers_that_share_their_port_start_side_by_side():
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(bound(("127.0.0.1", 0), reuse_port=True))
        stack.enter_context(bound(place.addresses[0], reuse_port=True))


def test_a_port_refuses_connections_until_the_workers_are_ready():
    with bound(("127.0.0.1", 0)) as place, pytest.raises(ConnectionRefusedError):
        socket.create_connection(place.addresses[0])
    address = place.addresses[0]
    with bound(address), pytest.raises(ConnectionRefusedError):  # it was asked for
        socket.create_connection(address)


def test_a_port_with_connections_of_the_server_before_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as client:
            server.accept()[0].close()  # its port waits for late packets
            client.recv(1)
    with bound(address) as place:
        [sock] = place.bind_slot()
        with sock:
            place.listen([sock])
            socket.create_connection(address).close()


def test_a_server_does_not_take_the_port_of_another_that_is_starting(tmp_path):
    second_is_refused(tmp_path, ("127.0.0.1", util.free_port()))


def test_a_shared_socket_is_at_no_time_blocking_for_others_that_accept():
    """A worker whose accept() waits serves nobody until another peer comes."""

    class Shared(socket.socket):
        def settimeout(self, timeout):
            raise AssertionError(f"it is made blocking, for all: {timeout}")

    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        Shared(fileno=os.dup(sock.fileno())) as shared,
        bound(shared) as place,
    ):
        assert place.shared[0].getsockname() == sock.getsockname()
