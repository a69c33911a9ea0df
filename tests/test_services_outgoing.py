"""Handlers for outgoing connections."""

import asyncio
import errno
import gc
import threading
import weakref

import pytest

import pymux
import pymux.aio

from . import util
from .loops import until
from .serving import Notes, answer, harvest_while, upper

HERE = ("127.0.0.1", 0)
needs_guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def test_a_handler_gets_an_outgoing_connection(mux):
    notes = Notes()
    with pymux.Server(upper, HERE) as server:
        conn = mux.connect(pymux.Endpoint(server.address, handler=notes))
        conn.send(b"hello")
        harvest_while(mux, lambda: not notes.got)
        conn.close()
        harvest_while(mux, lambda: not notes.ends)
    assert notes.opened_ones == [conn]
    assert notes.got == [(conn, b"HELLO")]


def test_a_proxy_of_two_objects():
    class Back:
        def received(self, conn, data):
            conn.state.send(data)

        def closed(self, conn, error):
            conn.state.close()

    back = Back()

    class Front:
        def opened(self, conn):
            conn.state = conn.mux.connect(backend.address, handler=back)
            conn.state.state = conn

        def received(self, conn, data):
            conn.state.send(data)

        def closed(self, conn, error):
            conn.state.close()

    with pymux.Server(upper, HERE) as backend, pymux.Server(Front(), HERE) as front:
        assert [answer(front.address, b"a%d" % k) for k in range(5)] == [
            b"A%d" % k for k in range(5)
        ]
        assert front.stats().connected == 5


def test_an_object_handlers_own_connections_join_it():
    class Both(Notes):
        def opened(self, conn):
            super().opened(conn)
            if conn.local == server.address:
                self.upstream = conn.mux.connect(backend.address)
                self.upstream.send(b"hello")

    both = Both()
    with (
        pymux.Server(upper, HERE) as backend,
        pymux.Server(both, HERE) as server,
        util.connect(server.address),
    ):
        util.wait_until(lambda: both.got)
    assert both.got == [(both.upstream, b"HELLO")]
    assert both.upstream in both.opened_ones


def test_the_connections_of_an_endpoints_handler_join_that_handler():
    class Second(Notes):
        def received(self, conn, data):
            super().received(conn, data)
            if conn.local == server.addresses[1]:
                conn.mux.connect(backend.address).send(data)

    first, second = Notes(), Second()
    where = [HERE, pymux.Endpoint(HERE, handler=second)]
    with (
        pymux.Server(upper, HERE) as backend,
        pymux.Server(first, where) as server,
        util.connect(server.addresses[1]) as peer,
    ):
        peer.sendall(b"hello")
        util.wait_until(lambda: len(second.got) == 2)
    assert [data for _, data in second.got] == [b"hello", b"HELLO"]
    assert first.opened_ones == []


def connecting(conn, raised, address):
    try:
        conn.mux.connect(address)
    except RuntimeError as error:
        raised.append(str(error))


@pytest.mark.parametrize("form", ["function", "coroutine", "asleep", "timer"])
def test_no_handler_that_could_not_tell_gets_an_outgoing_connection(form, refusing):
    raised = []

    def function(conn, data):
        connecting(conn, raised, refusing)

    async def coroutine(conn):
        connecting(conn, raised, refusing)

    async def asleep(conn):
        await pymux.sleep(0.001)
        connecting(conn, raised, refusing)

    def timer(conn, data):
        conn.mux.call_later(0, connecting, conn, raised, refusing)

    handler = {f.__name__: f for f in (function, coroutine, asleep, timer)}[form]
    with pymux.Server(handler, HERE) as server:
        with util.connect(server.address) as peer:
            peer.sendall(b"x")
            util.wait_until(lambda: raised)
        assert server.stats().connections <= 1
    assert "handler=" in raised[0]
    assert "pymux.dial()" in raised[0]


@needs_guests
@pytest.mark.parametrize("own", [True, False])
def test_no_asyncio_task_makes_connections_for_its_server(loop, refusing, own):
    async def main():
        raised = []

        async def handler(conn):
            connecting(conn, raised, refusing)

        async with (
            pymux.aio.serve(handler, HERE) as server,
            await pymux.aio.connect(server.address) as conn,
        ):
            if not own:
                connecting(conn, raised, refusing)
                with pytest.raises(RuntimeError, match="asyncio tasks only"):
                    conn.mux.connect(refusing, handler=upper)
            else:
                await conn.recv()
        return raised

    (text, *_) = loop.run(main())
    assert "pymux.aio.connect()" in text


