"""Groups over a broker, in servers: their start and stop, asyncio, TLS, several rooms.

The broker is a small one of the tests, in a thread, which passes on what is published.
"""

import select

import pytest

import pymux
import pymux.aio

from . import util
from .little import Little
from .loops import until
from .test_groups import handler_in, member

HERE = ("127.0.0.1", 0)
LINES = pymux.Lines()
needs_guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


@pytest.fixture
def broker():
    with Little() as broker:
        yield broker


class Chat:
    """Members hear each other, and who comes and goes."""

    def __init__(self, room):
        self.room = room

    def opened(self, conn):
        self.room.add(conn)

    def received(self, conn, data):
        self.room.send(data)

    def closed(self, conn, error):
        self.room.send(b"somebody has left")


def rooms(broker, count=2, name="lobby", **options):
    """Groups of one name, as for several workers."""
    return [pymux.Group(name, broker.backplane, **options) for _ in range(count)]


def test_members_of_two_servers_hear_each_other(broker, backend):
    one, two = rooms(broker)
    with (
        util.serving(Chat(one), backend, framing=LINES) as near,
        util.serving(Chat(two), backend, framing=LINES) as far,
        pymux.connect(near.address, framing=LINES, timeout=10) as ann,
        pymux.connect(far.address, framing=LINES, timeout=10) as bob,
    ):
        util.wait_until(lambda: one.connected and two.connected)
        for k in range(500):
            ann.send(b"%d" % k)
        said = [b"%d" % k for k in range(500)]
        assert [ann.recv() for _ in said] == said
        assert [bob.recv() for _ in said] == said
        bob.send(b"back")
        assert (ann.recv(), bob.recv()) == (b"back", b"back")


@pytest.mark.parametrize("form", util.FORMS)
def test_a_server_of_each_form_may_have_a_backplane(broker, form, backend):
    one, two = rooms(broker)
    with (
        util.serving(handler_in(form, one), backend, framing=LINES) as near,
        util.serving(handler_in("function", two), backend, framing=LINES) as far,
        member(near.address) as ann,
        member(far.address) as bob,
    ):
        util.wait_until(lambda: one.connected and two.connected)
        ann.sendall(b"hello\n")
        assert util.recv_exactly(bob, 6) == b"hello\n"
        bob.sendall(b"there\n")
        assert util.recv_exactly(ann, 12) == b"hello\nthere\n"


def test_what_closed_sends_while_the_server_stops_reaches_the_others(broker, backend):
    one, two = rooms(broker)
    with (
        util.serving(Chat(two), backend, framing=LINES) as far,
        pymux.connect(far.address, framing=LINES, timeout=10) as bob,
    ):
        with (
            util.serving(Chat(one), backend, framing=LINES) as near,
            pymux.connect(near.address, framing=LINES) as ann,
        ):
            util.wait_until(lambda: one.connected and two.connected)
            near.stop()
            assert ann.recv() is None
        assert bob.recv() == b"somebody has left"
        assert near.stats().reset == 0


def test_a_server_whose_broker_is_away_stops_in_time(broker, backend, logged):
    broker.close()
    (room,) = rooms(broker, 1)
    with (
        util.serving(Chat(room), backend, framing=LINES) as server,
        pymux.connect(server.address, framing=LINES, timeout=10) as ann,
    ):
        ann.send(b"hello")
        assert ann.recv() == b"hello"
        server.stop(1)
        assert server.stats().connections == 0
    assert room.dropped == 2
    assert {one.event for one in logged} == {"broker"}
    assert any("are lost, since the mux closes" in one.getMessage() for one in logged)


