"""The ends of pipes as connections."""

import contextlib
import errno
import io
import os
import selectors
import signal
import socket
import subprocess
import sys

import pytest

import pymux

from . import util
from .util import harvest_until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="its select takes sockets alone"
)

LINES = pymux.Lines()


@pytest.fixture(params=["unbuffered", "buffered"])
def cat(request):
    """A process that writes what it reads."""
    with subprocess.Popen(
        ["cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0 if request.param == "unbuffered" else -1,
    ) as process:
        yield process
        process.kill()


def everything(file):
    """Read a file of a pipe to its end."""
    return b"".join(iter(lambda: file.read(65536), b""))


# --- the read end ---------------------------------------------------------------


def test_a_read_end_is_a_connection_that_receives(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(reading, framing=LINES)
    writing.write(b"one\ntwo\nthr")
    acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
    assert acc.opened == [conn]
    assert (conn.peer, conn.local, conn.credentials) == ("", "", None)
    assert (mux.stats().connected, mux.stats().connections) == (1, 1)
    writing.write(b"ee")
    writing.close()
    harvest_until(mux, lambda acc: acc.closed, into=acc)
    assert acc.messages == [(conn, b"one"), (conn, b"two"), (conn, b"three")]
    assert acc.closed == [(conn, None)]


def test_a_process_is_written_to_and_read(mux, cat):
    into = mux.adopt(cat.stdin, framing=LINES)
    conn = mux.adopt(cat.stdout, framing=LINES)
    for word in (b"one", b"two"):
        into.send(word)
    into.send_eof()
    acc = harvest_until(mux, lambda acc: len(acc.closed) == 2)
    assert acc.messages == [(conn, b"one"), (conn, b"two")]
    assert dict(acc.closed) == {into: None, conn: None}
    assert cat.wait() == 0


def test_the_file_is_closed_and_the_descriptor_with_the_connection(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(reading)
    assert reading.closed
    number = conn.fileno()
    assert not os.get_inheritable(number)
    writing.close()
    harvest_until(mux, lambda acc: acc.closed)
    assert conn.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_the_files_buffer_holds_is_the_first_input(mux):
    reader, writer = os.pipe()
    file = os.fdopen(reader, "rb")
    os.write(writer, b"mine\none\ntw")
    assert file.readline() == b"mine\n"  # and the rest is in the buffer
    os.write(writer, b"o\n")
    conn = mux.adopt(file, framing=LINES)
    os.write(writer, b"three\n")
    os.close(writer)
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.messages == [(conn, b"one"), (conn, b"two"), (conn, b"three")]


def test_a_fifo_is_adopted(mux, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        writing = os.fdopen(os.open(path, os.O_WRONLY), "wb", buffering=0)
        conn = mux.adopt(reading, framing=LINES)
    into = mux.adopt(writing, framing=LINES)
    into.send(b"through the file system")
    into.close()
    acc = harvest_until(mux, lambda acc: len(acc.closed) == 2)
    assert acc.messages == [(conn, b"through the file system")]


def test_pause_holds_the_input_of_a_read_end_and_its_end(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(reading, framing=LINES)
    harvest_until(mux, lambda acc: acc.opened)
    conn.pause()
    mux.harvest(0)
    writing.write(b"late\n")
    writing.close()
    util.assert_idle(mux)
    conn.resume()
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.messages == [(conn, b"late")]


def test_half_open_reports_the_end_of_a_read_end(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(reading, half_open=True)
    writing.close()
    acc = harvest_until(mux, lambda acc: acc.ended)
    assert acc.ended == [conn]
    util.assert_idle(mux)
    conn.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))


def test_the_limits_of_a_read_end_hold(mux, pipe_files, clock):
    reading, writing = pipe_files
    limits = pymux.Limits(message_timeout=60)
    conn = mux.adopt(reading, framing=LINES, limits=limits)
    writing.write(b"half a li")
    harvest_until(mux, lambda acc: acc.opened)
    clock.advance(61, mux)
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.errno(conn) == errno.ETIMEDOUT


def test_the_writer_is_told_at_once_that_a_read_end_is_closed(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(reading)
    harvest_until(mux, lambda acc: acc.opened)
    conn.close()
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.closed == [(conn, None)]
    with pytest.raises(BrokenPipeError):
        writing.write(b"x")


# --- the write end --------------------------------------------------------------


def test_a_write_end_flushes_and_closes(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(writing, framing=LINES, reply_framing=pymux.LengthPrefix(1))
    assert writing.closed
    conn.send(b"early")
    harvest_until(mux, lambda acc: acc.opened)
    conn.send(b"late")
    conn.close()
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.closed == [(conn, None)]
    assert everything(reading) == b"\5early\4late"


def test_the_end_of_sending_closes_a_write_end(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(writing)
    conn.send(b"all")
    conn.send_eof()
    with pytest.raises(pymux.ConnectionClosed):
        conn.send(b"more")
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.closed == [(conn, None)]
    assert everything(reading) == b"all"


def test_what_waits_in_a_files_buffer_is_written_before(mux):
    reader, writer = os.pipe()
    file = os.fdopen(writer, "wb")
    file.write(b"first ")
    conn = mux.adopt(file)
    conn.send(b"then")
    conn.close()
    harvest_until(mux, lambda acc: acc.closed)
    with os.fdopen(reader, "rb") as reading:
        assert everything(reading) == b"first then"


def test_a_pipe_that_does_not_take_a_files_buffer_is_refused(mux, pipe_files):
    reading, writing = pipe_files
    os.set_blocking(writing.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing.fileno(), bytes(65536)):
            pass
    os.set_blocking(writing.fileno(), True)
    with os.fdopen(os.dup(writing.fileno()), "wb") as file:
        file.write(b"waits")
        with pytest.raises(BlockingIOError):
            mux.adopt(file)
        assert os.get_blocking(file.fileno())
        assert not file.closed
        writing.close()
        os.read(reading.fileno(), 1 << 20)
    assert everything(reading).endswith(b"waits")
    assert mux.stats().connections == 0


def test_a_slow_reader_is_told_by_blocked_and_drained(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(writing)
    conn.send(bytes(1000000))
    acc = harvest_until(mux, lambda acc: acc.blocked)
    assert acc.blocked == [conn]
    assert 0 < conn.queued < 1000000
    got = 0
    os.set_blocking(reading.fileno(), False)

    def read(acc):
        nonlocal got
        got += len(reading.read(65536) or b"")
        return acc.drained

    harvest_until(mux, read)
    conn.close()
    harvest_until(mux, lambda acc: read(acc) or acc.closed)
    assert got + len(everything(reading)) == 1000000


def test_the_loss_of_the_reader_is_a_reset(mux, pipe_files):
    reading, writing = pipe_files
    conn = mux.adopt(writing)
    harvest_until(mux, lambda acc: acc.opened)
    reading.close()
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.errno(conn) == errno.ECONNRESET
    assert mux.stats().reset == 1


SIGPIPE = """
import os, signal, sys
import pymux
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
reader, writer = os.pipe()
with pymux.Mux(sys.argv[1]) as mux:
    conn = mux.adopt(os.fdopen(writer, "wb"))
    while not mux.harvest(1).opened:
        pass
    os.close(reader)
    conn.send(b"to nobody")
    while not (closed := mux.harvest(1).closed):
        pass
    print(closed[0][1])
os.kill(os.getpid(), signal.SIGPIPE)
"""


def test_a_write_without_a_reader_does_not_end_the_process(backend):
    command = [sys.executable, "-c", SIGPIPE, backend]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert b"reset" in done.stdout
    assert done.returncode == -signal.SIGPIPE  # the program's own


def test_the_input_of_a_write_end_has_ended(mux, pipe_files):
    conn = mux.adopt(pipe_files[1], half_open=True)
    acc = harvest_until(mux, lambda acc: acc.ended)
    assert (acc.opened, acc.ended) == ([conn], [conn])
    util.assert_idle(mux)


def test_a_coroutine_writes_to_a_write_end(backend, pipe_files):
    reading, writing = pipe_files

    async def handler(conn):
        assert await conn.recv() is None
        for _ in range(5):
            conn.send(bytes(100000))
            await conn.drain()

    with util.serving(handler, backend) as server:
        util.in_server(server, lambda mux: mux.adopt(writing, handler=handler))
        assert len(everything(reading)) == 500000


def test_a_write_end_holds_back_no_batch(backend, pipe_files):
    """A batch waits for a message of each connection that may bring one."""
    ours, theirs = socket.socketpair()
    with theirs, pymux.Mux(backend) as mux:
        mux.adopt(ours, framing=LINES)
        mux.adopt(pipe_files[1], framing=LINES)
        harvest_until(mux, lambda acc: len(acc.opened) == 2)
        theirs.sendall(b"hello\n")
        batch = mux.harvest(None, min_messages=100, max_delay=3600)
        assert batch.messages == [b"hello"]


def test_a_stop_flushes_a_write_end(backend, pipe_files):
    reading, writing = pipe_files

    with util.serving(util.Ends(), backend) as server:
        adopted = util.Ends()
        conn = util.in_server(server, lambda mux: mux.adopt(writing, handler=adopted))
        util.in_server(server, lambda mux: conn.send(b"good-bye"))
    assert everything(reading) == b"good-bye"


# --- what is refused --------------------------------------------------------------


def test_what_is_no_binary_file_is_a_type_error(mux, pipe_files):
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        ours.makefile("rb") as of_a_socket,
        open(pipe_files[0].fileno(), closefd=False, encoding="utf-8") as text,
    ):
        cases = {
            pipe_files[0].fileno(): "os.fdopen",
            of_a_socket: "the socket itself",
            text: "text file; its .buffer",
            io.BytesIO(): "the end of a pipe as a binary file is needed",
        }
        for wrong, match in cases.items():
            with pytest.raises(TypeError, match=match):
                mux.adopt(wrong)
        mux.adopt(text.buffer)


def test_what_is_no_pipe_is_refused_unchanged(mux, tmp_path, pipe_files):
    pty = pytest.importorskip("pty")
    ours, theirs = socket.socketpair()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    master, slave = pty.openpty()
    with (
        theirs,
        open(path, "rb") as regular,
        open(os.devnull, "wb") as device,
        os.fdopen(master, "wb", buffering=0),
        os.fdopen(slave, "rb", buffering=0) as terminal,
        os.fdopen(ours.detach(), "rb") as of_a_socket,
    ):
        cases = {
            regular: "a regular file",
            device: "a terminal or another device",
            terminal: "a terminal or another device",
            of_a_socket: "the socket object itself is needed",
        }
        for wrong, match in cases.items():
            with pytest.raises(OSError, match=match) as caught:
                mux.adopt(wrong)
            assert caught.value.errno == errno.EINVAL
            assert os.get_blocking(wrong.fileno())
            assert not wrong.closed
    with pytest.raises(OSError, match="end of a pipe as a binary file") as caught:
        mux.adopt(regular)
    assert caught.value.errno == errno.EBADF
    assert mux.stats().connections == 0


def test_the_wrong_way_of_a_pipe_is_refused(mux, pipe_files, tmp_path):
    reading, _ = pipe_files
    with os.fdopen(reading.fileno(), "wb", buffering=0, closefd=False) as wrong:
        with pytest.raises(OSError, match="end of a pipe") as caught:
            mux.adopt(wrong)
        assert caught.value.errno == errno.EBADF
    os.mkfifo(tmp_path / "fifo")
    with (
        open(tmp_path / "fifo", "rb+", buffering=0) as ways,
        pytest.raises(OSError, match="both ways"),
    ):
        mux.adopt(ways)
    assert os.get_blocking(reading.fileno())


def test_a_pipe_is_refused_on_windows(mux, pipe_files, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(OSError, match="Windows waits for sockets alone") as caught:
        mux.adopt(pipe_files[0])
    assert caught.value.errno == errno.ENOTSUP
    assert not pipe_files[0].closed


def test_a_file_whose_arguments_are_refused_is_as_before(mux, pipe_files):
    reading, writing = pipe_files
    with pytest.raises(TypeError):
        mux.adopt(reading, framing="lines")
    with pytest.raises(TypeError):
        mux.adopt(reading, handler=3)
    watch = mux.watch(reading, selectors.EVENT_READ, lambda file, events: None)
    with pytest.raises(FileExistsError, match="close the watch first"):
        mux.adopt(reading)
    watch.close()
    assert os.get_blocking(reading.fileno())
    writing.write(b"mine")
    assert reading.read(4) == b"mine"
    mux.adopt(reading)


def test_a_number_over_the_limit_of_select_is_a_backends_error(pipe_files):
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000:
        pytest.skip("so many descriptors are not allowed")
    with contextlib.ExitStack() as stack, pymux.Mux("select") as mux:
        while True:
            file = stack.enter_context(os.fdopen(os.dup(pipe_files[0].fileno()), "rb"))
            if file.fileno() > 1024:
                break
        with pytest.raises(pymux.BackendUnavailable, match="1024"):
            mux.adopt(file)
        assert os.get_blocking(file.fileno())
        assert not file.closed
