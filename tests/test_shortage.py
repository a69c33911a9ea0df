"""Without a thread, or with too few descriptors: what was begun is undone."""

import _thread
import asyncio
import contextlib
import errno
import os
import socket
import threading

import pytest

import pymux

from . import inside, util

try:
    import resource
except ImportError:
    resource = None

HERE = ("127.0.0.1", 0)
pymux.Mux().close()  # imports what the first one does, which takes descriptors


def echo(conn, data):
    return data


@contextlib.contextmanager
def no_thread():
    """In this block no thread can be had, whoever asks for one."""

    def refuse(*args, **options):
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("start_new_thread", "start_joinable_thread"):
            patch.setattr(_thread, name, refuse, raising=False)
            for inside in (f"_{name}", name):
                if hasattr(threading, inside):
                    patch.setattr(threading, inside, refuse)
        yield


# --- threads --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["start", "with"])
def test_a_server_without_a_thread_leaves_nothing(backend, tmp_path, way):
    server = pymux.Server(echo, tmp_path / "s", backend=backend)
    with no_thread(), pytest.raises(RuntimeError, match="thread"):
        server.start() if way == "start" else server.__enter__()
    assert os.listdir(tmp_path) == []
    server.stop()
    server.stop(0)
    server.wait()
    assert server.stats().listeners == 0
    with pytest.raises(RuntimeError, match="one life"):
        server.start()
    with pytest.raises(RuntimeError):
        server.call_threadsafe(print)


def test_a_port_is_free_again_where_no_thread_was_to_be_had(backend):
    server = pymux.Server(echo, HERE, backend=backend)
    with no_thread(), pytest.raises(RuntimeError, match="thread"):
        server.start()
    with util.serving(echo, backend, server.address) as other:
        assert util.everything(other.address, b"go") == b"go"


def test_to_thread_raises_where_it_is_awaited_and_calls_nothing(backend):
    called = []

    async def handler(conn):
        async for data in conn:
            try:
                conn.send(await pymux.to_thread(bytes.upper, data))
            except RuntimeError as error:
                called.append(str(error))
                conn.send(b"-")

    with (
        inside.own_threads(),
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        with no_thread():
            for _ in range(2):
                sock.sendall(b"a")
                assert util.recv_exactly(sock, 1) == b"-"
        for data in (b"b", b"c"):  # there are threads again
            sock.sendall(data)
            assert util.recv_exactly(sock, 1) == data.upper()
    assert len(called) == 2


def test_a_call_waits_for_a_thread_that_is_busy_where_none_can_be_had():
    entered, release = threading.Event(), threading.Event()

    def block():
        entered.set()
        release.wait(10)
        return b"first"

    async def handler(conn):
        data = await conn.recv()
        fn, args = (block, ()) if data == b"1" else (bytes.upper, (b"second",))
        conn.send(await pymux.to_thread(fn, *args))

    with (
        inside.own_threads() as workers,
        util.serving(handler) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
    ):
        one.sendall(b"1")
        assert entered.wait(10)
        with no_thread():
            two.sendall(b"2")
            util.wait_until(lambda: workers.busy() == 2)
            release.set()
            assert util.recv_all(one) == b"first"
            assert util.recv_all(two) == b"SECOND"
    util.wait_until(lambda: workers.busy() == 0)
    assert workers.threads() == 1


# --- descriptors ----------------------------------------------------------------

descriptors = pytest.mark.skipif(
    resource is None or not os.path.isdir("/proc/self/fd"),
    reason="no limit of descriptors here",
)


@contextlib.contextmanager
def left(count):
    """In this block this process may open so many descriptors, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(count + 1)]
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def with_ever_more(make):
    """What make() returned once there were descriptors enough. With each number
    less it says what is missing, and leaves none of them open."""
    for count in range(12):
        before = set(os.listdir("/proc/self/fd"))
        try:
            with left(count):
                made = make()
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            assert "Too many open files" in str(error)
            assert set(os.listdir("/proc/self/fd")) == before
        else:
            assert count > 0
            return made
    raise AssertionError("never enough")


@descriptors
def test_a_mux(backend):
    with with_ever_more(lambda: pymux.Mux(backend)) as mux:
        mux.harvest(0)


@descriptors
def test_a_mux_of_the_best_backend_is_never_of_a_worse_one(monkeypatch):
    """Since that needs a descriptor less."""
    monkeypatch.delenv("PYMUX_BACKEND", raising=False)
    best = pymux.backends()[0]
    for make in (pymux.Mux, pymux.Selector):
        with with_ever_more(make) as made:
            assert made.backend == best


@descriptors
def test_a_selector():
    with_ever_more(lambda: pymux.Selector("epoll")).close()


@descriptors
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_server(backend, tmp_path, kind):
    address = HERE if kind == "tcp" else tmp_path / "s"

    def start():
        try:
            return pymux.Server(echo, address, backend=backend).start()
        except OSError:
            assert os.listdir(tmp_path) == []
            raise

    with_ever_more(start).stop()


@descriptors
def test_a_server_that_could_not_bind_may_try_again(backend):
    server = pymux.Server(echo, HERE, backend=backend)
    with left(2), pytest.raises(OSError, match="Too many open files"):
        server.start()
    server.stop()
    with pytest.raises(RuntimeError, match="not started"):
        server.wait()
    with server:
        assert util.everything(server.address, b"go") == b"go"


@descriptors
def test_a_listener(mux):
    with_ever_more(lambda: mux.listen(HERE)).close()


@descriptors
def test_an_outgoing_connection(mux):
    with socket.create_server(HERE) as server:
        conn = with_ever_more(lambda: mux.connect(server.getsockname()))
        util.harvest_until(mux, lambda acc: conn in acc.opened)


@descriptors
def test_a_client():
    with socket.create_server(HERE) as server:
        address = server.getsockname()
        with_ever_more(lambda: pymux.connect(address, timeout=10)).close()


@descriptors
@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_server_in_a_loop():
    async def main():
        started = False
        for count in range(12):
            before = set(os.listdir("/proc/self/fd"))
            server = pymux.aio.serve(echo, HERE)
            try:
                with left(count):
                    await server
            except OSError as error:
                assert error.errno == errno.EMFILE
                assert set(os.listdir("/proc/self/fd")) == before
            else:
                await server.stop()
                started = True
        assert started

    asyncio.run(main())
