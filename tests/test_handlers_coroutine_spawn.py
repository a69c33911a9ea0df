"""Coroutines that a coroutine handler spawns: what they may do beside it."""

import contextlib
import contextvars
import threading

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


# --- beside each other ---------------------------------------------------------------


def test_answers_leave_in_the_order_in_which_they_are_ready(backend, clock):
    async def answer(conn, seconds):
        await pymux.sleep(float(seconds))
        conn.send(seconds)

    async def handler(conn):
        async for seconds in conn:
            pymux.spawn(answer(conn, seconds))

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"300\n200\n100\n0\n")
        assert util.recv_exactly(sock, 2) == b"0\n"
        for seconds in (b"100\n", b"200\n", b"300\n"):
            clock.advance(101, server)
            assert util.recv_exactly(sock, 4) == seconds


def test_the_connection_of_a_handler_that_returns_waits_for_the_others(backend, clock):
    async def later(conn):
        await pymux.sleep(60)
        conn.send(b"later")
        pymux.spawn(latest(conn))

    async def latest(conn):
        await pymux.sleep(60)
        conn.send(b"latest")

    async def handler(conn):
        await conn.recv()
        pymux.spawn(later(conn))
        conn.send(b"at once")

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go\nnot read\n")
        assert util.recv_exactly(sock, 8) == b"at once\n"
        clock.advance(61, server)
        assert util.recv_exactly(sock, 6) == b"later\n"
        assert server.stats().connections == 1
        clock.advance(61, server)
        assert util.recv_all(sock) == b"latest\n"
        sock.close()
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_spawned)


def test_a_spawned_coroutine_has_a_copy_of_the_context(backend):
    name, seen = contextvars.ContextVar("name", default="none"), []

    async def child(order):
        seen.append((order, name.get()))
        name.set("the child's")

    async def handler(conn):
        name.set("the handler's")
        pymux.spawn(child(1))
        name.set("another")
        pymux.spawn(child(2))
        await pymux.sleep(0)
        await pymux.sleep(0)
        seen.append((3, name.get()))

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
    assert seen == [(1, "the handler's"), (2, "another"), (3, "another")]


def test_a_generator_that_a_spawned_coroutine_leaves_is_finished(backend):
    finished = []

    async def numbers():
        try:
            for k in range(3):
                yield k
        finally:
            await pymux.sleep(0)
            finished.append(True)

    async def child():
        async for _ in numbers():
            break

    async def handler(conn):
        pymux.spawn(child())

    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
        util.wait_until(lambda: util.collect() or finished)
    assert finished == [True]


def test_only_the_handler_receives(backend):
    told = []

    async def child(conn):
        for wait in (conn.recv, conn.__anext__):
            try:
                await wait()
            except RuntimeError as error:
                told.append(str(error))

    async def handler(conn):
        pymux.spawn(child(conn))
        conn.send(await conn.recv())

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        util.wait_until(lambda: len(told) == 2)
        sock.sendall(b"x")
        assert util.recv_all(sock) == b"x"
    assert [text.split(" is for the handler itself")[0] for text in told] == [
        "recv()",
        "iteration",
    ]
    assert told[0].endswith("receive in the handler, and give on by a pymux.Queue")


def test_all_may_drain(backend):
    drained = []

    async def child(conn, name):
        conn.send(bytes(4 << 20))
        await conn.drain()
        drained.append(name)

    async def handler(conn):
        pymux.spawn(child(conn, "one"))
        pymux.spawn(child(conn, "two"))
        await pymux.sleep(0)
        await child(conn, "handler")

    with (
        util.serving(handler, backend) as server,
        util.connect_narrow(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().queued > 8 << 20)
        util.settle(server)
        assert drained == []
        assert len(util.recv_all(sock)) == 12 << 20
    assert sorted(drained) == ["handler", "one", "two"]


def test_a_drain_of_a_spawned_coroutine_may_have_a_time_limit(backend, clock, told):
    async def child(conn):
        conn.send(bytes(16 << 20))
        try:
            await conn.drain(timeout=60)
        except TimeoutError as error:
            told.notes.append(str(error))
            told.notes.append(inside.waits_to_drain(conn.mux))
        conn.abort()

    async def handler(conn):
        pymux.spawn(child(conn))
        await conn.recv()

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().queued > 0)
        clock.advance(61, server)
        util.wait_until(lambda: told.notes)
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_spawned)
    assert told.notes == ["drain(): not under low water within 60 seconds", 0]


def test_a_timeout_of_the_spawner_does_not_limit_it(backend, clock):
    entered = threading.Event()

    async def child(conn):
        await pymux.sleep(120)
        conn.send(b"later")

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                pymux.spawn(child(conn))
                entered.set()
                await conn.recv()
        conn.send(b"over")

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        util.settle(server)
        clock.advance(61, server)
        assert util.recv_exactly(sock, 4) == b"over"
        clock.advance(61, server)
        assert util.recv_all(sock) == b"later"


