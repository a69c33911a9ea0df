"""Unix sockets: what becomes of their files, and descriptors that come along."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import pymux
import pymux.aio

from . import util
from .processes import in_child, no_descriptor_left, python

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here"
)

STARTERS = 4


@pytest.fixture
def directory():
    """A directory whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="pymux-") as name:
        yield Path(name)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Makes another directory the working directory, until the test ends."""
    monkeypatch.chdir(tmp_path)  # what is undone in the end is the first one
    return lambda path=tmp_path: os.chdir(path)


def leave_stale(path):
    """The file of a server that has died."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def answers(path):
    """Whether a server there answers."""
    with util.connect(path) as peer:
        peer.sendall(b"hello")
        return util.recv_exactly(peer, 5) == b"HELLO"


# -- the path means the same file to the end ---------------------------------------


@pytest.mark.parametrize("path", ["socket", "./socket", "../socket", "sub/socket"])
@pytest.mark.parametrize("how", ["listener", "mux"])
def test_a_relative_path_is_unlinked_wherever_the_program_is(
    directory, elsewhere, backend, path, how
):
    inner = directory / "inner"
    (inner / "sub").mkdir(parents=True)
    elsewhere(inner)
    with pymux.Mux(backend) as mux:
        listener = mux.listen(Path(path))
        file = (inner / path).resolve()
        assert file.is_socket()
        elsewhere()
        if how == "listener":
            listener.close()
        assert file.exists() == (how == "mux")
    assert not file.exists()


def test_a_server_that_has_changed_its_directory_unlinks_its_path(
    directory, elsewhere, backend
):
    elsewhere(directory)
    with util.serving(lambda conn, data: data.upper(), backend, "./socket"):
        elsewhere()
        assert answers(directory / "socket")
    assert os.listdir(directory) == []


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_aio_that_has_changed_its_directory_unlinks_its_path(directory, elsewhere):
    async def main():
        elsewhere(directory)
        server = await pymux.aio.serve(lambda conn, data: data, "./socket")
        elsewhere()
        assert os.listdir(directory) == ["socket"]
        await server.stop()

    asyncio.run(main())
    assert os.listdir(directory) == []


def test_a_file_of_the_same_path_elsewhere_is_kept(directory, elsewhere, mux):
    other = directory / "other"
    other.mkdir()
    elsewhere(directory)
    listener = mux.listen("./socket")
    elsewhere(other)
    with socket.socket(socket.AF_UNIX) as anothers:
        anothers.bind("socket")
        listener.close()
        assert os.listdir(other) == ["socket"]
    assert os.listdir(directory) == ["other"]


def test_the_file_is_found_in_a_directory_that_was_renamed(directory, mux):
    before, after = directory / "before", directory / "after"
    before.mkdir()
    listener = mux.listen(before / "socket")
    before.rename(after)
    listener.close()
    assert os.listdir(after) == []


def test_the_file_is_found_though_a_link_leads_elsewhere(directory, mux):
    old, new, link = (directory / name for name in ("old", "new", "current"))
    old.mkdir()
    new.mkdir()
    link.symlink_to(old)
    listener = mux.listen(link / "socket")
    link.unlink()
    link.symlink_to(new)
    (new / "socket").touch()
    listener.close()
    assert os.listdir(old) == []
    assert os.listdir(new) == ["socket"]


def test_a_forked_child_that_closes_leaves_the_file(directory, mux):
    listener = mux.listen(directory / "socket")
    in_child(mux.close)
    assert (directory / "socket").is_socket()
    listener.close()
    assert os.listdir(directory) == []


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_listener_holds_its_directory_and_lets_go_of_it(directory, mux):
    def held():
        links = Path("/proc/self/fd").iterdir()
        return [
            link for link in links if link.is_symlink() and link.resolve() == directory
        ]

    for _ in range(3):
        listener = mux.listen(directory / "socket")
        assert len(held()) == 1
        assert not os.get_inheritable(int(held()[0].name))
        with pytest.raises(OSError):
            mux.listen(directory / "socket")
        assert len(held()) == 1
        listener.close()
        assert held() == []


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors cannot be limited")
def test_a_path_without_a_descriptor_for_it_is_refused(directory, mux):
    with no_descriptor_left(), pytest.raises(OSError) as raised:
        mux.listen(directory / "socket")
    assert raised.value.errno == errno.EMFILE
    assert os.listdir(directory) == []
    mux.listen(directory / "socket").close()


# -- several that start ------------------------------------------------------------


def test_of_several_that_start_on_a_stale_path_one_listens(directory):
    path = directory / "socket"

    def start(mux, barrier, said):
        barrier.wait()
        try:
            mux.listen(path)
            said.append(None)
        except OSError as error:
            said.append(error.errno)

    for _ in range(50):
        leave_stale(path)
        with contextlib.ExitStack() as stack:
            muxes = [stack.enter_context(pymux.Mux()) for _ in range(STARTERS)]
            barrier, said = threading.Barrier(STARTERS), []
            threads = [
                threading.Thread(target=start, args=(mux, barrier, said))
                for mux in muxes
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert said.count(None) == 1, said
            assert said.count(errno.EADDRINUSE) == STARTERS - 1, said
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))  # the one that listens has the path
        assert os.listdir(directory) == []


