"""Groups of one mux: who is a member, and what members hear."""

import contextlib
import errno
import gc
import threading
import weakref

import pytest

import pymux
import pymux.aio

from . import util
from .loops import until

HERE = ("127.0.0.1", 0)
LINES = pymux.Lines()
needs_guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def handler_in(form, room):
    """A handler in a form: `join` makes a member, who hears what anybody says."""

    def take(conn, data):
        if data == b"join":
            room.add(conn)
            conn.send(b"joined")
        else:
            room.send(data)

    async def coroutine(conn):
        async for data in conn:
            take(conn, data)

    @pymux.batched
    def batch(batch):
        for conn, data in batch:
            take(conn, data)

    class Object:
        def received(self, conn, data):
            take(conn, data)

    class BatchedObject:
        @pymux.batched
        def received(self, batch):
            for conn, data in batch:
                take(conn, data)

    return {
        "function": take,
        "coroutine": coroutine,
        "batch": batch,
        "object": Object(),
        "batched object": BatchedObject(),
    }[form]


@contextlib.contextmanager
def member(address):
    """A plain socket that has joined."""
    with util.connect(address) as sock:
        sock.sendall(b"join\n")
        assert line(sock) == b"joined\n"
        yield sock


def line(sock):
    """The next line that a plain socket gets."""
    data = b""
    while not data.endswith(b"\n"):
        data += util.recv_exactly(sock, 1)
    return data


@pytest.mark.parametrize("form", util.FORMS)
def test_every_member_hears_what_anyone_sends_in_each_form(form, backend):
    room = pymux.Group("lobby")
    handler = handler_in(form, room)
    with util.serving(handler, backend, framing=LINES) as server:
        with member(server.address) as ann, member(server.address) as bob:
            ann.sendall(b"".join(b"%d\n" % k for k in range(1000)))
            said = b"".join(b"%d\n" % k for k in range(1000))
            assert util.recv_exactly(bob, len(said)) == said
            assert util.recv_exactly(ann, len(said)) == said
        util.wait_until(lambda: not len(room))


@needs_guests
@pytest.mark.parametrize("form", util.FORMS)
def test_members_in_an_asyncio_loop_hear_each_other(form, loop):
    room = pymux.Group("lobby")

    async def main():
        handler = handler_in(form, room)
        async with pymux.aio.serve(handler, HERE, framing=LINES) as server:
            ann = await pymux.aio.connect(server.address, framing=LINES)
            bob = await pymux.aio.connect(server.address, framing=LINES)
            async with ann, bob:
                for sock in ann, bob:
                    sock.send(b"join")
                    assert await sock.recv() == b"joined"
                bob.send(b"bob")
                assert [await ann.recv(), await bob.recv()] == [b"bob", b"bob"]
                assert room.send(b"from a task") == 2
                assert await ann.recv() == b"from a task"
            await until(lambda: not len(room))

    loop.run(main())


@needs_guests
def test_connections_of_an_asyncio_task_may_be_a_group(loop):
    room = pymux.Group("upstream")

    async def main():
        notes = []

        def note(conn, data):
            notes.append(data)

        async with pymux.aio.serve(note, HERE, framing=LINES) as server:
            one = await pymux.aio.connect(server.address, framing=LINES)
            two = await pymux.aio.connect(server.address, framing=LINES)
            room.add(one)
            room.add(two)
            assert room.send(b"both") == 2
            await until(lambda: notes == [b"both", b"both"])
            one.close()
            await one.wait_closed()
            assert list(room) == [two]
            two.close()

    loop.run(main())


def test_a_member_leaves_by_itself(mux):
    room = pymux.Group("lobby")
    conn, peer = util.pair(mux, LINES)
    room.add(conn)
    assert (conn in room, len(room), list(room)) == (True, 1, [conn])
    peer.close()
    util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert (conn in room, len(room), list(room)) == (False, 0, [])


def test_a_group_keeps_no_connection_that_has_ended(backend):
    room = pymux.Group("lobby")
    seen = []

    class Chat:
        def opened(self, conn):
            room.add(conn)
            seen.append(weakref.ref(conn))

    with util.serving(Chat(), backend) as server:
        for _ in range(3):
            util.connect(server.address).close()
        util.wait_until(lambda: len(seen) == 3)
        util.wait_until(lambda: gc.collect() < 0 or not any(one() for one in seen))


def test_who_is_being_told_closed_is_no_member_any_more(backend):
    room = pymux.Group("lobby")
    seen = []

    class Chat:
        def opened(self, conn):
            room.add(conn)

        def closed(self, conn, error):
            seen.append((conn in room, len(room), room.send(b"gone")))

    with util.serving(Chat(), backend, framing=LINES) as server:
        with util.connect(server.address) as stays:
            util.connect(server.address).close()
            assert line(stays) == b"gone\n"
        util.wait_until(lambda: len(seen) == 2)
    assert seen == [(False, 1, 1), (False, 0, 0)]


