"""How coroutines that a coroutine handler has spawned end with their server."""

import contextlib
import threading
import time

import pytest

import pymux

from . import inside, util
from .serving import Told

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
SOON = 5  # seconds, far under the patience of these tests' servers


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def long_grace():
    """Time to clean up, on a machine that is busy too."""
    with inside.grace(20):
        yield


@pytest.mark.parametrize("fatal", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_server_ends_it_from_a_spawned_coroutine_too(backend, told, fatal):
    async def child():
        raise fatal

    async def handler(conn):
        pymux.spawn(told.note_cancelled("other"))
        await pymux.sleep(0)
        pymux.spawn(child())
        await conn.recv()

    server = pymux.Server(handler, LOCAL, backend=backend)
    assert type(run_until_it_raises(server)) is fatal
    assert told.notes == ["other"]


def test_an_end_of_the_server_that_one_raises_late_cancels_the_others(backend, told):
    async def child():
        try:
            await pymux.sleep(3600)
        finally:
            raise SystemExit

    async def handler(conn):
        pymux.spawn(child())
        pymux.spawn(told.note_cancelled("other"))
        await pymux.sleep(0)
        await pymux.sleep(0)
        raise LookupError("of the handler")

    server = pymux.Server(handler, LOCAL, backend=backend, on_error=told.on_error)
    assert type(run_until_it_raises(server)) is SystemExit
    assert told.notes == ["other"]


@pytest.mark.usefixtures("long_grace")
@pytest.mark.parametrize("cleans_up", [False, True])
@pytest.mark.parametrize("handler_has", ["returned", "raised", "gone on"])
def test_all_end_with_a_server_that_another_handler_ends(
    backend, told, handler_has, cleans_up
):
    async def child(conn):
        try:
            await told.note_cancelled("child")
        finally:
            if cleans_up:
                await pymux.sleep(0.001)
            told.notes.append("cleaned up")

    async def handler(conn):
        if told.notes:  # the second connection
            raise SystemExit
        told.notes.append("first")
        pymux.spawn(child(conn))
        if handler_has != "returned":
            try:
                await conn.recv()
            except pymux.ConnectionClosed:
                with pytest.raises(pymux.ConnectionClosed):
                    pymux.spawn(child(conn))
                told.notes.append("handler")
                if handler_has == "raised":
                    raise

    server = pymux.Server(handler, LOCAL, backend=backend, on_error=told.on_error)
    assert type(run_until_it_raises(server, 2)) is SystemExit
    wanted = ["first", "child", "cleaned up"] + ["handler"] * (
        handler_has != "returned"
    )
    assert sorted(told.notes) == sorted(wanted)
    assert told.errors == []


def run_until_it_raises(server, clients=1):
    """What `run` raises once clients have connected."""

    def client():
        util.wait_until(listens)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for _ in range(clients):
                sock = stack.enter_context(util.connect(server.address))
                util.wait_until(lambda: server.stats().accepted > 0)
            util.until_end(sock)

    def listens():
        with contextlib.suppress(RuntimeError):
            return server.address

    thread = threading.Thread(target=client)
    thread.start()
    try:
        server.run()
    except BaseException as error:
        return error
    finally:
        thread.join()


def test_a_stop_waits_for_what_was_spawned(backend):
    gate = util.Gate()

    async def answer(conn):
        await gate.wait()
        conn.send(b"answer")

    async def handler(conn):
        async for _ in conn:
            pymux.spawn(answer(conn))

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ask")
        assert gate.reached.wait(10)
        stopper = threading.Thread(target=server.stop, args=(30,))
        stopper.start()
        util.wait_until(lambda: server.stats().listeners == 0)
        gate.open()
        assert util.recv_all(sock) == b"answer"
        sock.close()
        stopper.join()


@pytest.mark.usefixtures("long_grace")
@pytest.mark.parametrize("returned", [False, True])
def test_the_deadline_of_a_stop_cancels_and_lets_clean_up(backend, told, returned):
    async def child():
        try:
            await told.note_cancelled("child")
        finally:
            await pymux.sleep(0.001)
            told.notes.append("cleaned up")

    async def handler(conn):
        pymux.spawn(child())
        if not returned:
            await pymux.sleep(3600)

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        util.settle(server)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    assert told.notes == ["child", "cleaned up"]


@pytest.mark.parametrize("returned", [False, True])
def test_one_that_will_not_end_is_told_of_once(backend, logged, returned):
    gone = []

    async def child():
        while not gone:
            with contextlib.suppress(BaseException):
                await pymux.sleep(3600)

    async def handler(conn):
        pymux.spawn(child())
        if not returned:
            await conn.recv()

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        util.settle(server)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    gone.append(True)
    util.collect()
    assert [record.exc_info[0] for record in logged] == [RuntimeError]


def test_a_mux_that_a_spawned_coroutine_closes_ends_all(backend, told):
    async def child(conn):
        await pymux.sleep(0)
        conn.mux.close()
        await told.note_cancelled("child")

    async def handler(conn):
        pymux.spawn(told.note_cancelled("other"))
        pymux.spawn(child(conn))
        with pytest.raises(pymux.ConnectionClosed):
            await conn.recv()
        told.notes.append("handler")

    with pymux.Mux(backend) as mux:
        listener = mux.listen(LOCAL, handler=handler)
        with util.connect(listener.address):
            deadline = time.monotonic() + 10
            with contextlib.suppress(RuntimeError):
                while time.monotonic() < deadline:
                    mux.harvest(0.05)
    assert sorted(told.notes) == ["child", "handler", "other"]