def failing(form, told):
    """(handler, on_error) of which one notes the error of a failed connect."""
    if form == "object":
        notes = Notes()
        notes.ends = told
        return notes, None

    def function(conn, data):
        """Never called."""

    async def coroutine(conn):
        """Never called."""

    @pymux.batched
    def batch(batch):
        """Never called."""

    class Bare:
        def received(self, conn, data):
            """Never called."""

    forms = {"function": function, "coroutine": coroutine, "batch": batch}
    return forms.get(form, Bare()), lambda conn, error: told.append((conn, error))


@pytest.mark.parametrize("form", ["function", "coroutine", "batch", "object", "bare"])
def test_a_failed_connect_is_told(form, refusing):
    told = []
    handler, on_error = failing(form, told)
    made = []
    with pymux.Server(upper, HERE, on_error=on_error) as server:
        server.call_threadsafe(
            lambda mux: made.append(mux.connect(refusing, handler=handler))
        )
        util.wait_until(lambda: told)
    ((conn, error),) = told
    assert conn is made[0]
    assert error.errno == errno.ECONNREFUSED


def test_a_failed_connect_without_anybody_to_tell_is_a_warning(mux, refusing, logged):
    mux.connect(refusing, handler=upper)
    harvest_while(mux, lambda: not logged)
    (record,) = logged
    assert record.levelname == "WARNING"
    assert "could not connect" in record.getMessage()
    logged.clear()


def test_an_answer_of_upstream_arrives_during_a_stop():
    asked, free = threading.Event(), threading.Event()

    def slow(conn, data):
        asked.set()
        free.wait(10)
        return data.upper()

    class Back:
        def received(self, conn, data):
            conn.state.send(data)
            conn.state.close()

    class Front:
        def received(self, conn, data):
            upstream = conn.mux.connect(backend.address, handler=back)
            upstream.state = conn
            upstream.send(data)

    back = Back()
    with pymux.Server(slow, HERE) as backend, pymux.Server(Front(), HERE) as front:
        with util.connect(front.address) as peer:
            peer.sendall(b"hello")
            assert asked.wait(10)
            stopper = threading.Thread(target=front.stop)
            stopper.start()
            free.set()
            got = util.recv_all(peer)
        stopper.join()
    assert got in (b"HELLO", b"")


def test_a_handler_of_its_own_for_each_connection_does_not_pile_up(mux):
    class Once:
        def received(self, conn, data):
            conn.close()

        def closed(self, conn, error):
            ends.append(error)

    ends, alive = [], weakref.WeakSet()
    with pymux.Server(upper, HERE) as server:
        for k in range(50):
            handler = Once()
            alive.add(handler)
            mux.connect(server.address, handler=handler).send(b"x")
            del handler
            harvest_while(mux, lambda k=k: len(ends) == k)
    gc.collect()
    assert ends == [None] * 50
    assert len(alive) <= 3


def test_a_handler_keeps_the_connections_left_when_others_end_in_one_batch(mux):
    first, second = Notes(), Notes()
    with pymux.Server(upper, HERE) as server:
        conns = [mux.connect(server.address, handler=first) for _ in range(4)]
        harvest_while(mux, lambda: len(first.opened_ones) < 4)
        for conn in conns[:2]:
            conn.abort()
        harvest_while(mux, lambda: len(first.ends) < 2)
        mux.connect(server.address, handler=second)
        conns[3].send(b"hello")
        harvest_while(mux, lambda: not first.got and not second.got)
    assert first.got == [(conns[3], b"HELLO")]


def test_a_handler_whose_connections_have_all_ended_can_be_given_again(mux):
    notes, others = Notes(), Notes()
    with pymux.Server(upper, HERE) as server:
        for handler in notes, others, notes:
            count = len(handler.ends)
            conn = mux.connect(server.address, handler=handler)
            conn.send(b"x")
            harvest_while(mux, lambda h=handler, c=conn: (c, b"X") not in h.got)
            conn.close()
            harvest_while(mux, lambda h=handler, n=count: len(h.ends) == n)
    assert (len(notes.got), len(others.got)) == (2, 1)


@needs_guests
def test_a_task_of_an_outgoing_connection_does_not_hold_up_a_stop(loop):
    """As on the mux: the connection is closed when no accepted one needs it."""
    begun, ends = [], []

    async def listens(conn):
        begun.append(conn)
        conn.send(b"hello")
        try:
            async for _ in conn:
                pass
        finally:
            ends.append(conn)

    class Front:
        def opened(self, conn):
            conn.mux.connect(behind.address, handler=listens)

        def received(self, conn, data):
            return data

    async def main():
        async with pymux.aio.serve(Front(), HERE, drain_timeout=600) as server:
            got = await asyncio.to_thread(util.exchange, server.address, b"a", 1)
            assert got == b"a"
            await until(lambda: begun)
            await asyncio.wait_for(server.stop(), 20)

    with pymux.Server(upper, HERE) as behind:
        loop.run(main())
    assert len(ends) == 1
