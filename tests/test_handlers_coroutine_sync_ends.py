"""The end of its connection ends a handler's wait for an `Event` or in a `Queue`."""

import contextlib
import errno
import threading

import pytest

import pymux

from . import inside, util
from .serving import Told, Waits


@pytest.fixture(params=["event", "get", "put"])
def wait(request):
    return request.param


@pytest.mark.parametrize("end", ["reset", "closed", "aborted"])
def test_the_end_is_raised_where_the_handler_waits(backend, wait, end):
    waits, conns, ends = Waits(), [], []

    async def handler(conn):
        conns.append(conn)
        try:
            await waits.named[wait]()
        except pymux.ConnectionClosed as error:
            ends.append(error)
            raise

    told = Told()
    with util.serving(handler, backend, on_error=told.on_error) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: conns)
        util.settle(server)
        if end == "reset":
            util.reset(sock)
        else:
            close = conns[0].close if end == "closed" else conns[0].abort
            util.in_server(server, lambda mux: close())
            sock.close()
        util.wait_until(lambda: ends)
        assert ends[0].connection is conns[0]
        assert ends[0].errno == (errno.ECONNRESET if end == "reset" else None)
        assert (len(waits.empty), len(waits.full)) == (0, 1)
        util.wait_until(lambda: server.stats().connections == 0)
        assert not util.in_server(server, inside.keeps_ends)
    assert (len(ends), told.errors) == (1, [])


def test_coroutines_do_not_pile_up_behind_peers_that_go(backend, wait):
    waits, begun, alive = Waits(), [], set()

    async def handler(conn):
        begun.append(conn)
        alive.add(conn)
        try:
            await waits.named[wait]()
        finally:
            alive.discard(conn)

    limits = pymux.Limits(max_connections=3)
    with util.serving(handler, backend, limits=limits) as server:
        for k in range(20):
            sock = util.connect(server.address)
            util.wait_until(lambda k=k: len(begun) > k)
            util.reset(sock)
        util.wait_until(lambda: not alive)


def test_the_end_of_the_peers_stream_ends_no_wait(backend, wait):
    waits, begun = Waits(), []

    async def handler(conn):
        begun.append(conn)
        await waits.named[wait]()
        conn.send(b"went on")

    with util.serving(handler, backend) as server, util.connect(server.address) as sock:
        util.wait_until(lambda: begun)
        sock.shutdown(1)
        util.settle(server)
        util.in_server(server, lambda mux: waits.go_on())
        assert util.recv_all(sock) == b"went on"


def test_an_item_goes_past_a_getter_whose_connection_has_gone(backend):
    items, waiting = pymux.Queue(), []

    async def handler(conn):
        waiting.append(conn)
        conn.send(await items.get())

    with util.serving(handler, backend) as server:
        gone = util.connect(server.address)
        util.wait_until(lambda: len(waiting) == 1)
        with util.connect(server.address) as stays:
            util.wait_until(lambda: len(waiting) == 2)
            util.settle(server)
            util.reset(gone)
            util.wait_until(lambda: server.stats().connections == 1)
            util.in_server(server, lambda mux: items.put_nowait(b"item"))
            assert util.recv_all(stays) == b"item"


def test_a_woken_getter_that_was_closed_meanwhile_passes_its_item_on(backend):
    items, waiting, ends = pymux.Queue(), [], []

    async def handler(conn):
        waiting.append(conn)
        try:
            conn.send(await items.get())
        except pymux.ConnectionClosed:
            ends.append(conn)
            raise

    def put_and_close(mux):
        items.put_nowait(b"item")  # wakes the first one
        waiting[0].close()

    with util.serving(handler, backend) as server, util.connect(server.address) as gone:
        util.wait_until(lambda: len(waiting) == 1)
        with util.connect(server.address) as stays:
            util.wait_until(lambda: len(waiting) == 2)
            util.settle(server)
            util.in_server(server, put_and_close)
            assert util.recv_all(stays) == b"item"
        assert util.recv_all(gone) == b""
    assert ends == waiting[:1]


def test_a_wait_that_begins_after_the_end_is_told_once(backend, wait):
    waits, release, begun, notes = Waits(), threading.Event(), [], []

    async def handler(conn):
        begun.append(conn)
        await pymux.to_thread(release.wait, 10)
        try:
            with pytest.raises(pymux.ConnectionClosed):
                await waits.named[wait]()
            notes.append("told")
        finally:
            await waits.named[wait]()
            notes.append("cleaned up")

    with util.serving(handler, backend) as server:
        util.reset(util.connect(server.address))
        util.wait_until(lambda: begun and server.stats().connections == 0)
        util.settle(server)  # now the mux has told, too
        release.set()
        util.wait_until(lambda: notes)
        util.settle(server)
        assert notes == ["told"]
        util.in_server(server, lambda mux: waits.go_on())
        util.wait_until(lambda: len(notes) == 2)


