"""`stop(linger=)`: connections end one by one before the drain."""

import asyncio
import contextlib
import threading

import pytest

import pymux

from . import inside, util
from .clock import settle
from .serving import upper
from .stops import stopping
from .util import FORMS, Boom, in_form

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
LONG = 600.0  # seconds; no test waits for so long


@contextlib.contextmanager
def lingering(server, linger=LONG, drain_timeout=LONG):
    """During the block a thread is in `server.stop`, and the server has retired. At
    the end of the block the thread has to return."""
    thread = threading.Thread(
        target=server.stop,
        args=[drain_timeout],
        kwargs={"linger": linger},
        daemon=True,
    )
    thread.start()
    util.wait_until(lambda: not server.stats().listeners)
    yield
    thread.join(10)
    assert not thread.is_alive(), "stop() does not return"


@pytest.mark.parametrize("form", FORMS)
def test_quiet_connections_end_one_by_one(backend, place, form):
    with (
        util.serving(in_form(form, bytes.upper), backend, place) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(5)]
        for sock in socks:
            sock.sendall(b"one")
            assert util.recv_exactly(sock, 3) == b"ONE"
        with lingering(server):
            for sock in socks:
                assert util.until_end(sock) == (b"", None)
                sock.close()
    assert server.stats().reset == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_message_that_has_begun_is_answered_first(backend, place, form):
    with (
        util.serving(
            in_form(form, bytes.upper), backend, place, framing=LINES
        ) as server,
        util.connect(server.address) as sock,
        util.connect(server.address) as quiet,
    ):
        sock.sendall(b"on")
        util.settle(server)
        with lingering(server):
            assert util.until_end(quiet) == (b"", None)  # the turns go round
            settle(server)
            sock.sendall(b"e\n")
            assert util.until_end(sock) == (b"ONE\n", None)
            sock.close()


def test_a_server_without_connections_ends_at_once(backend):
    with util.serving(upper, backend) as server:
        server.stop(linger=LONG)


def test_output_that_is_not_sent_is_sent_first(backend, place):
    size = 20_000_000
    with (
        util.serving(lambda conn, data: bytes(size), backend, place) as server,
        util.connect_narrow(server.address) as slow,
        util.connect(server.address) as quiet,
    ):
        slow.sendall(b"much")
        util.wait_until(lambda: server.stats().queued)
        with lingering(server):
            assert util.until_end(quiet) == (b"", None)
            quiet.close()
            util.wait_until(lambda: server.stats().connections == 1)
            assert util.until_end(slow) == (bytes(size), None)
            slow.close()


def test_an_object_says_goodbye_and_closes(backend, place):
    class Polite(util.Ends):
        def draining(self, conn):
            conn.send(b"goodbye")
            conn.close()

    handler = Polite()
    with (
        util.serving(handler, backend, place) as server,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(util.connect(server.address)) for _ in range(3)]
        util.wait_until(lambda: len(handler.open) == 3)
        with lingering(server):
            for sock in socks:
                assert util.until_end(sock) == (b"goodbye", None)
                sock.close()
    assert handler.errors() == [None] * 3


def test_draining_comes_once_and_after_opened(backend):
    told = []

    class Notes:
        def opened(self, conn):
            told.append(("opened", conn))

        def draining(self, conn):
            told.append(("draining", conn))

    with util.serving(Notes(), backend) as server, contextlib.ExitStack() as stack:
        with util.held(server, lambda: server.stop(0, linger=LONG)):
            for _ in range(3):
                stack.enter_context(util.connect(server.address))
        util.wait_until(lambda: len(told) == 6)
        settle(server)
        server.stop(0)
    assert len(told) == 6
    conns = {conn for _, conn in told}
    for conn in conns:
        assert [what for what, one in told if one is conn] == ["opened", "draining"]


def test_a_handler_that_answers_its_goodbye_is_served_on(backend):
    class Polite:
        def received(self, conn, data):
            if data == b"bye":
                conn.close()
            return data

        def draining(self, conn):
            conn.send(b"leave")

    with (
        util.serving(Polite(), backend, framing=LINES) as server,
        util.connect(server.address) as sock,
        lingering(server),
    ):
        assert util.recv_exactly(sock, 6) == b"leave\n"
        sock.sendall(b"one more\nbye\n")
        assert util.until_end(sock) == (b"one more\nbye\n", None)
        sock.close()


def test_draining_that_raises_ends_its_connection_alone(backend):
    errors = []

    class Fails(util.Ends):
        def draining(self, conn):
            if len(errors) == 0:
                raise Boom
            conn.close()

    handler = Fails()
    with (
        util.serving(
            handler, backend, on_error=lambda conn, error: errors.append(error)
        ) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
    ):
        util.wait_until(lambda: len(handler.open) == 2)
        with lingering(server):
            for sock in one, two:
                assert util.until_end(sock)[0] == b""
                sock.close()
    assert [type(error) for error in errors] == [Boom]
    causes = [error and type(error.__cause__) for _, error in handler.ended]
    assert sorted(causes, key=str) == [Boom, None] or set(causes) == {Boom, None}


