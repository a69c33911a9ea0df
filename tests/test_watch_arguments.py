"""What `Mux.watch` takes: files and events of several kinds, and what is refused."""

import io
import os
import selectors
import socket

import pytest

from . import util

READ = selectors.EVENT_READ

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are no sockets there")


class Whole:
    """A whole number that is no int, like NumPy's."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


class File:
    """A file whose descriptor is no int."""

    def __init__(self, number):
        self.number = Whole(number)

    def fileno(self):
        return self.number


@pytest.mark.parametrize("kind", [Whole, File])
def test_whole_numbers_are_taken_as_ints_are(mux, pipe, kind):
    read, write = pipe
    called = []
    given = kind(read)
    watch = mux.watch(given, Whole(READ), lambda *args: called.append(args))
    assert (watch.number, watch.events) == (read, READ)
    watch.change(Whole(READ))
    assert (type(watch.number), type(watch.events)) == (int, int)
    os.write(write, b"x")
    util.wait_until(lambda: mux.harvest(0.1) is not None and called)
    ((fileobj, events), *_) = called
    assert fileobj is given
    assert events & READ


def test_what_cannot_be_watched_is_refused(mux, pipe, tmp_path):
    with pytest.raises(ValueError, match="descriptor"):
        mux.watch(-1, READ, print)
    with pytest.raises(ValueError, match="descriptor"):
        mux.watch(2**40, READ, print)
    closed = socket.socket()
    closed.close()
    for fileobj in (closed, io.StringIO()):
        with pytest.raises(ValueError, match="descriptor"):
            mux.watch(fileobj, READ, print)
    for fileobj in ("file", None, True, 1.0, socket.socket):
        with pytest.raises(TypeError, match="descriptor"):
            mux.watch(fileobj, READ, print)
    for events in (0, 4, -1):
        with pytest.raises(ValueError, match="EVENT_READ"):
            mux.watch(pipe[0], events, print)
    for events in (True, "r", None, 1.0):
        with pytest.raises(TypeError, match="EVENT_READ"):
            mux.watch(pipe[0], events, print)
    with pytest.raises(TypeError, match="callable"):
        mux.watch(pipe[0], READ, None)
    mux.watch(pipe[0], READ, print).close()  # nothing was kept
    if mux.backend == "epoll":
        with (
            open(tmp_path / "file", "w") as file,
            pytest.raises(OSError, match="ready"),
        ):
            mux.watch(file, READ, print)
        os.close(pipe[1])
        with pytest.raises(OSError, match="cannot watch"):
            mux.watch(pipe[1], READ, print)
