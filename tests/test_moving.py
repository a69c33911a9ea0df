"""Connections that leave one mux and go on in another, in this process."""

import contextlib
import errno
import gc
import random
import socket
import struct

import pytest

import pymux

from .util import harvest_until, outgoing, pair, recv_exactly, wait_until


@pytest.fixture
def heir(backend):
    """Another mux on the same backend."""
    with pymux.Mux(backend) as mux:
        yield mux


class Game:
    """An object handler that keeps a state, and says what it was told."""

    def __init__(self):
        self.told = []
        self.ready = True

    def opened(self, conn):
        conn.state = b"new"

    def received(self, conn, data):
        conn.state += data
        return conn.state

    def closed(self, conn, error):
        self.told.append(("closed", conn, error))

    def leaving(self, conn):
        self.told.append(("leaving", conn))
        return conn.state if self.ready else None

    def taken(self, conn, state):
        self.told.append(("taken", conn, state))
        conn.state = state


def served(mux, handler, framing=None):
    """(a Connection that the handler has, its peer)."""
    known = mux.stats().accepted
    listener = mux.listen(("127.0.0.1", 0), handler=handler, framing=framing)
    peer = socket.create_connection(listener.address, timeout=20)
    harvest_until(mux, lambda acc: mux.stats().accepted > known)
    return peer


def conn_of(told):
    return told[0][1]


def moved(detached):
    """The same, by way of its record."""
    record, fd = detached.pack(), socket.dup(detached.fileno())
    detached.close()
    return pymux.Detached.unpack(record, fd)


def test_input_and_output_arrive_once_and_in_order(mux, heir):
    conn, peer = pair(mux, pymux.Lines(max_size=1 << 20))
    with peer:
        peer.sendall(b"one\ntw")
        harvest_until(mux, lambda acc: acc.messages)
        size = 0
        while not conn.queued:
            conn.send(bytes(1 << 18))
            mux.harvest(0)
            size += (1 << 18) + 1
        mux.harvest(0)  # its news that it is blocked
        queued, names = conn.queued, (conn.peer, conn.local)
        detached = mux.detach(conn)
        assert queued > 0
        here = heir.adopt(moved(detached), framing=pymux.Lines())
        assert here.queued == queued
        here.send(b"behind")
        assert recv_exactly_from(heir, peer, size + 7)[-7:] == b"behind\n"
        peer.sendall(b"o\n")
        acc = harvest_until(heir, lambda acc: acc.messages)
        assert acc.messages == [(here, b"two")] and not acc.opened
        assert (here.peer, here.local) == (conn.peer, conn.local) == names
        assert mux.stats().moved_out == heir.stats().moved_in == 1
        assert mux.stats().closed == mux.stats().discarded == 0
        assert conn.closed and not mux.harvest(0).closed


def recv_exactly_from(mux, sock, size):
    """So many bytes of a socket whose peer is served here."""
    sock.setblocking(False)
    got = bytearray()

    def more():
        mux.harvest(0.01)
        with contextlib.suppress(BlockingIOError):
            got.extend(sock.recv(1 << 20))
        return len(got) >= size

    wait_until(more, 60)
    sock.settimeout(20)
    assert len(got) == size
    return bytes(got)


@pytest.mark.parametrize(
    "framing",
    [
        None,
        pymux.Lines(b"\r\n"),
        pymux.LengthPrefix(4),
        pymux.LengthPrefix(2, "little"),
        pymux.Fixed(8),
        pymux.Varint(),
    ],
)
def test_a_frame_that_is_cut_in_two_by_a_move_is_whole(mux, heir, framing):
    conn, peer = pair(mux, framing)
    message = b"12345678"
    with peer:
        other, far = pair(heir, framing)  # what goes out as such a frame
        with far:
            other.send(message)
            heir.harvest(0)
            far.settimeout(20)
            frame = far.recv(100)
        for cut in range(1, len(frame)):
            before, got = mux.stats().bytes_in, b""
            peer.sendall(frame[:cut])
            while mux.stats().bytes_in < before + cut:
                got += b"".join(mux.harvest(0.01).messages)
            conn = heir.adopt(moved(mux.detach(conn)), framing=framing)
            peer.sendall(frame[cut:])
            size = len(message)
            while len(got) < size:
                got += b"".join(heir.harvest(5).messages)
            assert got == message
            conn.send(message)
            heir.harvest(0)
            assert recv_exactly(peer, len(frame)) == frame
            mux, heir = heir, mux


