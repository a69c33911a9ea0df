"""A signal's handler that raises anywhere: nothing is lost, and nothing is left."""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import warnings

import pytest

import pymux

from . import inside, util
from .strikes import Striker, Struck, each_place

pytestmark = [
    pytest.mark.skipif(
        sys.implementation.name != "cpython",
        reason="a handler may run between any two instructions here, `return` included",
    ),
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

HERE = ("127.0.0.1", 0)
pymux.Mux().close()  # imports what the first one does
LINES = pymux.Lines()


def echo(conn, data):
    return data


def wakeup_fd():
    """The descriptor that the interpreter writes to when a signal comes."""
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


def wait_once(mux):
    """Let the mux wait: the first wait sets the descriptor of signals. A harvest
    whose time is over before it waits sets none."""
    while wakeup_fd() == -1:
        mux.harvest(0.001)


def descriptors():
    return set(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def nothing_left():
    """No descriptor, and no handler or descriptor of signals."""
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in signals]
    wakeup = wakeup_fd()
    before = descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        if descriptors() != before:
            gc.collect()
    assert descriptors() == before
    assert [signal.getsignal(number) for number in signals] == handlers
    now = signal.set_wakeup_fd(wakeup)
    assert now == wakeup


def made(make, use):
    """Make something struck at each place, and close it where it was made."""

    def run(striker):
        with nothing_left():
            thing, struck = striker.call(make)
            assert (thing is None) == (struck is not None)
            if thing is not None:
                use(thing)
                thing.close()
            del thing, struck

    return each_place(run)


def test_making_a_mux(backend):
    assert made(lambda: pymux.Mux(backend), lambda mux: mux.harvest(0)) > 20


def test_making_a_selector(backend):
    assert made(lambda: pymux.Selector(backend), lambda one: one.select(0)) > 5


def test_listening(mux):
    def run(striker):
        before = mux.stats().listeners
        with nothing_left():
            listener, _ = striker.call(lambda: mux.listen(HERE))
            if listener is None:
                assert mux.stats().listeners == before
            else:
                listener.close()

    assert each_place(run) > 20


def test_listening_on_a_path(mux, tmp_path):
    def run(striker):
        with nothing_left():
            listener, _ = striker.call(lambda: mux.listen(tmp_path / "s"))
            if listener is None:
                assert os.listdir(tmp_path) == []
            else:
                listener.close()

    assert each_place(run) > 20


def test_connecting(mux):
    wait_once(mux)
    with socket.create_server(HERE) as server:

        def run(striker):
            with nothing_left():
                conn, _ = striker.call(lambda: mux.connect(server.getsockname()))
                if conn is not None:
                    conn.abort()
                util.harvest_until(mux, lambda acc: not mux.stats().connections)
                mux.harvest(0)
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()

        server.setblocking(False)
        assert each_place(run) > 10


@pytest.mark.parametrize("end", ["close", "abort"])
def test_ending_a_connection(mux, end):
    wait_once(mux)

    def run(striker):
        with nothing_left():
            conn, peer = util.pair(mux, LINES)
            with peer:
                conn.send(b"last")
                _, struck = striker.call(getattr(conn, end))
                if struck:
                    getattr(conn, end)()
                acc = util.Harvested()
                acc.add(mux.harvest(0))
                peer.settimeout(10)
                got, _ = util.until_end(peer)
                assert got == (b"last\n" if end == "close" else b"") or end == "abort"
            util.harvest_until(mux, lambda acc: acc.is_closed(conn), into=acc)
            mux.harvest(0)

    each_place(run)


def test_closing_a_listener(mux):
    def run(striker):
        with nothing_left():
            listener = mux.listen(HERE)
            if striker.call(listener.close)[1]:
                listener.close()
            assert mux.stats().listeners == 0

    each_place(run)


def test_closing_a_mux(backend, tmp_path):
    """Who calls `close` again, or drops the mux, has it closed."""

    def run(striker, again):
        with nothing_left():
            mux = pymux.Mux(backend)
            conn, peer = util.pair(mux)
            with peer:
                mux.listen(tmp_path / "s")
                conn.send(b"last")
                _, struck = striker.call(mux.close)
                if struck and again:
                    mux.close()
                if struck and not again:
                    del mux, conn, struck
                    gc.collect()
                assert util.until_end(peer)[0] in (b"last", b"")
                if again:
                    assert conn.closed
                    assert conn.peer == peer.getsockname()
                    assert mux.stats().connections == 0
                    mux.close()
            assert os.listdir(tmp_path) == []

    assert each_place(lambda striker: run(striker, True)) > 20
    assert each_place(lambda striker: run(striker, False)) > 20


def test_closing_a_selector(backend):
    def run(striker):
        with nothing_left():
            selector = pymux.Selector(backend)
            if striker.call(selector.close)[1]:
                selector.close()
            assert selector.get_map() is None

    each_place(run)


def rows_of(batch):
    """What a batch says, copied."""
    return (
        list(batch),
        [conn.id for conn in batch.opened],
        [(conn.id, error and error.errno) for conn, error in batch.closed],
    )


def test_harvesting(mux):
    """Opened, messages, output and closed: all of it comes once."""
    listener = mux.listen(HERE, framing=LINES)
    wait_once(mux)

    def run(striker):
        taken = Striker()  # what is copied out is not struck

        def harvest():
            return mux.harvest(10)

        with nothing_left():
            opened, got, closed = [], [], []
            sock = util.connect(listener.address)
            sock.sendall(b"one\ntwo\n")
            answered = shut = False
            while not closed:
                batch, struck = striker.call(harvest)
                if struck:
                    batch = mux.harvest(10)
                opened += [conn.id for conn in batch.opened]
                got += batch.messages
                closed += [error for _, error in batch.closed]
                if got and not answered:
                    answered = True
                    batch.conns[0].send(b"answer")
                if len(got) == 2 and not shut:
                    shut = True
                    striker.call(lambda: mux.harvest(0))
                    mux.harvest(0)
                    assert util.recv_exactly(sock, 7) == b"answer\n"
                    sock.sendall(b"three\n")
                    sock.shutdown(socket.SHUT_WR)
            sock.close()
            del batch, struck, taken
        assert len(opened) == 1
        assert got == [b"one", b"two", b"three"]
        assert closed == [None]

    assert each_place(run) > 20


def test_starting_a_server(tmp_path):
    def run(striker):
        with nothing_left():
            server = pymux.Server(echo, tmp_path / "s")
            _, struck = striker.call(server.start)
            if not struck:
                assert util.everything(server.address, b"go") == b"go"
            server.stop()
            server.stop(0)
            assert os.listdir(tmp_path) == []
            if inside.engine_of(server) is not None:
                server.wait()

    assert each_place(run) > 50


@contextlib.contextmanager
def stopping(server):
    """In this block a thread stops the server: again, where a call of it is struck."""

    def stop():
        while not over.is_set():
            if inside.engine_of(server) is not None:
                with contextlib.suppress(TimeoutError):
                    server.stop(0)
            over.wait(0.0002)

    over = threading.Event()
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
        assert not thread.is_alive()


def test_running_a_server(tmp_path, logged):
    def run(striker):
        with nothing_left():
            server = pymux.Server(echo, tmp_path / "s")

            with stopping(server):
                striker.call(server.run)
            server.stop()
            assert os.listdir(tmp_path) == []
            if inside.engine_of(server) is not None:
                server.stop(0)
                server.wait()

    assert each_place(run) > 50


def test_serving(tmp_path, logged):
    """`serve` gives the signals back, and the wakeup descriptor of others."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def run(striker):
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            serve(striker)
        finally:
            signal.set_wakeup_fd(before)

    def serve(striker):
        with nothing_left():
            server = pymux.Server(echo, tmp_path / "s")
            with stopping(server):
                striker.call(lambda: inside.run_until_signal(server))
            server.stop()
            assert os.listdir(tmp_path) == []

    with ours, theirs:
        assert each_place(run) > 100


def test_stopping_a_server(tmp_path):
    def run(striker):
        with nothing_left():
            server = pymux.Server(echo, tmp_path / "s").start()
            with util.connect(server.address) as sock:
                sock.sendall(b"x")
                assert util.recv_exactly(sock, 1) == b"x"
                if striker.call(server.stop)[1]:
                    server.stop()
                assert util.until_end(sock) == (b"", None)
            assert os.listdir(tmp_path) == []

    assert each_place(run) > 10


def test_leaving_the_block_of_a_server(tmp_path):
    def run(striker):
        with nothing_left():
            server = pymux.Server(echo, tmp_path / "s")

            def block():
                with server:
                    pass

            striker.call(block)
            server.stop()
            assert os.listdir(tmp_path) == []

    assert each_place(run) > 50


def test_the_strikes_reach_what_pymux_calls():
    """The tests above would pass with nothing struck."""
    seen = set()

    def run(striker):
        server = pymux.Server(echo, HERE)
        error = striker.call(server.start)[1]
        if error:
            seen.add(str(error).split(",")[0])
        server.stop()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        each_place(run)
    assert {"start", "_bind", "listen", "_join"} <= seen, seen
    assert issubclass(Struck, Exception)