def test_a_connection_that_this_side_closes_hears_nothing_more(mux):
    room = pymux.Group("lobby")
    conn, peer = util.pair(mux, LINES)
    with peer:
        room.add(conn)
        conn.close()
        assert (room.send(b"late"), len(room)) == (0, 0)
        room.add(conn)
        assert len(room) == 0
        mux.harvest(0)
        assert util.recv_all(peer) == b""


def test_a_member_may_leave_and_come_again(mux):
    room, other = pymux.Group("lobby"), pymux.Group("hall")
    conn, peer = util.pair(mux, LINES)
    with peer:
        room.add(conn)
        room.add(conn)
        other.add(conn)
        assert len(room) == 1
        room.discard(conn)
        room.discard(conn)
        assert (room.send(b"one"), other.send(b"two")) == (0, 1)
        room.add(conn)
        assert room.send(b"three") == 1
        mux.harvest(0)
        assert util.recv_exactly(peer, 10) == b"two\nthree\n"


def test_what_a_group_sends_keeps_its_place_among_other_output(mux):
    room = pymux.Group("lobby")
    conn, peer = util.pair(mux, LINES)
    with peer:
        room.add(conn)
        for k in range(3):
            conn.send(b"own %d" % k)
            room.send(b"room %d" % k)
            mux.send_many([conn], b"many %d" % k)
        mux.harvest(0)
        said = b"".join(b"own %d\nroom %d\nmany %d\n" % (k, k, k) for k in range(3))
        assert util.recv_exactly(peer, len(said)) == said


@pytest.mark.parametrize("size", [10, 100_000])
def test_many_members_get_messages_of_every_size(mux, size):
    room = pymux.Group("lobby")
    pairs = [util.pair(mux) for _ in range(20)]
    for conn, _ in pairs:
        room.add(conn)
    data = bytearray(b"x" * size)
    assert room.send(data) == 20
    data[:] = b"y" * size  # what was sent stays as it was
    assert room.send(b"z" * size) == 20
    for conn, peer in pairs:
        with peer:
            got = b""
            while len(got) < 2 * size:
                mux.harvest(0)
                got += peer.recv(1 << 20)
            assert got == b"x" * size + b"z" * size
            assert conn.queued == 0


def test_the_messages_of_a_turn_leave_together(backend):
    room = pymux.Group("lobby")
    waiting = []

    class Chat:
        def opened(self, conn):
            room.add(conn)

        def received(self, conn, data):
            room.send(data)
            waiting.append([one.queued for one in room])

    with (
        util.serving(Chat(), backend, framing=LINES) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
    ):
        util.wait_until(lambda: len(room) == 2)
        with util.held(server):
            one.sendall(b"a\n" * 8)
        assert util.recv_exactly(two, 16) == b"a\n" * 8
    # With its delimiter a message has two bytes, which the log does not count.
    assert waiting == [[k, k] for k in range(1, 9)]


def test_a_slow_member_ends_by_max_output(mux):
    room = pymux.Group("lobby")
    limits = pymux.Limits(max_output=1 << 20)
    slow, peer = util.pair(mux, limits=limits)
    quick, reader = util.pair(mux, limits=limits)
    with peer, reader:
        room.add(slow)
        room.add(quick)

        acc = util.Harvested()
        while not acc.is_closed(slow):
            room.send(b"x" * 65536)
            acc.add(mux.harvest(0))
            util.recv_exactly(reader, 65536)
        assert acc.errno(slow) == errno.ENOBUFS
        assert list(room) == [quick]


def test_drop_slow_passes_a_slow_member_over_and_counts(mux):
    room = pymux.Group("lobby", drop_slow=True)
    slow, peer = util.pair(mux)
    quick, reader = util.pair(mux)
    with peer, reader:
        room.add(slow)
        room.add(quick)
        sent = count = 0
        while room.skipped < 10:
            count += room.send(b"x" * 65536)
            sent += 1
            mux.harvest(0)
            util.recv_exactly(reader, 65536)
        assert count == 2 * sent - room.skipped
        assert slow.queued < 65536 + 2 * 65536
        heard = (sent - room.skipped) * 65536
        got = 0
        while got < heard:
            mux.harvest(0)
            got += len(peer.recv(1 << 20))
        assert got == heard
        assert room.send(b"y") == 2


def test_what_a_framing_cannot_carry_is_sent_to_nobody(mux):
    room = pymux.Group("lobby")
    fixed, peer = util.pair(mux, pymux.Fixed(3))
    free, other = util.pair(mux)
    with peer, other:
        room.add(free)
        room.add(fixed)
        with pytest.raises(ValueError, match="4"):
            room.send(b"four")
        assert room.send(b"abc") == 2
        mux.harvest(0)
        assert util.recv_exactly(other, 3) == b"abc"
        assert (fixed.queued, free.queued) == (0, 0)


class Moves:
    """An object whose connections take their place in a group along."""

    def __init__(self, room):
        self.room = room

    def opened(self, conn):
        self.room.add(conn)

    def received(self, conn, data):
        self.room.send(data)