def test_a_paused_connection_stays_paused(mux, heir):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        conn.pause()
        mux.harvest(0)
        peer.sendall(b"a\nb\n")
        mux.harvest(0)
        here = heir.adopt(mux.detach(conn), framing=pymux.Lines())
        for _ in range(5):
            assert not heir.harvest(0.01).messages
        here.resume()
        acc = harvest_until(heir, lambda acc: len(acc.messages) == 2)
        assert acc.messages == [(here, b"a"), (here, b"b")]


def test_half_open_connections_stay_half_open(mux, heir):
    first, one = pair(mux, half_open=True)
    second, other = pair(mux, half_open=True)
    with one, other:
        one.shutdown(socket.SHUT_WR)
        harvest_until(mux, lambda acc: acc.ended)
        second.send_eof()
        mux.harvest(0)
        here = heir.adopt(moved(mux.detach(first)), half_open=True)
        here.send(b"last words")
        here.close()
        there = heir.adopt(moved(mux.detach(second)), half_open=True)
        with pytest.raises(pymux.ConnectionClosed, match="send_eof"):
            there.send(b"x")
        other.sendall(b"more")
        acc = harvest_until(heir, lambda acc: acc.received(there))
        assert acc.received(there) == b"more" and not acc.ended
        one.settimeout(20)
        assert one.recv(100) == b"last words"
        assert one.recv(100) == b"" == other.recv(1)


def test_a_peer_that_goes_meanwhile_is_found_by_the_next_harvest(mux, heir):
    conn, peer = pair(mux, pymux.Lines())
    peer.sendall(b"a\nb")
    harvest_until(mux, lambda acc: acc.messages)
    detached = mux.detach(conn)
    peer.close()
    here = heir.adopt(detached, framing=pymux.Lines())
    acc = harvest_until(heir, lambda acc: acc.closed)
    assert acc.messages == [(here, b"b")]
    assert acc.closed == [(here, None)]


def test_the_framing_of_a_switch_moves_along(mux, heir):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        conn.set_framing(pymux.LengthPrefix(1), b"\x02a")
        mux.harvest(0)
        here = heir.adopt(moved(mux.detach(conn)), framing=pymux.Lines())
        peer.sendall(b"b")
        acc = harvest_until(heir, lambda acc: acc.messages)
        assert acc.messages == [(here, b"ab")]
        with pytest.raises(ValueError, match="holds at most"):
            here.send(bytes(300))


# --- handlers ---------------------------------------------------------------------


def test_an_object_says_what_moves_and_is_told(mux, heir):
    old, new = Game(), Game()
    with served(mux, old) as peer:
        peer.sendall(b"1")
        harvest_until(mux, lambda acc: mux.stats().bytes_out)
        assert recv_exactly(peer, 4) == b"new1"
        (conn,) = (one for one in gc.get_objects() if is_conn(one, mux))
        old.ready = False
        assert mux.detach(conn) is None and not conn.closed
        old.ready = True
        detached = mux.detach(conn)
        assert detached.state == b"new1"
        here = heir.adopt(moved(detached), handler=new)
        assert new.told == [("taken", here, b"new1")]
        peer.sendall(b"2")
        harvest_until(heir, lambda acc: heir.stats().bytes_out)
        assert recv_exactly(peer, 5) == b"new12"
        assert [what for what, *_ in old.told] == ["leaving", "leaving"]
    harvest_until(heir, lambda acc: len(new.told) == 2)
    assert new.told[1] == ("closed", here, None)


def is_conn(one, mux):
    return type(one) is pymux.Connection and one.mux is mux and not one.closed


def only(mux):
    (conn,) = (one for one in gc.get_objects() if is_conn(one, mux))
    return conn


