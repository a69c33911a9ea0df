"""Handlers for each endpoint of a server, and for listeners of a mux."""

import contextlib
import errno
import threading

import pytest

import pymux
import pymux.aio

from . import util
from .serving import Notes, answer, harvest_while, reverse, upper
from .util import harvest_until

HERE = ("127.0.0.1", 0)
LINES = pymux.Lines()
PREFIX = pymux.LengthPrefix(2)
needs_guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


# -- a server with several handlers ------------------------------------------------


def test_three_framings_and_three_forms_in_one_server(backend):
    notes = Notes()
    where = [
        pymux.Endpoint(HERE, framing=LINES, handler=upper),
        pymux.Endpoint(HERE, framing=PREFIX, handler=reverse),
        pymux.Endpoint(HERE, framing=pymux.Fixed(4), handler=notes),
    ]
    with pymux.Server(None, where, backend=backend) as server:
        lines, prefix, fixed = server.addresses
        assert answer(lines, b"one", LINES) == b"ONE"
        assert answer(prefix, b"two", PREFIX) == b"owt"
        with pymux.connect(fixed, framing=pymux.Fixed(4), timeout=10) as client:
            client.send(b"four")
            util.wait_until(lambda: notes.got)
    assert [data for _, data in notes.got] == [b"four"]
    assert notes.errors() == [None]


def test_an_endpoint_without_a_handler_has_the_calls():
    where = [HERE, pymux.Endpoint(HERE, handler=reverse)]
    with pymux.Server(upper, where) as server:
        assert [answer(end, b"ab") for end in server.addresses] == [b"AB", b"ba"]


@pytest.mark.parametrize("where", [HERE, [HERE, pymux.Endpoint(HERE, handler=upper)]])
def test_no_handler_at_all_is_a_type_error(where):
    with pytest.raises(TypeError, match="the handler is None"):
        pymux.Server(None, where)


def test_a_handler_of_an_endpoint_is_checked_when_the_server_is_made():
    with pytest.raises(TypeError, match=r"give an object of it: Notes\(\)"):
        pymux.Server(upper, pymux.Endpoint(HERE, handler=Notes))


def test_two_ports_with_one_handler_share_batches():
    gate = threading.Event()
    batches = []

    @pymux.batched
    def handler(batch):
        gate.wait(10)
        batches.append(len({conn.local for conn in batch.conns}))

    where = [HERE, HERE, pymux.Endpoint(HERE, handler=handler)]
    with pymux.Server(handler, where) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(util.connect(end)) for end in server.addresses]
        peers[0].sendall(b"first")
        util.wait_until(lambda: server.stats().messages_in)
        for peer in peers:
            peer.sendall(b"second")
        gate.set()
        util.wait_until(lambda: server.stats().bytes_in == 5 + 3 * 6)
        util.wait_until(lambda: batches[-1:] == [3] or sum(batches) >= 4)
    assert max(batches) == 3


def test_a_flood_on_one_endpoint_does_not_keep_another_waiting():
    done = threading.Event()
    where = [
        pymux.Endpoint(HERE, handler=lambda conn, data: data),
        pymux.Endpoint(HERE, handler=upper, framing=LINES),
    ]
    with pymux.Server(None, where) as server:
        flooded, calm = server.addresses

        def flood():
            with util.connect(flooded) as peer:
                peer.settimeout(10)
                while not done.is_set():
                    peer.sendall(bytes(65536))
                    util.recv_exactly(peer, 65536)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            util.wait_until(lambda: server.stats().bytes_in > 1 << 20)
            for _ in range(20):
                assert answer(calm, b"ping", LINES) == b"PING"
        finally:
            done.set()
            thread.join()


def test_a_stop_tells_the_handlers_of_all_endpoints():
    one, other = Notes(), Notes()
    where = [pymux.Endpoint(HERE, handler=one), pymux.Endpoint(HERE, handler=other)]
    with pymux.Server(None, where) as server, contextlib.ExitStack() as stack:
        for end in server.addresses:
            stack.enter_context(util.connect(end)).sendall(b"x")
        util.wait_until(lambda: one.got and other.got)
        server.stop()
    assert one.errors() == other.errors() == [None]
    assert len(one.got) == len(other.got) == 1


def test_a_handler_that_closes_the_mux_ends_the_connections_of_each_handler_once():
    class Closing(Notes):
        def received(self, conn, data):
            conn.mux.close()

    one, other = Notes(), Closing()
    where = [pymux.Endpoint(HERE, handler=one), pymux.Endpoint(HERE, handler=other)]
    with pymux.Server(None, where) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(util.connect(end)) for end in server.addresses]
        util.wait_until(lambda: one.opened_ones and other.opened_ones)
        peers[1].sendall(b"x")
        server.wait()
    for notes in one, other:
        assert [conn for conn, _ in notes.ends] == notes.opened_ones
        assert notes.errors() == [errno.ECONNABORTED]