class MovesWhole(Moves):
    def taken(self, conn, state):
        self.room.add(conn)


@contextlib.contextmanager
def only_member(mux, handler):
    """(the connection, its peer) that a handler has put into its group."""
    where = pymux.Endpoint(HERE, framing=LINES, handler=handler)
    with util.connect(mux.listen(where).address) as peer:
        util.harvest_until(mux, lambda acc: len(handler.room))
        (conn,) = handler.room
        yield conn, peer


def test_a_member_stays_whose_handler_could_not_put_it_into_the_next_group(mux):
    room = pymux.Group("lobby")
    place = pymux.Endpoint(HERE, framing=LINES, handler=handler_in("function", room))
    with util.connect(mux.listen(place).address) as peer:
        peer.sendall(b"join\n")
        util.harvest_until(mux, lambda acc: len(room))
        (conn,) = room
        assert mux.detach(conn) is None
        assert conn in room
        room.discard(conn)
        mux.harvest(0)
        mux.detach(conn).close()


def test_a_member_leaves_when_it_moves_and_its_handler_adds_it_again(mux):
    handler, heir = MovesWhole(pymux.Group("lobby")), MovesWhole(pymux.Group("lobby"))
    with only_member(mux, handler) as (conn, peer), pymux.Mux(mux.backend) as new:
        detached = mux.detach(conn)
        assert (len(handler.room), handler.room.send(b"old")) == (0, 0)
        new.adopt(detached, framing=LINES, handler=heir)
        assert heir.room.send(b"new") == 1
        new.harvest(0)
        assert line(peer) == b"new\n"


def test_a_str_is_refused(mux):
    room = pymux.Group("lobby")
    with pytest.raises(TypeError, match="str"):
        room.send("hello")


def test_a_group_belongs_to_the_mux_of_its_first_member(mux):
    room = pymux.Group("lobby")
    conn, peer = util.pair(mux)
    with peer, pymux.Mux(mux.backend) as other:
        stranger, far = util.pair(other)
        with far:
            room.add(conn)
            with pytest.raises(ValueError, match="another mux"):
                room.add(stranger)
            assert list(room) == [conn]


def test_after_its_mux_has_closed_a_group_may_have_another(backend):
    room = pymux.Group("lobby")
    for name in b"one\n", b"two\n":
        handler = handler_in("object", room)
        with (
            util.serving(handler, backend, framing=LINES) as server,
            member(server.address) as sock,
        ):
            sock.sendall(name)
            assert line(sock) == name
        assert len(room) == 0
        assert room.send(b"nobody") == 0


def test_a_group_is_for_the_thread_of_its_mux(mux):
    room = pymux.Group("lobby")
    conn, peer = util.pair(mux)
    raised = []

    def elsewhere():
        for call in lambda: room.send(b"x"), lambda: room.discard(conn):
            try:
                call()
            except RuntimeError as error:
                raised.append(str(error))

    with peer:
        room.add(conn)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(raised) == 2
        mux.call_threadsafe(room.send, b"here")
        mux.harvest(0)
        mux.harvest(0)
        assert util.recv_exactly(peer, 4) == b"here"


def test_a_group_without_members_sends_to_nobody(mux):
    room = pymux.Group("lobby")
    assert room.send(b"x") == 0
    room.attach(mux)
    assert room.send(b"x") == 0
    assert room.connected
    assert room


@pytest.mark.parametrize(
    "make, shown",
    [
        (lambda: pymux.Group(b"lobby"), "name is b'lobby'; a str is needed"),
        (lambda: pymux.Group(""), "not empty"),
        (lambda: pymux.Group("é" * 200), "at most 1024"),
        (lambda: pymux.Group("a", ("127.0.0.1", 4222)), "a pymux.Nats, a pymux.Redis"),
        (lambda: pymux.Group("a", drop_slow=1), "True or False"),
        (lambda: pymux.Group("a", on_gap=3), "a callable"),
        (lambda: pymux.Group("a").add("b"), "a pymux.Connection"),
        (lambda: pymux.Group("a").attach("b"), "a pymux.Mux"),
        (lambda: pymux.Nats(4222), "address"),
        (lambda: pymux.Nats(("127.0.0.1", 4222), keep=-1), "keep is -1"),
        (lambda: pymux.Nats(("127.0.0.1", 4222), keep_bytes=2.5), "keep_bytes is 2.5"),
        (lambda: pymux.Redis(("h", 1), user="me"), "give both"),
        (lambda: pymux.Redis(("h", 1), password=b"p"), "of type bytes"),
        (lambda: pymux.Redis("127.0.0.1:6379"), "which is a Unix socket's path"),
    ],
)
def test_a_wrong_argument_is_refused(make, shown):
    with pytest.raises((TypeError, ValueError), match=shown):
        make()


def test_a_password_is_shown_nowhere():
    assert "secret" not in repr(pymux.Redis(("h", 1), user="me", password="secret"))


def test_a_group_is_not_copied(mux):
    import copy

    with pytest.raises(TypeError):
        copy.copy(pymux.Group("lobby"))