class Greets:
    def opened(self, conn):
        conn.send(b"welcome")


async def coroutine(conn):
    async for data in conn:
        conn.send(data)


def keeps(conn, data):
    conn.state = data
    return data


@pytest.mark.parametrize("handler", [Greets(), coroutine, keeps])
def test_what_would_be_lost_stays(mux, handler):
    with served(mux, handler) as peer:
        peer.sendall(b"a")
        harvest_until(mux, lambda acc: mux.stats().bytes_out)
        conn = only(mux)
        assert mux.detach(conn) is None
        peer.sendall(b"b")
        before = mux.stats().messages_in
        harvest_until(mux, lambda acc: mux.stats().messages_in > before)


def test_what_will_end_or_is_of_running_code_stays(mux):
    conn, peer = outgoing(mux)
    closing, other = pair(mux)
    splits, third = pair(mux, pymux.Splitter(lambda: lambda data: [data]))
    with peer, other, third:
        closing.close()
        mux.harvest(0)
        assert mux.detach(conn) is None
        assert mux.detach(closing) is None
        assert mux.detach(splits) is None


def test_a_state_that_is_too_large_stays_and_is_logged(mux, logged):
    game = Game()
    with served(mux, game):
        conn = only(mux)
        conn.state = bytes((1 << 20) + 1)
        assert mux.detach(conn) is None
        (record,) = logged
        assert "at most 1048576 are accepted" in str(record.exc_info[1])
        conn.state = bytes(1 << 20)
        mux.detach(conn).close()


def test_a_leaving_that_raises_ends_its_connection(mux, logged):
    class Raises(Game):
        def leaving(self, conn):
            raise RuntimeError("not like this")

    game = Raises()
    with served(mux, game):
        assert mux.detach(only(mux)) is None
    harvest_until(mux, lambda acc: game.told)
    assert game.told[0][0] == "closed"
    (record,) = logged
    assert str(record.exc_info[1]) == "not like this"


def test_send_to_one_that_has_moved_raises_and_the_first_is_logged(mux, logged):
    conn, peer = pair(mux)
    with peer, mux.detach(conn):
        for _ in range(3):
            with pytest.raises(pymux.ConnectionClosed, match="has moved"):
                conn.send(b"x")
    assert [one.event for one in logged] == ["moved"]


def test_detach_is_refused_inside_a_handler(mux):
    refused = []

    def handler(conn, data):
        with pytest.raises(RuntimeError, match="handler or timer"):
            conn.mux.detach(conn)
        refused.append(data)

    with served(mux, handler) as peer:
        peer.sendall(b"x")
        harvest_until(mux, lambda acc: refused)


@pytest.mark.parametrize("handler", [coroutine, Greets()])
def test_a_handler_that_would_begin_anew_is_refused(mux, heir, handler):
    conn, peer = pair(mux)
    with peer, mux.detach(conn) as detached:
        with pytest.raises(ValueError, match="cannot be adopted"):
            heir.adopt(detached, handler=handler)
        assert heir.adopt(detached) is not None
    with pytest.raises(ValueError, match="no socket any more"):
        heir.adopt(detached)


def test_a_connection_of_another_mux_is_refused(mux, heir):
    conn, peer = pair(heir)
    with peer, pytest.raises(ValueError, match="another mux"):
        mux.detach(conn)


# --- the record -------------------------------------------------------------------


def test_one_that_is_dropped_warns_and_closes(mux):
    conn, peer = pair(mux)
    with peer:
        detached = mux.detach(conn)
        with pytest.warns(ResourceWarning, match="unclosed <Detached"):
            del detached
            gc.collect()
        peer.settimeout(20)
        assert peer.recv(1) == b""


KINDS = "plain", "proxied", "switched"


