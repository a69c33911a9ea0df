"""Coroutine handlers that wait for each other: `Event` and `Queue`."""

import contextlib
import queue
import threading

import pytest

import pymux

from . import util

LINES = pymux.Lines()


def from_outside(server, fn, *args):
    """Call in the server's thread, as another thread has to."""
    return util.in_server(server, lambda mux: fn(*args))


# --- Event -----------------------------------------------------------------------


def test_an_event_wakes_every_coroutine_that_waits_for_it(backend):
    event, waiting = pymux.Event(), []

    async def handler(conn):
        waiting.append(conn)
        await event.wait()
        conn.send(b"%d" % event.is_set())

    with (
        util.serving(handler, backend) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(3)]
        util.wait_until(lambda: len(waiting) == 3)
        from_outside(server, event.set)
        assert [util.recv_all(sock) for sock in socks] == [b"1"] * 3
        assert util.everything(server.address, b"") == b"1"  # and is set from now on


def test_an_event_that_was_cleared_is_waited_for_again(backend):
    event = pymux.Event()

    async def handler(conn):
        async for _ in conn:
            await event.wait()
            event.clear()
            conn.send(b"woken")

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        for _ in range(3):
            sock.sendall(b"go\n")
            from_outside(server, event.set)
            assert util.recv_exactly(sock, 6) == b"woken\n"
            assert not event.is_set()


def test_whoever_sets_an_event_goes_on_before_the_others(backend):
    event, order = pymux.Event(), []

    async def handler(conn):
        if await conn.recv() == b"wait":
            order.append("waits")
            await event.wait()
            order.append("woken")
        else:
            event.set()
            order.append("set")
        conn.send(b"over")

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        sock.sendall(b"wait")
        util.wait_until(lambda: order)
        assert util.everything(server.address, b"set") == b"over"
        assert util.recv_all(sock) == b"over"
    assert order == ["waits", "set", "woken"]


# --- Queue -----------------------------------------------------------------------


def test_items_come_out_in_the_order_in_which_they_went_in(backend):
    items = pymux.Queue()

    async def handler(conn):
        if await conn.recv() == b"take":
            async for item in items:
                conn.send(item)
        else:
            for k in range(100):
                await items.put(b"%d" % k)
            items.close()

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as taker,
    ):
        taker.sendall(b"take\n")
        util.wait_until(lambda: server.stats().messages_in == 1)
        assert util.everything(server.address, b"put\n") == b""
        assert util.recv_all(taker) == b"".join(b"%d\n" % k for k in range(100))


def test_a_full_queue_lets_put_wait(backend):
    items, put, taken = pymux.Queue(maxsize=2), [], []

    async def handler(conn):
        if await conn.recv() == b"take":
            taken.append(await items.get())
        else:
            for k in range(4):
                await items.put(k)
                put.append(k)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as putter,
    ):
        putter.sendall(b"put")
        util.wait_until(lambda: len(put) == 2)
        util.settle(server)
        assert (put, len(items)) == ([0, 1], 2)
        util.everything(server.address, b"take")
        util.wait_until(lambda: len(put) == 3)
        util.settle(server)
        assert (put, taken, len(items)) == ([0, 1, 2], [0], 2)
        util.everything(server.address, b"take")
        assert util.recv_all(putter) == b""
    assert (put, taken) == ([0, 1, 2, 3], [0, 1])


def test_each_item_goes_to_one_of_those_who_wait(backend):
    items, waiting = pymux.Queue(), []

    async def handler(conn):
        waiting.append(conn)
        conn.send(await items.get())

    with (
        util.serving(handler, backend) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(3)]
        util.wait_until(lambda: len(waiting) == 3)

        def put():
            for item in (b"a", b"b", b"c"):
                items.put_nowait(item)

        from_outside(server, put)
        assert sorted(util.recv_all(sock) for sock in socks) == [b"a", b"b", b"c"]


def test_what_does_not_wait_is_refused_instead(backend):
    async def handler(conn):
        items = pymux.Queue(1)
        with pytest.raises(queue.Empty):
            items.get_nowait()
        items.put_nowait(1)
        with pytest.raises(queue.Full, match="holds 1 items"):
            items.put_nowait(2)
        items.close()
        items.close()
        for put in (items.put_nowait, items.put):
            with pytest.raises(ValueError, match="the queue is closed"):
                await put(3)
        assert await items.get() == 1
        with pytest.raises(EOFError, match="closed and empty"):
            await items.get()
        with pytest.raises(EOFError, match="closed and empty"):
            items.get_nowait()
        assert [item async for item in items] == []
        conn.send(repr(items).encode())

    with util.serving(handler, backend) as server:
        shown = util.everything(server.address, b"")
    assert shown == b"<pymux.Queue, 0 of 1 items, closed>"