def test_those_that_stay_are_drained_when_the_time_is_over(backend, clock):
    class Stays(util.Ends):
        def draining(self, conn):
            conn.send(b"leave")

    handler = Stays()
    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: handler.open)
        with lingering(server, linger=60.0):
            assert util.recv_exactly(sock, 5) == b"leave"
            clock.advance(59, server)
            assert not util.in_server(server, lambda mux: handler.open[0].stopping)
            clock.advance(2, server)
            assert util.until_end(sock) == (b"", None)
            sock.close()


def test_a_second_stop_ends_the_lingering(backend):
    class Stays(util.Ends):
        def draining(self, conn):
            conn.send(b"leave")

    with (
        util.serving(Stays(), backend) as server,
        util.connect(server.address) as sock,
        lingering(server),
    ):
        assert util.recv_exactly(sock, 5) == b"leave"
        server.stop()
        assert util.until_end(sock) == (b"", None)


def test_a_longer_second_stop_changes_nothing(backend):
    with (
        util.serving(upper, backend) as server,
        util.connect(server.address) as sock,
        stopping(server, LONG),
    ):
        server.stop(LONG, linger=LONG)
        assert util.until_end(sock) == (b"", None)


class Many:
    """Stands for an engine with connections, and for its handlers."""

    c = counts = None

    def __init__(self, count):
        self.c = self.counts = self
        self.listeners = self.outgoing = 0
        self.connections = count
        self.count = count
        self.left = []  # the ids of those that had their turn, in order

    def retire(self):
        pass

    def accepted(self):
        return list(range(self.count))

    def not_open(self, ids):
        return []

    def take_leave(self, ids):
        return [], ids

    def end_inputs(self, ids, when):
        self.left += ids
        return []

    def call_later(self, delay, fn):
        pass


@pytest.mark.parametrize(
    ("count", "seconds", "after", "left"),
    [
        (3000, 10.0, 1.0, 301),
        (3000, 10.0, 5.0, 1501),
        (3000, 10.0, 9.99, 2998),
        (50, 10.0, 0.2, 21),  # at least 100 a second
        (50, 10.0, 1.0, 50),
    ],
)
def test_turns_are_spread_evenly(count, seconds, after, left):
    many = Many(count)
    with inside.stopped_clock() as time:
        lots = inside.Linger(many, many)
        assert lots.step(time.now + seconds)
        assert len(many.left) == 1
        begun = time.now
        while time.now < begun + after:
            time.now = min(time.now + 0.05, begun + after)
            assert lots.step(begun + seconds)
        assert abs(len(many.left) - left) <= 1
        assert len(set(many.left)) == len(many.left)


def order_of_ends(backend, count):
    """In which order connections end that opened in the order 0, 1, 2, ..."""
    handler = util.Ends()
    with util.serving(handler, backend) as server, contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(util.connect(server.address))
        util.wait_until(lambda: len(handler.open) == count)
        with lingering(server):
            util.wait_until(lambda: len(handler.ended) == count)
    places = {conn: k for k, conn in enumerate(handler.open)}
    return tuple(places[conn] for conn, _ in handler.ended)


def test_turns_come_in_no_fixed_order(backend):
    orders = {order_of_ends(backend, 20), order_of_ends(backend, 20)}
    assert len(orders | {tuple(range(20))}) == 3


@pytest.mark.parametrize("linger", [None, "soon", True])
def test_a_linger_that_is_no_number_is_refused(linger):
    server = pymux.Server(upper, LOCAL)
    with pytest.raises(TypeError, match="linger"):
        server.stop(linger=linger)


def test_a_negative_linger_is_refused():
    server = pymux.Server(upper, LOCAL)
    with pytest.raises(ValueError, match="linger is -1"):
        server.stop(linger=-1)
    with pytest.raises(ValueError, match="linger is -1"):
        pymux.serve(upper, LOCAL, linger=-1)


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
@pytest.mark.parametrize("form", FORMS)
def test_an_asyncio_server_lingers(loop, form):
    async def main():
        server = await pymux.aio.serve(in_form(form, bytes.upper), LOCAL)
        conns = [await pymux.aio.connect(server.address) for _ in range(5)]
        for conn in conns:
            conn.send(b"one")
            assert await conn.recv() == b"ONE"
        await server.stop(LONG, linger=LONG)
        assert server.stats().reset == 0
        for conn in conns:
            assert await conn.recv() is None
            conn.close()

    loop.run(main())


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_an_object_says_goodbye_in_asyncio(loop):
    class Polite:
        def opened(self, conn):
            conn.send(b"welcome")

        def draining(self, conn):
            conn.send(b"goodbye")
            conn.close()

    async def main():
        server = await pymux.aio.serve(Polite(), LOCAL, framing=LINES)
        conn = await pymux.aio.connect(server.address, framing=LINES)
        assert await conn.recv() == b"welcome"
        ends = asyncio.create_task(server.stop(LONG, linger=LONG))
        assert await conn.recv() == b"goodbye"
        assert await conn.recv() is None
        conn.close()
        await ends

    loop.run(main())