def record_of(mux, kind="plain"):
    proxy = pymux.Proxy("127.0.0.0/8") if kind == "proxied" else None
    listener = mux.listen(("127.0.0.1", 0), framing=pymux.Lines(), proxy=proxy)
    with (
        contextlib.closing(listener),
        socket.create_connection(listener.address) as peer,
    ):
        if proxy is not None:
            peer.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        peer.sendall(b"x\npart")
        acc = harvest_until(mux, lambda acc: acc.messages)
        (conn,) = acc.opened
        if kind == "switched":
            conn.set_framing(pymux.LengthPrefix(2))
        with mux.detach(conn) as detached:
            detached.state = b"state"
            return detached.pack()


def test_a_record_of_another_version_is_refused_in_words(mux):
    record = record_of(mux)
    newer = record[:4] + (2).to_bytes(2, "little") + record[6:]
    with pytest.raises(ValueError, match="has version 2; this pymux reads version 1"):
        pymux.Detached.unpack(newer, 0)
    with pytest.raises(ValueError, match="begins with b'HTTP'"):
        pymux.Detached.unpack(b"HTTP/1.1 200 OK", 0)
    with pytest.raises(ValueError, match="the record has 1000 bytes"):
        pymux.Detached.unpack(memoryview(record.ljust(1000)).cast("I"), 0)
    with pytest.raises(TypeError, match="bytes are needed"):
        pymux.Detached.unpack("text", 0)
    with pytest.raises(ValueError, match="an open descriptor is needed"):
        pymux.Detached.unpack(record, -1)


def test_no_part_of_a_record_is_taken_for_a_record(mux):
    record = record_of(mux)
    for size in range(len(record)):
        with pytest.raises(ValueError, match="record"):
            pymux.Detached.unpack(record[:size], 0)
    with pytest.raises(ValueError, match="record"):
        pymux.Detached.unpack(record + b"x", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_record_is_refused_or_harmless(mux, heir, kind):
    """What is refused has left nothing in the mux."""
    record, chance = record_of(mux, kind), random.Random(1)
    numbers = -1, 2**31, 2**32 - 1, 2**61, 2**62, 2**63 - 1, -(2**63)
    taken = 0
    for _ in range(2000):
        hostile = bytearray(record)
        for _ in range(chance.randrange(1, 5)):
            hostile[chance.randrange(len(hostile))] = chance.randrange(256)
        if chance.random() < 0.3:
            place = chance.randrange(6, len(hostile) - 8)
            hostile[place : place + 8] = struct.pack("<q", chance.choice(numbers))
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                detached = pymux.Detached.unpack(hostile, ours.fileno())
            except ValueError:
                ours.close()
                continue
            ours.detach()
            with detached:
                before = heir.stats().connections
                try:
                    conn = heir.adopt(detached, framing=pymux.Lines())
                except (OSError, ValueError):
                    assert heir.stats().connections == before
                    continue
        taken += 1
        heir.harvest(0)
        again = None if conn.closed else heir.detach(conn)
        if again is not None:
            again.close()
    assert taken
    harvest_until(heir, lambda acc: not heir.stats().connections)


def test_a_clock_older_than_the_machine_has_run_out(mux, heir):
    """And one that cannot be is refused: the places are those of the record's head."""
    record = bytearray(record_of(mux))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for place in 12, 20:
            old = bytearray(record)
            old[place : place + 8] = (2**61 + 1).to_bytes(8, "little")
            with pytest.raises(ValueError, match=f"{2**61 + 1}"):
                pymux.Detached.unpack(old, ours.fileno())
        record[12:20] = (2**61).to_bytes(8, "little")
        with pymux.Detached.unpack(record, ours.dup().detach()) as detached:
            limits = pymux.Limits(idle_timeout=3600)
            conn = heir.adopt(detached, framing=pymux.Lines(), limits=limits)
        acc = harvest_until(heir, lambda acc: acc.closed)
        assert acc.errno(conn) == errno.ETIMEDOUT


def test_a_state_of_another_kind_is_refused(mux):
    conn, peer = pair(mux)
    with peer, mux.detach(conn) as detached:
        detached.state = "text"
        with pytest.raises(TypeError, match="bytes or None"):
            detached.pack()
        detached.state = bytes((1 << 20) + 1)
        with pytest.raises(ValueError, match="at most 1048576"):
            detached.pack()