STARTER = """
import sys, pymux

sys.stdin.readline()
with pymux.Mux() as mux:
    try:
        mux.listen(sys.argv[1])
    except OSError as error:
        print(type(error).__name__, error.errno, flush=True)
    else:
        print("listens", flush=True)
    sys.stdin.readline()
"""


def test_of_several_processes_that_start_on_a_stale_path_one_listens(directory):
    path = directory / "socket"
    leave_stale(path)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(python("-c", STARTER, path)) for _ in range(STARTERS)
        ]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(process.stdout.readline().strip() for process in processes)
        in_use = f"OSError {errno.EADDRINUSE}"
        assert said == [in_use] * (STARTERS - 1) + ["listens"]
        for process in processes:
            process.communicate("\n", timeout=20)
    assert os.listdir(directory) == []


def test_a_lock_that_somebody_holds_delays_and_does_not_block(directory, mux):
    fcntl = pytest.importorskip("fcntl")
    leave_stale(directory / "socket")
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        listener = mux.listen(directory / "socket")
    finally:
        os.close(held)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(directory / "socket"))
    listener.close()


def test_what_has_listened_leaves_no_lock_behind(directory, mux):
    fcntl = pytest.importorskip("fcntl")
    mux.listen(directory / "socket")
    with pytest.raises(OSError):
        mux.listen(directory / "socket")
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(held)
    assert os.listdir(directory) == ["socket"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be another"
)
@pytest.mark.parametrize("stale", [True, False])
def test_a_directory_that_may_not_be_written_says_so(directory, stale):
    path = directory / "socket"
    if stale:
        leave_stale(path)
        path.chmod(0o777)
    directory.chmod(0o755)

    def listen():
        os.setuid(65534)
        with pymux.Mux() as mux, pytest.raises(PermissionError) as raised:
            mux.listen(path)
        assert str(path) in str(raised.value)

    in_child(listen)
    assert path.exists() == stale


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be another"
)
def test_a_directory_that_may_not_be_listed_will_do(directory):
    os.chown(directory, 65534, -1)
    directory.chmod(0o300)

    def listen():
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / "socket"))
        with pymux.Mux() as mux:
            mux.listen(directory / "socket")

    in_child(listen)
    assert os.listdir(directory) == []


# -- descriptors that come along ---------------------------------------------------

STREAM = {
    pymux.Raw(): (b"hello\nworld\n", None),
    pymux.Lines(): (b"hello\nworld\n", [b"hello", b"world"]),
    pymux.LengthPrefix(): (b"\0\0\0\5hello\0\0\0\5world", [b"hello", b"world"]),
    pymux.Fixed(5): (b"helloworld", [b"hello", b"world"]),
}


def send_passing(peer, data):
    """Send bytes and a descriptor with them."""
    number = peer.fileno().to_bytes(4, sys.byteorder)
    peer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])


@pytest.mark.parametrize("framing", STREAM, ids=lambda framing: type(framing).__name__)
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_bytes_behind_a_descriptor_are_received(directory, mux, framing, pieces):
    stream, messages = STREAM[framing]
    mux.listen(directory / "socket", framing=framing)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None
    with util.connect(directory / "socket") as peer:
        acc = util.harvest_until(mux, lambda acc: acc.opened)
        mux.harvest(0)
        # All of it is in the kernel before any is received, and nothing follows.
        size = len(stream) // (pieces + 1)
        for k in range(pieces):
            send_passing(peer, stream[k * size : (k + 1) * size])
        peer.sendall(stream[pieces * size :])
        (conn,) = acc.opened
        wanted = stream if messages is None else b"".join(messages)
        util.harvest_until(mux, lambda acc: acc.received(conn) == wanted, into=acc)
        if messages is not None:
            assert acc.payloads == messages
        if before is not None:  # what was passed is nobody's
            assert len(os.listdir("/proc/self/fd")) == before + 2


@pytest.mark.parametrize("form", util.FORMS)
def test_each_form_answers_what_stands_behind_a_descriptor(directory, backend, form):
    handler = util.in_form(form, bytes.upper)
    path = directory / "socket"
    options = {"framing": pymux.Lines(), "address": path}
    with util.serving(handler, backend, **options), util.connect(path) as peer:
        send_passing(peer, b"hello\nwor")
        peer.sendall(b"ld\nagain\n")
        assert util.recv_exactly(peer, 18) == b"HELLO\nWORLD\nAGAIN\n"


def test_a_client_receives_what_stands_behind_a_descriptor(directory):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "socket"))
        listener.listen()
        address = str(directory / "socket")
        with pymux.connect(address, framing=pymux.Lines(), timeout=10) as client:
            server, _ = listener.accept()
            with server:
                send_passing(server, b"hello\n")
                server.sendall(b"world\n")
                assert [client.recv(), client.recv()] == [b"hello", b"world"]