def test_an_error_of_any_handler_goes_to_on_error():
    def broken(conn, data):
        raise ValueError(data)

    told = []
    where = [HERE, pymux.Endpoint(HERE, handler=broken)]
    with pymux.Server(
        upper, where, on_error=lambda conn, error: told.append(error)
    ) as server:
        with util.connect(server.addresses[1]) as peer:
            peer.sendall(b"x")
            assert util.recv_all(peer) == b""
        assert answer(server.address, b"still") == b"STILL"
    assert [str(error) for error in told] == ["b'x'"]


@needs_guests
def test_an_asyncio_server_has_a_handler_for_each_endpoint(loop):
    async def main():
        where = [HERE, pymux.Endpoint(HERE, handler=reverse)]
        async with pymux.aio.serve(upper, where) as server:
            answers = []
            for end in server.addresses:
                async with await pymux.aio.connect(end) as conn:
                    conn.send(b"ab")
                    answers.append(await conn.recv())
        return answers

    assert loop.run(main()) == [b"AB", b"ba"]


# -- a mux with handlers -----------------------------------------------------------


def test_a_handler_of_a_mux_gets_its_connections(mux):
    notes = Notes()
    listener = mux.listen(HERE, handler=notes)
    with util.connect(listener.address) as peer:
        peer.sendall(b"hello")
        harvest_while(mux, lambda: not notes.got)
    acc = harvest_until(mux, lambda acc: notes.ends)
    assert [data for _, data in notes.got] == [b"hello"]
    assert notes.errors() == [None]
    assert not acc.opened
    assert not acc.messages
    assert not acc.closed


def test_the_caller_of_harvest_gets_the_rest(mux):
    notes = Notes()
    handled, plain = mux.listen([pymux.Endpoint(HERE, handler=notes), HERE])
    with util.connect(handled.address) as one, util.connect(plain.address) as other:
        one.sendall(b"handled")
        other.sendall(b"plain")
        acc = harvest_until(mux, lambda acc: acc.messages and notes.got)
    assert [data for _, data in acc.messages] == [b"plain"]
    assert [data for _, data in notes.got] == [b"handled"]


def test_a_harvest_that_a_handler_has_had_returns_an_empty_batch(mux):
    listener = mux.listen(HERE, handler=upper)
    with util.connect(listener.address) as peer:
        peer.sendall(b"x" * 100)
        peer.settimeout(0.001)
        while True:
            batch = mux.harvest(0.01)
            assert not batch
            assert (len(batch), batch.messages, bytes(batch.data)) == (0, [], b"")
            assert batch.offsets.tolist() == [0]
            with contextlib.suppress(TimeoutError):
                if peer.recv(100):
                    break


def test_a_coroutine_serves_on_a_mux(mux):
    async def handler(conn):
        with pytest.raises(TimeoutError):
            await conn.recv(timeout=0.01)
        conn.send(b"late")
        async for data in conn:
            await pymux.sleep(0)
            conn.send(data[::-1])

    listener = mux.listen(HERE, handler=handler)
    with util.connect(listener.address) as peer:
        got = []

        def peek():
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                got.append(peer.recv(100))
            return b"".join(got)

        harvest_while(mux, lambda: peek() != b"late")
        peer.sendall(b"abc")
        harvest_while(mux, lambda: peek() != b"latecba")


def test_a_mux_that_closes_tells_its_handlers(backend):
    notes = Notes()
    begun, cleaned = [], []

    async def handler(conn):
        begun.append(conn)
        try:
            await conn.recv()
        finally:
            cleaned.append(conn)

    with pymux.Mux(backend) as mux, contextlib.ExitStack() as stack:
        for one in notes, handler:
            listener = mux.listen(HERE, handler=one)
            stack.enter_context(util.connect(listener.address))
        harvest_while(mux, lambda: not (begun and notes.opened_ones))
    assert notes.errors() == [errno.ECONNABORTED]
    assert len(cleaned) == 1


def test_a_handler_may_not_harvest(mux):
    raised = []

    def handler(conn, data):
        try:
            mux.harvest(0)
        except RuntimeError as error:
            raised.append(str(error))

    listener = mux.listen(HERE, handler=handler)
    with util.connect(listener.address) as peer:
        peer.sendall(b"x")
        harvest_while(mux, lambda: not raised)
    assert "handler or timer" in raised[0]


def test_half_open_beside_a_handler_is_a_value_error(mux):
    for call in mux.listen, mux.connect:
        with pytest.raises(ValueError, match="half_open"):
            call(("127.0.0.1", 1), handler=upper, half_open=True)


def test_a_class_is_no_handler_of_a_mux(mux):
    for call in mux.listen, mux.connect:
        with pytest.raises(TypeError, match="give an object of it"):
            call(("127.0.0.1", 1), handler=Notes)
