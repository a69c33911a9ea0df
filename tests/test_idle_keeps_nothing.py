"""A server that is idle keeps nothing of the connections that have ended."""

import contextlib
import gc
import sys
import time
import weakref

import pytest

import pymux

from . import inside, util
from .util import FORMS, connect, exchange, harvest_until, in_form, pair, wait_until

LINES = pymux.Lines()

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="references are not counted here",
)


class Record:
    """What a program keeps of a client, in `state`."""


@contextlib.contextmanager
def without_collector():
    util.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def remember(server, records):
    """Give each open connection a state of its own; into `records`, weakly."""

    def mark(mux):
        for conn in inside.connections(mux):
            if conn.state is None:
                conn.state = Record()
                records.append(weakref.ref(conn.state))

    util.in_server(server, mark)


def let_go(records):
    wait_until(lambda: not any(record() for record in records))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["eof", "reset"])
def test_an_idle_server_keeps_no_connection_that_has_ended(backend, form, end):
    records = []
    with util.serving(in_form(form, bytes.upper), backend, framing=LINES) as server:
        assert exchange(server.address, b"warm\n", 5) == b"WARM\n"
        with without_collector():
            sock = connect(server.address)
            sock.sendall(b"one\ntwo\n")
            util.recv_exactly(sock, 8)
            remember(server, records)
            assert len(records) == 1
            if end == "reset":
                util.reset(sock)
            sock.close()
            let_go(records)


def test_an_object_that_wants_no_ends_keeps_none(backend):
    class Opener:
        def opened(self, conn):
            conn.state = Record()
            records.append(weakref.ref(conn.state))

    records = []
    with util.serving(Opener(), backend) as server, without_collector():
        connect(server.address).close()
        wait_until(lambda: records)
        let_go(records)


def test_what_a_handler_raised_keeps_nothing_of_its_connection(backend):
    def handler(conn, data):
        conn.state = Record()
        records.append(weakref.ref(conn.state))
        raise ValueError("once")

    def on_error(conn, error):
        error.__traceback__ = None  # its frames know the connection

    records = []
    serving = util.serving(handler, backend, on_error=on_error)
    with serving as server, without_collector():
        assert util.everything(server.address, b"x") == b""
        let_go(records)


def test_a_batch_of_messages_is_let_go_when_its_handler_has_returned(backend):
    @pymux.batched
    def handler(batch):
        record = Record()
        batch.conns[0].state = record
        records.append(weakref.ref(record))
        batch.conns[0].state = None
        batch.messages.append(record)  # only the batch knows of it
        del record

    records = []
    serving = util.serving(handler, backend)
    with serving as server, connect(server.address) as sock, without_collector():
        sock.sendall(b"x")
        wait_until(lambda: records)
        let_go(records)  # while the connection is open, and silent


def test_a_batch_of_harvest_is_valid_until_the_next_though_nobody_keeps_another(mux):
    conn, peer = pair(mux, LINES)
    with peer:
        peer.sendall(b"one\n")
        acc = harvest_until(mux, lambda acc: acc.messages)
        peer.sendall(b"two\n")
        while not (batch := mux.harvest(5)).messages:
            pass
        assert bytes(batch.data) == b"two"
        assert [conn for conn, _ in batch] == [conn]
        batch.reply([b"2"])
        mux.harvest(0)
        assert peer.recv(100) == b"2\n"
        with pytest.raises(ValueError, match="over"):
            batch.ids  # noqa: B018 (reading it raises)
        assert acc.messages


# --- what has ended leaves nothing for the collector --------------------------


def left_to_the_collector(act):
    """The kinds of pymux's objects that are in cycles once act() has returned."""
    act()
    util.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        act()
        util.collect()
        return {
            type(one).__name__
            for one in gc.garbage
            if type(one).__module__.startswith("pymux.")
        }
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def fails_in_a_thread(conn):
    def fail():
        raise ValueError

    data = await conn.recv()
    with contextlib.suppress(ValueError):
        await pymux.to_thread(fail)
    conn.send(data.upper())


async def leaves_a_generator(conn):
    async def numbers():
        try:
            yield 1
        finally:
            await pymux.sleep(0)

    data = await conn.recv(20)
    async for _ in numbers():
        break
    conn.send(data.upper())


async def times_out(conn):
    data = await conn.recv()
    with contextlib.suppress(TimeoutError):
        async with pymux.timeout(0.001) as block:
            await pymux.Queue().get()
    with contextlib.suppress(TimeoutError):
        await pymux.to_thread(time.sleep, 0.01, timeout=0.001)
    assert block.expired()
    conn.send(data.upper())


async def spawns_others(conn):
    async def takes():
        async for item in items:
            if item == "last":
                items.close()

    items = pymux.Queue()
    spawned = [pymux.spawn(takes()) for _ in range(3)]
    data = await conn.recv()
    await items.put("first")
    spawned[0].cancel()
    await items.put("last")
    conn.send(data.upper())


async def spawns_what_raises(conn):
    async def fails():
        raise pymux.ConnectionClosed(connection=conn)

    conn.send((await conn.recv()).upper())
    pymux.spawn(fails())
    await pymux.Event().wait()


HANDLERS = [
    *FORMS,
    fails_in_a_thread,
    leaves_a_generator,
    times_out,
    spawns_others,
    spawns_what_raises,
]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_server_that_has_ended_is_in_no_cycle(handler):
    def act():
        form = handler if callable(handler) else in_form(handler, bytes.upper)
        with util.serving(form, framing=LINES) as server:
            assert exchange(server.address, b"a\n", 2) == b"A\n"

    assert left_to_the_collector(act) == set()


def test_a_client_that_was_refused_is_in_no_cycle():
    def act():
        with pytest.raises(ConnectionRefusedError):
            pymux.connect(("127.0.0.1", port))

    port = util.free_port()
    assert left_to_the_collector(act) == set()


def test_a_mux_that_has_closed_is_in_no_cycle():
    def act():
        with pymux.Mux() as mux:
            mux.connect(mux.listen(("127.0.0.1", 0)).address)
            mux.call_later(3600, int)
            mux.harvest(0)

    assert left_to_the_collector(act) == set()