def test_what_is_not_a_coroutine_of_a_handler_is_refused(backend, told):
    async def child():
        pass

    async def handler(conn):
        for wrong in (child, None, 7):
            try:
                pymux.spawn(wrong)
            except TypeError as error:
                told.notes.append(str(error))
        with pytest.raises(RuntimeError, match=r"spawn\(\) works in a coroutine"):
            await pymux.to_thread(lambda: pymux.spawn(child()))
        conn.close()
        with pytest.raises(pymux.ConnectionClosed):
            pymux.spawn(child())

    with pytest.raises(RuntimeError, match=r"spawn\(\) works in a coroutine"):
        pymux.spawn(child())
    with util.serving(handler, backend) as server:
        util.everything(server.address, b"")
    assert [text.split("; ")[1] for text in told.notes] == [
        "a coroutine is needed, as in spawn(function(argument))"
    ] * 3


def test_to_await_one_says_what_to_await_instead(backend, told):
    async def child():
        await pymux.sleep(0)

    async def handler(conn):
        await pymux.spawn(child())

    with util.serving(handler, backend, on_error=told.on_error) as server:
        assert util.everything(server.address, b"") == b""
    ((_, kind, text),) = told.errors
    assert kind is TypeError
    assert "is not awaited; let it set a pymux.Event, or put its result in" in text


# --- dialled connections -------------------------------------------------------------


async def pump(source, sink):
    """Send on what comes, until its end."""
    async for data in source:
        sink.send(data)
        await sink.drain()
    sink.send_eof()


def proxy_to(address):
    async def proxy(conn):
        upstream = await pymux.dial(address)
        pymux.spawn(pump(upstream, conn))
        await pump(conn, upstream)

    return proxy


def test_a_proxy_is_two_coroutines(backend):
    size = 8 << 20

    async def echo(conn):
        async for data in conn:
            conn.send(data)
            await conn.drain()

    with (
        util.serving(echo, backend) as behind,
        util.serving(proxy_to(behind.address), backend) as server,
        util.connect(server.address) as sock,
    ):
        sent = bytes(range(256)) * (size // 256)
        sender = threading.Thread(target=lambda: (sock.sendall(sent), sock.shutdown(1)))
        sender.start()
        assert util.recv_all(sock) == sent
        sender.join()
        util.wait_until(lambda: behind.stats().connections == 0)
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_spawned)


def test_one_at_a_time_receives_from_a_dialled_connection(backend, told):
    async def child(upstream):
        await pymux.sleep(0)
        try:
            await upstream.recv()
        except RuntimeError as error:
            told.notes.append(str(error))

    async def handler(conn):
        upstream = await pymux.dial(behind.address)
        pymux.spawn(child(upstream))
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(0.2):
                await upstream.recv()

    with (
        util.serving(lambda conn, data: data, backend) as behind,
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_all(sock) == b""
    (text,) = told.notes
    assert "one at a time" in text


def test_a_connection_ends_with_the_spawned_coroutine_that_dialled(backend, told):
    async def child(box):
        box.append(await pymux.dial(behind.address))
        await pymux.sleep(0.01)

    async def handler(conn):
        box = []
        pymux.spawn(child(box))
        while not box:
            await pymux.sleep(0)
        with pytest.raises(pymux.ConnectionClosed):
            await box[0].recv()
        conn.send(b"goes on")

    with (
        util.serving(lambda conn, data: data, backend) as behind,
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_all(sock) == b"goes on"
        util.wait_until(lambda: behind.stats().connections == 0)


# --- the idle clock ------------------------------------------------------------------


def test_what_waits_for_ever_ends_with_an_idle_peer(backend, clock, told):
    opened = threading.Event()

    async def child(items):
        opened.set()
        await told.note_cancelled("child", items.get)

    async def handler(conn):
        await conn.recv()
        pymux.spawn(child(pymux.Queue()))  # and returns

    limits = pymux.Limits(idle_timeout=60)
    with (
        util.serving(handler, backend, limits=limits) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x")
        assert opened.wait(10)
        assert told.notes == []
        clock.outlast(sock, 61, server)
        util.wait_until(lambda: server.stats().connections == 0)
    assert told.notes == ["child"]


@pytest.mark.parametrize("wait", ["to_thread", "queue"])
def test_an_idle_peer_is_one_that_no_coroutine_works_for(backend, clock, wait):
    gate, items = util.Gate(), pymux.Queue()

    async def child(conn):
        if wait == "to_thread":
            await gate.wait()
            conn.send(b"answer")
        else:
            await items.get()

    async def handler(conn):
        async for _ in conn:
            pymux.spawn(child(conn))

    limits = pymux.Limits(idle_timeout=60)
    with (
        util.serving(handler, backend, limits=limits) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ask")
        util.wait_until(lambda: server.stats().messages_in == 1)
        if wait == "to_thread":
            assert gate.reached.wait(10)
            for _ in range(5):
                clock.advance(50, server)
            assert server.stats().connections == 1
            gate.open()
            assert util.recv_exactly(sock, 6) == b"answer"
        clock.outlast(sock, 61, server)
        util.wait_until(lambda: server.stats().connections == 0)
