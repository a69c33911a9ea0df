"""`stop(linger=)`: connections end one by one before the drain."""

import contextlib
import threading

import pytest

import pymux

from . import util
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
            assert server.stats().connections == 1
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
    ):
        with lingering(server):
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
            assert not handler.open[0].stopping
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
    ):
        with lingering(server):
            assert util.recv_exactly(sock, 5) == b"leave"
            server.stop()
            assert util.until_end(sock) == (b"", None)


def test_a_longer_second_stop_changes_nothing(backend):
    with util.serving(upper, backend) as server, util.connect(server.address) as sock:
        with stopping(server, LONG):
            server.stop(LONG, linger=LONG)
            assert util.until_end(sock) == (b"", None)
            sock.close()


def test_turns_are_spread_over_the_time(backend, clock):
    """More than a hundred a second leave no sooner than their share of the time."""
    count, seconds = 300, 3000.0
    handler = util.Ends()
    with util.serving(handler, backend) as server, contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(util.connect(server.address))
        util.wait_until(lambda: len(handler.open) == count)
        # at least 100 a second: three seconds are enough for these
        with lingering(server, linger=seconds):
            util.wait_until(lambda: server.stats().closed == count)
    assert len({conn.id for conn, _ in handler.ended}) == count


def test_turns_come_in_no_fixed_order(backend):
    orders = set()
    for _ in range(2):
        handler = util.Ends()
        with util.serving(handler, backend) as server, contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(util.connect(server.address))
            util.wait_until(lambda: len(handler.open) == 20)
            places = {conn: k for k, conn in enumerate(handler.open)}
            with lingering(server):
                util.wait_until(lambda: len(handler.ended) == 20)
        orders.add(tuple(places[conn] for conn, _ in handler.ended))
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
        await server.stop(LONG, linger=LONG)
        assert await conn.recv() == b"goodbye"
        assert await conn.recv() is None
        conn.close()

    loop.run(main())