@needs_guests
@pytest.mark.parametrize("form", util.FORMS)
def test_a_server_in_an_asyncio_loop_has_a_backplane(broker, form, loop):
    one, two = rooms(broker)

    async def main():
        near = pymux.aio.serve(handler_in(form, one), HERE, framing=LINES)
        far = pymux.aio.serve(handler_in(form, two), HERE, framing=LINES)
        async with near, far:
            ann = await pymux.aio.connect(near.address, framing=LINES)
            bob = await pymux.aio.connect(far.address, framing=LINES)
            async with ann, bob:
                for sock in ann, bob:
                    sock.send(b"join")
                    assert await sock.recv() == b"joined"
                await until(lambda: one.connected and two.connected)
                ann.send(b"hello")
                assert [await ann.recv(), await bob.recv()] == [b"hello", b"hello"]
                two.send(b"from a task")
                assert await ann.recv() == b"from a task"

    loop.run(main())


@needs_guests
def test_connections_of_an_asyncio_task_have_no_backplane(broker, loop):
    (room,) = rooms(broker, 1)

    async def main():
        server = await pymux.aio.serve(lambda conn, data: data, HERE)
        async with server, await pymux.aio.connect(server.address) as conn:
            with pytest.raises(RuntimeError, match="asyncio tasks only"):
                room.add(conn)
            assert len(room) == 0

    loop.run(main())


def test_a_group_of_a_mux_of_ones_own_has_a_backplane(broker, mux):
    room, other = rooms(broker)
    conn, peer = util.pair(mux, LINES)
    with peer, util.serving(Chat(other), framing=LINES) as server:
        room.add(conn)
        util.harvest_until(mux, lambda acc: room.connected)
        with pymux.connect(server.address, framing=LINES, timeout=10) as ann:
            util.wait_until(lambda: other.connected)
            ann.send(b"hello")
            assert ann.recv() == b"hello"
            util.harvest_until(mux, lambda acc: peer_has(peer))
            assert util.recv_exactly(peer, 6) == b"hello\n"


def peer_has(peer):
    """Whether something has come to a socket."""
    return bool(select.select([peer], [], [], 0)[0])


def test_many_rooms_share_one_connection(broker, backend):
    names = [f"room {k}" for k in range(50)]
    here = {name: pymux.Group(name, broker.backplane) for name in names}
    there = {name: pymux.Group(name, broker.backplane) for name in names}

    class Rooms:
        def __init__(self, rooms):
            self.rooms = rooms

        def opened(self, conn):
            for room in self.rooms.values():
                room.add(conn)

        def received(self, conn, data):
            self.rooms[data.decode()].send(data)

    with (
        util.serving(Rooms(here), backend, framing=LINES) as near,
        util.serving(Rooms(there), backend, framing=LINES) as far,
        pymux.connect(near.address, framing=LINES, timeout=10) as ann,
        pymux.connect(far.address, framing=LINES, timeout=10) as bob,
    ):
        for rooms in here, there:
            util.wait_until(lambda: all(one.connected for one in rooms.values()))  # noqa: B023
        assert near.stats().connected == 1
        for name in names:
            ann.send(name.encode())
        said = [name.encode() for name in names]
        assert [bob.recv() for _ in said] == said


def test_a_broker_over_tls(papers, secured_by, backend):
    options = {"ssl": papers.client()}
    with Little(papers.server()) as broker:
        one, two = (pymux.Group("a", broker.make(**options)) for _ in range(2))
        with (
            util.serving(Chat(one), backend, framing=LINES) as near,
            util.serving(Chat(two), backend, framing=LINES) as far,
            pymux.connect(near.address, framing=LINES, timeout=10) as ann,
            pymux.connect(far.address, framing=LINES, timeout=10) as bob,
        ):
            util.wait_until(lambda: one.connected and two.connected)
            ann.send(b"hello")
            assert bob.recv() == b"hello"


def test_a_handshake_that_fails_is_told(papers, backend, logged):
    with Little() as broker:
        room = pymux.Group("a", broker.make(ssl=papers.client()))
        with (
            util.serving(Chat(room), backend, framing=LINES) as server,
            pymux.connect(server.address, framing=LINES),
        ):
            util.wait_until(lambda: logged)
    assert "connecting has failed" in logged[0].getMessage()
