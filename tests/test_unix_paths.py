"""Unix sockets: their paths, their files, and abstract names."""

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

from . import inside
from .util import connect, harvest_until, says_hello

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


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