def test_closing_a_queue_wakes_those_who_wait(backend):
    full, empty, waiting, told = pymux.Queue(1), pymux.Queue(), [], []
    full.put_nowait("there")

    async def handler(conn):
        waiting.append(conn)
        try:
            if await conn.recv() == b"put":
                await full.put("more")
            else:
                await empty.get()
        except (ValueError, EOFError) as error:
            told.append(type(error))

    def close():
        full.close()
        empty.close()

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
    ):
        one.sendall(b"put")
        two.sendall(b"get")
        util.wait_until(lambda: server.stats().messages_in == 2)
        util.settle(server)
        from_outside(server, close)
        assert util.recv_all(one) == util.recv_all(two) == b""
    assert sorted(told, key=str) == [EOFError, ValueError]
    assert (full.closed, len(full), full.get_nowait()) == (True, 1, "there")


@pytest.mark.parametrize(
    ("maxsize", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError)]
)
def test_a_size_that_cannot_be_is_refused(maxsize, kind):
    with pytest.raises(kind, match="maxsize is"):
        pymux.Queue(maxsize)


# --- both ------------------------------------------------------------------------


def test_a_timeout_takes_no_item_and_no_place(backend, clock):
    items, entered = pymux.Queue(), threading.Event()

    async def handler(conn):
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(60):
                entered.set()
                await items.get()
        assert len(items) == 0
        await conn.recv()
        conn.send(await items.get())

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        clock.advance(61, server)
        from_outside(server, items.put_nowait, b"one")
        sock.sendall(b"go")
        assert util.recv_all(sock) == b"one"


def test_an_item_that_was_there_in_time_beats_a_timeout(backend, clock):
    items, entered = pymux.Queue(), threading.Event()

    async def handler(conn):
        async with pymux.timeout(60):
            entered.set()
            conn.send(await items.get())

    def put(mux):
        items.put_nowait(b"one")
        clock.advance(100)

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        assert entered.wait(10)
        util.in_server(server, put)
        assert util.recv_all(sock) == b"one"


def test_a_timeout_leaves_the_next_one_in_its_place(backend, clock):
    items, waiting = pymux.Queue(), []

    async def handler(conn):
        limit = 60 if not waiting else None
        waiting.append(conn)
        with contextlib.suppress(TimeoutError):
            async with pymux.timeout(limit):
                conn.send(await items.get())

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as first,
    ):
        util.wait_until(lambda: len(waiting) == 1)
        with util.connect(server.address) as second:
            util.wait_until(lambda: len(waiting) == 2)
            util.settle(server)
            clock.advance(61, server)
            assert util.recv_all(first) == b""
            from_outside(server, items.put_nowait, b"one")
            assert util.recv_all(second) == b"one"


def test_what_another_one_took_meanwhile_is_waited_for_again(backend):
    items, full, told = pymux.Queue(), pymux.Queue(1), []
    full.put_nowait(0)

    async def handler(conn):
        if await conn.recv() == b"get":
            told.append(await items.get())
        else:
            await full.put(1)
            told.append("put")

    def give_and_take():
        items.put_nowait(2)
        told.append(items.get_nowait())
        told.append(full.get_nowait())
        full.put_nowait(3)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as getter,
        util.connect(server.address) as putter,
    ):
        getter.sendall(b"get")
        putter.sendall(b"put")
        util.wait_until(lambda: server.stats().messages_in == 2)
        util.settle(server)
        from_outside(server, give_and_take)
        util.settle(server)
        assert told == [2, 0]
        from_outside(server, items.put_nowait, 4)
        assert util.recv_all(getter) == b""
        assert from_outside(server, full.get_nowait) == 3
        assert util.recv_all(putter) == b""
    assert told == [2, 0, 4, "put"]


@pytest.mark.parametrize("wait", ["event", "get", "put"])
def test_a_loop_of_waits_that_end_at_once_lets_the_others_run(backend, wait):
    over = []

    async def handler(conn):
        if await conn.recv() != b"loop":
            conn.send(b"served")
            return
        conn.send(b"looping")
        event, items = pymux.Event(), pymux.Queue()
        event.set()
        while not over:
            if wait == "event":
                await event.wait()
            elif wait == "put":
                await items.put(1)
            else:
                items.put_nowait(1)
                await items.get()

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as loops,
    ):
        try:
            loops.sendall(b"loop")
            assert util.recv_exactly(loops, 7) == b"looping"
            assert util.everything(server.address, b"x") == b"served"
        finally:
            over.append(True)


def test_another_thread_is_told_what_to_use_instead(backend):
    event, items, waiting = pymux.Event(), pymux.Queue(), []

    async def handler(conn):
        await items.put(1)
        await items.get()
        waiting.append(True)
        await event.wait()

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        util.wait_until(lambda: waiting)
        util.settle(server)
        for call in (event.set, event.clear, items.get_nowait, items.close):
            with pytest.raises(RuntimeError, match="use call_threadsafe"):
                call()
        with pytest.raises(RuntimeError, match="Queue belongs to the thread"):
            items.put_nowait(1)
        assert not event.is_set()
        from_outside(server, event.set)
        assert util.recv_all(sock) == b""


def test_a_coroutine_that_waits_for_another_ends_with_the_server(backend):
    event, left = pymux.Event(), []

    async def handler(conn):
        try:
            await event.wait()
        except pymux.ConnectionClosed:
            left.append(True)

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        server.stop(0.05)
    assert left == [True]
    event.set()  # that thread has ended
    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
