"""How coroutines that a coroutine handler has spawned end together."""

import errno
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


# --- errors --------------------------------------------------------------------------


def test_an_error_of_one_ends_all_and_is_reported_once(backend, told):
    async def child():
        await pymux.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        conn.send(b"before")
        pymux.spawn(told.note_cancelled("other"))
        pymux.spawn(child())
        await told.note_cancelled("handler", conn.recv)

    with (
        util.serving(handler, backend, on_error=told.on_error) as server,
        util.connect(server.address) as sock,
    ):
        assert util.until_end(sock) == (b"before", None)
        sock.close()
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_spawned)
    assert told.notes == ["other", "handler"]
    assert told.errors == [(True, LookupError, "of a child")]


def test_an_error_while_the_handler_has_returned_ends_the_rest(backend, told):
    async def child():
        await pymux.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        pymux.spawn(told.note_cancelled("other"))
        pymux.spawn(child())

    with (
        util.serving(handler, backend, on_error=told.on_error) as server,
        util.connect(server.address) as sock,
    ):
        util.until_end(sock)
        sock.close()
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_spawned)
    assert told.notes == ["other"]
    assert told.errors == [(True, LookupError, "of a child")]


def test_an_error_of_the_handler_cancels_the_others(backend, told):
    async def handler(conn):
        pymux.spawn(told.note_cancelled("child"))
        await pymux.sleep(0)  # it begins
        await conn.recv()
        raise LookupError("of the handler")

    with (
        util.serving(handler, backend, on_error=told.on_error) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.until_end(sock)
    assert told.notes == ["child"]
    assert told.errors == [(True, LookupError, "of the handler")]


def test_one_that_is_cancelled_spawns_no_others(backend, told):
    async def child():
        try:
            await pymux.sleep(3600)
        finally:
            with pytest.raises(pymux.ConnectionClosed):
                pymux.spawn(told.note_cancelled("never begun"))
            told.notes.append("cleaned up")

    async def handler(conn):
        pymux.spawn(child())
        await pymux.sleep(0)  # it begins
        await conn.recv()
        raise LookupError("of the handler")

    with (
        util.serving(handler, backend, on_error=told.on_error) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.until_end(sock)
    assert told.notes == ["cleaned up"]
    assert told.errors == [(True, LookupError, "of the handler")]


def test_what_a_cancelled_one_raises_is_reported_too(backend, told):
    async def child():
        try:
            await pymux.sleep(3600)
        finally:
            raise ValueError("of the clean-up")

    async def handler(conn):
        pymux.spawn(child())
        await pymux.sleep(0)  # it begins
        await conn.recv()
        raise LookupError("of the handler")

    with (
        util.serving(handler, backend, on_error=told.on_error) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"go")
        util.until_end(sock)
        util.wait_until(lambda: len(told.errors) == 2)
    assert sorted(told.errors, key=str) == [
        (True, LookupError, "of the handler"),
        (True, ValueError, "of the clean-up"),
    ]


def test_an_error_is_logged_with_its_connection(backend, logged):
    async def child():
        raise LookupError("of a child")

    async def handler(conn):
        pymux.spawn(child())
        await conn.recv()

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        util.until_end(sock)
    (record,) = logged
    assert record.exc_info[0] is LookupError
    assert " of <Connection" in record.getMessage()


def test_the_end_of_the_connection_that_escapes_is_no_error(backend, told):
    async def child(conn):
        while True:
            await pymux.sleep(0)
            conn.send(b"tick")

    async def handler(conn):
        pymux.spawn(child(conn))
        await conn.recv()
        conn.close()
        await told.note_cancelled("handler")

    with (
        util.serving(handler, backend, on_error=told.on_error) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_exactly(sock, 4) == b"tick"
        sock.sendall(b"close")
        util.recv_all(sock)
        util.wait_until(lambda: told.notes)
    assert told.notes == ["handler"]
    assert told.errors == []


# --- the end of the connection -------------------------------------------------------


@pytest.mark.parametrize("returned", [False, True])
def test_a_connection_that_is_lost_cancels_what_it_has_spawned(backend, told, returned):
    opened = threading.Event()

    async def handler(conn):
        pymux.spawn(told.note_cancelled("child"))
        opened.set()
        if not returned:
            with pytest.raises(pymux.ConnectionClosed):
                await conn.recv()
            told.notes.append("handler")

    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        assert opened.wait(10)
        util.settle(server)
        util.reset(sock)
        util.wait_until(lambda: "child" in told.notes)
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_spawned)
    assert told.notes == (["child"] if returned else ["handler", "child"])


def test_a_handler_that_does_not_use_its_connection_goes_on_without_it(backend, told):
    gate = util.Gate()

    async def handler(conn):
        pymux.spawn(told.note_cancelled("child"))
        await gate.wait()
        with pytest.raises(pymux.ConnectionClosed) as caught:
            pymux.spawn(told.note_cancelled("never begun"))
        assert caught.value.errno == errno.ECONNRESET
        told.notes.append("handler")

    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        assert gate.reached.wait(10)
        util.reset(sock)
        util.wait_until(lambda: told.notes == ["child"])
        gate.open()
        util.wait_until(lambda: len(told.notes) == 2)
    assert told.notes == ["child", "handler"]


def test_the_peers_end_of_stream_cancels_nothing(backend, clock):
    async def answer(conn):
        await pymux.sleep(60)
        conn.send(b"answer")

    async def handler(conn):
        async for _ in conn:
            pymux.spawn(answer(conn))

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ask\nask\n")
        sock.shutdown(1)
        util.wait_until(lambda: server.stats().messages_in == 2)
        util.settle(server)
        clock.advance(61, server)
        assert util.recv_all(sock) == b"answer\nanswer\n"


def test_a_close_cancels_once_the_connection_has_ended(backend, told):
    async def handler(conn):
        pymux.spawn(told.note_cancelled("child"))
        await pymux.sleep(0)  # it begins
        await conn.recv()
        conn.send(b"bye")
        conn.close()
        await pymux.sleep(0)

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"x")
        assert util.recv_all(sock) == b"bye"
        sock.close()
        util.wait_until(lambda: told.notes)
    assert told.notes == ["child"]


# --- cancelling one ------------------------------------------------------------------


def test_one_can_be_cancelled_while_the_others_go_on(backend, told):
    async def handler(conn):
        one = pymux.spawn(told.note_cancelled("one"))
        two = pymux.spawn(told.note_cancelled("two"))
        told.notes.append((one.done(), two.done()))
        await conn.recv()
        one.cancel()
        one.cancel()
        told.notes.append(one.done())
        await pymux.sleep(0)
        await pymux.sleep(0)
        told.notes.append((one.done(), two.done()))
        conn.send(await conn.recv())
        two.cancel()

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"cancel\n")
        util.wait_until(lambda: len(told.notes) == 4)
        sock.sendall(b"go on\n")
        assert util.recv_all(sock) == b"go on\n"
    assert told.notes == [(False, False), False, "one", (True, False), "two"]