@pytest.mark.parametrize("by", ["recv", "drain", "send", "spawn", "wait"])
def test_a_coroutine_that_was_told_may_wait_while_it_cleans_up(backend, wait, by):
    waits, begun, release, notes = Waits(), [], threading.Event(), []

    async def tell(conn):
        if by == "recv":
            await conn.recv()
        elif by == "wait":
            await waits.named[wait]()
        else:
            await pymux.to_thread(release.wait, 10)
            if by == "drain":
                await conn.drain()
            elif by == "send":
                conn.send(b"too late")
            else:
                pymux.spawn(conn.drain())

    async def handler(conn):
        begun.append(conn)
        try:
            with pytest.raises(pymux.ConnectionClosed):
                await tell(conn)
            notes.append("told")
        finally:
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    async with pymux.timeout(0):
                        await waits.named[wait]()
            await waits.named[wait]()
            notes.append("cleaned up")

    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: begun)
        util.settle(server)
        util.reset(sock)
        util.wait_until(lambda: server.stats().connections == 0)
        util.settle(server)  # now the mux has told, too
        release.set()
        util.wait_until(lambda: notes)
        util.settle(server)
        assert notes == ["told"]
        util.in_server(server, lambda mux: waits.go_on())
        util.wait_until(lambda: len(notes) == 2)
        util.settle(server)
        assert not util.in_server(server, inside.keeps_ends)


def test_a_refused_send_tells_before_the_end_is_reported(backend, wait):
    waits, notes = Waits(), []

    async def handler(conn):
        conn.close()
        with pytest.raises(pymux.ConnectionClosed):
            conn.send(b"too late")
        notes.append("told")
        await waits.named[wait]()
        notes.append("cleaned up")

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
        util.wait_until(lambda: server.stats().connections == 0)
        util.settle(server)
        assert notes == ["told"]
        util.in_server(server, lambda mux: waits.go_on())
        util.wait_until(lambda: len(notes) == 2)


def test_what_need_not_wait_is_no_wait(backend):
    begun, notes, release = [], [], threading.Event()

    async def handler(conn):
        begun.append(conn)
        await pymux.to_thread(release.wait, 10)
        event, items = pymux.Event(), pymux.Queue()
        event.set()
        await event.wait()
        await items.put("left")
        notes.append(await items.get())

    with util.serving(handler, backend) as server:
        util.reset(util.connect(server.address))
        util.wait_until(lambda: begun and server.stats().connections == 0)
        util.settle(server)  # now the mux has told, too
        release.set()
        util.wait_until(lambda: notes)
    assert notes == ["left"]


def test_a_spawned_coroutine_is_cancelled_and_its_cleanup_may_wait(backend, wait):
    waits, begun, notes = Waits(), [], []

    async def child():
        begun.append(True)
        try:
            await waits.named[wait]()
        except pymux.Cancelled:
            notes.append("cancelled")
            await waits.named[wait]()
            notes.append("cleaned up")
            raise

    async def handler(conn):
        pymux.spawn(child())

    with util.serving(handler, backend) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: begun)
        util.reset(sock)
        util.wait_until(lambda: notes)
        util.settle(server)
        assert notes == ["cancelled"]
        util.in_server(server, lambda mux: waits.go_on())
        util.wait_until(lambda: len(notes) == 2)


def test_a_handler_that_an_error_of_another_one_cancels_may_wait(backend, wait):
    waits, notes, told = Waits(), [], Told()

    async def child():
        await pymux.sleep(0)
        raise LookupError("of a child")

    async def handler(conn):
        pymux.spawn(child())
        try:
            await conn.recv()
        finally:
            notes.append("cancelled")
            await waits.named[wait]()
            notes.append("cleaned up")

    with util.serving(handler, backend, on_error=told.on_error) as server:
        with util.connect(server.address):
            util.wait_until(lambda: notes)
        util.wait_until(lambda: server.stats().connections == 0)
        util.settle(server)
        assert notes == ["cancelled"]
        util.in_server(server, lambda mux: waits.go_on())
        util.wait_until(lambda: len(notes) == 2)
    assert told.errors == [(True, LookupError, "of a child")]


def test_a_stop_that_is_out_of_time_tells_once(backend, wait):
    waits, begun, notes = Waits(), [], []

    async def handler(conn):
        begun.append(conn)
        try:
            await waits.named[wait]()
        except pymux.ConnectionClosed:
            notes.append("told")
            try:
                await pymux.sleep(0.01)
                notes.append("cleaned up")
            except pymux.ConnectionClosed:
                notes.append("told again")

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: begun)
        server.stop(0.05)
    assert notes == ["told", "cleaned up"]


def test_a_handler_that_has_returned_goes_on_waiting_for_what_it_spawned(backend):
    begun, notes, told = [], [], Told()

    async def child():
        begun.append(True)
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.sleep(0)
            notes.append("cleaned up")

    async def handler(conn):
        pymux.spawn(child())

    with util.serving(handler, backend, on_error=told.on_error) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: begun)
        util.reset(sock)
        util.wait_until(lambda: notes)
        util.settle(server)
        assert not util.in_server(server, inside.keeps_spawned)
    assert told.errors == []


def test_who_gives_up_wakes_nobody_for_an_event_that_was_cleared(backend):
    event, conns, woken = pymux.Event(), [], []

    async def handler(conn):
        conns.append(conn)
        if len(conns) == 2:
            await conn.recv()
            event.set()  # wakes the first one
            event.clear()
            conns[0].close()
        await event.wait()
        woken.append(conn)

    with util.serving(handler, backend) as server, util.connect(server.address) as one:
        util.wait_until(lambda: conns)
        with util.connect(server.address) as two:
            two.sendall(b"go")
            assert util.recv_all(one) == b""
            util.settle(server)
            assert woken == []
            util.in_server(server, lambda mux: event.set())
            assert util.recv_all(two) == b""
    assert woken == conns[1:]
