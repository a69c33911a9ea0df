"""What coroutine handlers still do when their server stops."""

import contextlib
import threading
import time

import pytest

import pymux

from . import inside, util

SOON = 5  # seconds, far under the patience of these tests' servers


async def patient(conn, wait):
    """Waits in the named way for what does not come."""
    if wait == "sleep":
        await pymux.sleep(3600)
    elif wait == "to_thread":
        await pymux.to_thread(conn.state.wait, 10)
    elif wait == "recv":
        conn.pause()
        await conn.recv()
    else:
        conn.send(bytes(16 << 20))
        await conn.drain()


@pytest.fixture
def long_grace():
    """Time to clean up, on a machine that is busy too."""
    with inside.grace(20):
        yield


@pytest.mark.usefixtures("long_grace")
@pytest.mark.parametrize("wait", ["sleep", "to_thread", "recv", "drain"])
@pytest.mark.parametrize("cleanup", ["drain", "sleep", "to_thread", "send", "turns"])
def test_cleanup_that_awaits_runs_when_stop_is_out_of_time(backend, wait, cleanup):
    cleaned, raised = [], []
    release = threading.Event()

    async def handler(conn):
        conn.state = release
        try:
            await patient(conn, wait)
        except pymux.ConnectionClosed as error:
            raised.append(error)
            raise
        finally:
            with contextlib.suppress(pymux.ConnectionClosed):
                if cleanup == "drain":
                    await conn.drain()
                elif cleanup == "sleep":
                    await pymux.sleep(0.001)
                elif cleanup == "to_thread":
                    await pymux.to_thread(time.sleep, 0.001)
                elif cleanup == "send":
                    conn.send(b"bye")
                else:
                    for _ in range(5):
                        await pymux.sleep(0)
            cleaned.append(True)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as first,
        util.connect(server.address) as second,
    ):
        util.wait_until(lambda: server.stats().connections == 2)
        for sock in (first, second):
            sock.sendall(b"not read")
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    release.set()
    assert cleaned == [True, True]
    assert len(raised) == 2
    assert all(error.errno for error in raised)


@pytest.mark.usefixtures("long_grace")
def test_cleanup_of_a_coroutine_that_outlives_its_connection_runs_too(backend):
    cleaned = []

    async def handler(conn):
        with contextlib.suppress(pymux.ConnectionClosed):
            await conn.recv()
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.sleep(0.001)
            cleaned.append(True)

    with util.serving(handler, backend) as server:
        util.reset(util.connect(server.address))
        util.wait_until(lambda: server.stats().closed == 1)
        server.stop(0.05)
    assert cleaned == [True]


def test_cleanup_that_does_not_end_holds_up_no_stop(backend):
    cleaned = []

    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            try:
                await pymux.sleep(3600)
            finally:
                cleaned.append(True)

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    assert cleaned == [True]


def test_a_coroutine_that_will_not_end_is_told_of_once(backend, logged):
    async def handler(conn):
        while not gone:
            with contextlib.suppress(BaseException):
                await pymux.sleep(3600)

    gone = []
    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    gone.append(True)
    util.collect()
    assert [record.exc_info[0] for record in logged] == [RuntimeError]


@pytest.mark.usefixtures("long_grace")
def test_cleanup_runs_when_another_handler_ends_the_server(backend, logged):
    cleaned = []

    async def handler(conn):
        try:
            if await conn.recv() == b"leave":
                raise SystemExit
        finally:
            conn.send(b"bye")
            await conn.drain()
            await pymux.sleep(0.001)
            cleaned.append(True)

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address) as waits:
        util.wait_until(lambda: server.stats().connections == 1)
        with util.connect(server.address) as sock:
            sock.sendall(b"leave")
            assert util.recv_all(waits) == b"bye"
        with pytest.raises(SystemExit):
            server.stop()
    assert cleaned == [True, True]
    assert [record.levelname for record in logged] == ["CRITICAL"]


@pytest.mark.usefixtures("long_grace")
def test_cleanup_runs_when_a_handler_closes_the_mux(backend, logged):
    cleaned = []

    async def handler(conn):
        try:
            await conn.recv()
            conn.mux.close()
            await pymux.sleep(0)
        finally:
            cleaned.append(True)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address),
        util.connect(server.address),
    ):
        util.wait_until(lambda: server.stats().connections == 2)
        with util.connect(server.address) as sock:
            sock.sendall(b"x")
            util.until_end(sock)
        server.stop()
    assert cleaned == [True, True, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_cleanup_raises_at_the_stop_leaves_when_all_have_cleaned_up(
    backend, error, logged
):
    cleaned = []

    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.sleep(0)
            cleaned.append(True)
            raise error

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address), util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 2)
        with pytest.raises(error):
            server.stop(0.05)
    assert cleaned == [True, True]
    assert [record.levelname for record in logged] == ["CRITICAL"]