def test_one_that_is_cancelled_may_clean_up(backend, told):
    async def child(conn):
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.to_thread(int)
            conn.send(b"cleaned up")

    async def handler(conn):
        one = pymux.spawn(child(conn))
        await conn.recv()
        one.cancel()

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"go")
        assert util.recv_all(sock) == b"cleaned up"


def test_one_that_is_cancelled_twice_cleans_up_undisturbed(backend, told):
    async def child(conn):
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.to_thread(int)
            conn.send(b"cleaned up")

    async def handler(conn):
        one = pymux.spawn(child(conn))
        await conn.recv()
        one.cancel()
        one.cancel()

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"go")
        assert util.recv_all(sock) == b"cleaned up"


def test_one_that_is_cancelled_before_it_begins_never_begins(backend, told):
    async def child():
        told.notes.append("begun")

    async def handler(conn):
        one = pymux.spawn(child())
        inside.cancel_now(one)
        await pymux.sleep(0)
        told.notes.append(one.done())

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
    assert told.notes == [True]


def test_another_thread_cannot_cancel(backend, told):
    spawned = []

    async def handler(conn):
        spawned.append(pymux.spawn(told.note_cancelled("child")))
        await conn.recv()
        spawned[0].cancel()

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        util.wait_until(lambda: spawned)
        util.settle(server)
        with pytest.raises(RuntimeError, match="thread"):
            spawned[0].cancel()
        assert (told.notes, spawned[0].done()) == ([], False)
        sock.sendall(b"go")
        assert util.recv_all(sock) == b""
    assert told.notes == ["child"]
    spawned[0].cancel()  # it has ended


def test_an_item_is_not_lost_with_the_coroutine_that_was_to_get_it(backend, told):
    items = pymux.Queue()

    async def take(conn, name):
        conn.send(name + await items.get())

    async def handler(conn):
        one = pymux.spawn(take(conn, b"one "))
        pymux.spawn(take(conn, b"two "))
        await conn.recv()
        one.cancel()
        items.put_nowait(b"item")  # for the one that is being cancelled

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"go")
        assert util.recv_all(sock) == b"two item"


def test_one_that_is_cancelled_at_once_gives_back_what_it_was_given(backend):
    given_back = []

    async def child():
        try:
            await pymux.sleep(60)
        finally:
            given_back.append(True)

    async def handler(conn):
        pymux.spawn(child()).cancel()

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
    assert given_back == [True]
