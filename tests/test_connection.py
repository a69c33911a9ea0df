"""A connection: its identity, and what sending on it means."""

import array
import errno
import os
import socket
import threading

import pytest

import pymux

from .util import (
    connect,
    harvest_until,
    listening,
    outgoing,
    pair,
    recv_exactly,
    reset,
    until_end,
)


@pytest.fixture
def raw(mux):
    """(Connection, socket) without framing."""
    conn, peer = pair(mux)
    yield conn, peer
    peer.close()


# -- its identity ------------------------------------------------------------------


def test_the_same_object_stands_for_a_connection_everywhere(mux):
    listener = mux.listen(("127.0.0.1", 0))
    with connect(listener.address) as peer:
        peer.sendall(b"one")
        acc = harvest_until(mux, lambda acc: acc.messages)
        (conn,) = acc.opened
        assert acc.messages[0][0] is conn
        peer.sendall(b"two")
        batch = mux.harvest(5)
        assert batch.conns[0] is conn
    acc = harvest_until(mux, lambda acc: acc.closed)
    assert acc.closed[0][0] is conn


def test_equality_is_identity(mux):
    a, peer_a = pair(mux)
    b, peer_b = pair(mux)
    with peer_a, peer_b:
        assert a == a
        assert a != b
        assert len({a, b, a}) == 2


def test_an_id_is_never_used_again(mux):
    seen = set()
    for _ in range(100):
        conn, peer = pair(mux)
        peer.close()
        harvest_until(mux, lambda acc, conn=conn: acc.is_closed(conn))
        seen.add(conn.id)
    assert len(seen) == 100
    assert all(isinstance(value, int) for value in seen)


def test_a_late_call_on_a_closed_connection_does_not_reach_its_successor(mux):
    old, peer = pair(mux)
    peer.close()
    harvest_until(mux, lambda acc: acc.is_closed(old))
    mux.harvest(0)
    new, peer = pair(mux)
    with peer:
        old.close()
        old.abort()
        old.pause()
        with pytest.raises(pymux.ConnectionClosed):
            old.send(b"astray")
        peer.sendall(b"hello")
        harvest_until(mux, lambda acc: acc.received(new) == b"hello")
        new.send(b"mine")
        mux.harvest(0)
        assert recv_exactly(peer, 4) == b"mine"


def test_a_connection_knows_its_mux_and_its_addresses(mux, raw):
    conn, peer = raw
    assert conn.mux is mux
    assert conn.peer == peer.getsockname()
    assert conn.local == peer.getpeername()


def test_the_addresses_are_readable_after_closing(mux, raw):
    conn, peer = raw
    expected = peer.getsockname(), peer.getpeername()
    peer.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert (conn.peer, conn.local) == expected


def test_state_is_yours(raw):
    conn, _ = raw
    assert conn.state is None
    conn.state = {"anything": 1}
    assert conn.state == {"anything": 1}


def test_closed_tells_whether_it_is(mux, raw):
    conn, peer = raw
    assert conn.closed is False
    peer.close()
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    assert conn.closed is True


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
def test_accepted_sockets_do_not_block_and_do_not_wait_for_more(mux):
    before = set(os.listdir("/proc/self/fd"))
    _conn, peer = pair(mux)
    with peer:
        new = [int(fd) for fd in set(os.listdir("/proc/self/fd")) - before]
        ours = [
            fd
            for fd in new
            if fd != peer.fileno()
            and os.path.exists(f"/proc/self/fd/{fd}")
            and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        ]
        assert len(ours) == 1
        assert not os.get_blocking(ours[0])
        with socket.socket(fileno=os.dup(ours[0])) as twin:
            assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- sending -----------------------------------------------------------------------


def test_what_is_sent_arrives_in_order(mux, raw):
    conn, peer = raw
    for k in range(1000):
        conn.send(b"%d," % k)
    mux.harvest(0)
    expected = b"".join(b"%d," % k for k in range(1000))
    assert recv_exactly(peer, len(expected)) == expected


def test_a_second_message_before_the_first_was_taken_loses_nothing(mux, raw):
    conn, peer = raw
    conn.send(b"a" * 6_000_000)
    mux.harvest(0)
    assert conn.queued
    conn.send(b"b" * 100)
    conn.send(b"c" * 6_000_000)
    got = []
    reader = threading.Thread(target=lambda: got.append(recv_exactly(peer, 12_000_100)))
    reader.start()
    harvest_until(mux, lambda acc: not conn.queued)
    reader.join()
    assert got[0] == b"a" * 6_000_000 + b"b" * 100 + b"c" * 6_000_000


def test_pieces_of_every_size_arrive_in_order(mux, raw):
    conn, peer = raw
    sizes = [1, 4095, 4096, 4097, 0, 65536, 3, 1_000_000, 16384, 2]
    expected = b""
    for k, size in enumerate(sizes * 3):
        piece = bytes([k]) * size
        conn.send(piece if k % 2 else bytearray(piece))
        expected += piece
    got = []
    reader = threading.Thread(
        target=lambda: got.append(recv_exactly(peer, len(expected)))
    )
    reader.start()
    harvest_until(mux, lambda acc: not conn.queued)
    reader.join()
    assert got[0] == expected


@pytest.mark.parametrize("value", ["text", 7, None, ["x"], object()])
def test_sending_what_is_not_bytes_is_a_type_error(mux, raw, value):
    conn, peer = raw
    with pytest.raises(TypeError):
        conn.send(value)
    conn.send(b"end")
    mux.harvest(0)
    assert recv_exactly(peer, 3) == b"end"


def test_sending_text_says_to_encode_it(raw):
    conn, _ = raw
    with pytest.raises(TypeError, match="str"):
        conn.send("text")


@pytest.mark.parametrize("size", [3, 5_000, 300_000])
@pytest.mark.parametrize("wrap", [lambda b: b, memoryview], ids=["itself", "view"])
def test_a_later_change_to_a_bytearray_does_not_show(mux, raw, size, wrap):
    conn, peer = raw
    buffer = bytearray(b"a" * size)
    conn.send(wrap(buffer))
    buffer[:] = b"z" * size
    got = []
    reader = threading.Thread(target=lambda: got.append(recv_exactly(peer, size)))
    reader.start()
    harvest_until(mux, lambda acc: not conn.queued)
    reader.join()
    assert got[0] == b"a" * size


def test_a_bytearray_that_was_sent_can_be_resized(raw):
    conn, _ = raw
    buffer = bytearray(b"abc")
    conn.send(buffer)
    buffer.extend(b"more")  # a BufferError if it were still exported


def test_a_buffer_of_wide_items_is_sent_as_its_bytes(mux, raw):
    conn, peer = raw
    numbers = array.array("I", [1, 2, 3])
    conn.send(numbers)
    mux.harvest(0)
    assert recv_exactly(peer, 12) == numbers.tobytes()


def test_a_slice_of_a_batch_can_be_sent_on(mux, raw):
    conn, peer = raw
    peer.sendall(b"0123456789")
    batch = mux.harvest(5)
    conn.send(batch.data[2:5])
    mux.harvest(0)
    assert recv_exactly(peer, 3) == b"234"


def test_queued_counts_what_the_kernel_has_not_taken(mux, raw):
    conn, _peer = raw
    assert conn.queued == 0
    conn.send(b"12345")
    assert conn.queued == 5
    mux.harvest(0)
    assert conn.queued == 0


def test_sending_on_an_outgoing_connection_may_come_before_opened(mux):
    with listening() as server:
        conn = mux.connect(server.getsockname(), framing=pymux.Lines())
        conn.send(b"early")
        conn.send(b"bird")
        harvest_until(mux, lambda acc: conn in acc.opened)
        peer, _ = server.accept()
        with peer:
            mux.harvest(0)
            assert recv_exactly(peer, 11) == b"early\nbird\n"


def test_a_partial_send_loses_nothing(mux, raw):
    conn, peer = raw
    data = os.urandom(1 << 16) * 100
    conn.send(data)
    mux.harvest(0)
    assert 0 < conn.queued < len(data)
    got = []
    reader = threading.Thread(target=lambda: got.append(recv_exactly(peer, len(data))))
    reader.start()
    harvest_until(mux, lambda acc: not conn.queued)
    reader.join()
    assert got[0] == data


# -- to many -----------------------------------------------------------------------


def test_send_many_reaches_each_in_its_framing(mux):
    a, peer_a = pair(mux, pymux.Lines())
    b, peer_b = pair(mux, pymux.LengthPrefix(1, max_size=255))
    with peer_a, peer_b:
        assert mux.send_many([a, b], b"hi") == 2
        mux.harvest(0)
        assert recv_exactly(peer_a, 3) == b"hi\n"
        assert recv_exactly(peer_b, 3) == b"\2hi"


def test_send_many_counts_those_that_took_it(mux):
    ends = [pair(mux) for _ in range(3)]
    ends[1][0].abort()
    mux.harvest(0)
    mux.harvest(0)
    assert mux.send_many([conn for conn, _ in ends], b"news") == 2
    mux.harvest(0)
    assert recv_exactly(ends[0][1], 4) == recv_exactly(ends[2][1], 4) == b"news"
    for _, peer in ends:
        peer.close()


def test_send_many_to_nobody_counts_nothing(mux):
    assert mux.send_many([], b"x") == 0


def test_send_many_takes_a_snapshot(mux, raw):
    conn, peer = raw
    buffer = bytearray(b"a" * 10_000)
    mux.send_many([conn], buffer)
    buffer[:] = b"z" * 10_000
    mux.harvest(0)
    assert recv_exactly(peer, 10_000) == b"a" * 10_000


def test_send_many_refuses_text(mux, raw):
    conn, _ = raw
    with pytest.raises(TypeError):
        mux.send_many([conn], "text")


def test_send_many_to_a_slow_reader_and_a_fast_one(mux):
    slow, slow_peer = pair(mux)
    fast, fast_peer = pair(mux)
    data = b"x" * 6_000_000
    with slow_peer, fast_peer:
        assert mux.send_many([slow, fast], data) == 2
        got = []
        for peer in (fast_peer, slow_peer):
            reader = threading.Thread(
                target=lambda peer=peer: got.append(recv_exactly(peer, len(data)))
            )
            reader.start()
            conn = fast if peer is fast_peer else slow
            harvest_until(mux, lambda acc, conn=conn: not conn.queued)
            reader.join()
        assert got == [data, data]


# -- a peer that is gone -----------------------------------------------------------


def test_what_is_sent_to_a_peer_that_is_gone_is_discarded_and_counted(mux, raw):
    conn, peer = raw
    reset(peer)
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    conn.send(b"nobody reads this")  # its closing is being reported: no error yet
    mux.harvest(0)
    assert mux.stats().discarded > 0


def test_after_its_closing_was_reported_send_raises(mux, raw):
    conn, peer = raw
    reset(peer)
    harvest_until(mux, lambda acc: acc.is_closed(conn))
    mux.harvest(0)
    with pytest.raises(pymux.ConnectionClosed):
        conn.send(b"x")


@pytest.mark.parametrize("how", ["close", "abort"])
def test_after_your_own_closing_send_raises(raw, how):
    conn, _ = raw
    getattr(conn, how)()
    with pytest.raises(pymux.ConnectionClosed):
        conn.send(b"x")


def test_a_failed_send_still_delivers_what_was_received(mux, raw):
    conn, peer = raw
    conn.send(b"x")
    peer.sendall(b"last words")
    reset(peer)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.received(conn) == b"last words"
    assert acc.errno(conn) == errno.ECONNRESET


def test_a_broken_pipe_shows_as_a_reset(mux, tmp_path):
    listener = mux.listen(tmp_path / "s")
    with connect(listener.address) as peer:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        peer.sendall(b"bye")
    conn.send(b"x")
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.received(conn) == b"bye"
    assert acc.errno(conn) == errno.ECONNRESET
    assert isinstance(acc.error(conn), ConnectionResetError)


def test_a_reset_behind_a_message_delivers_the_message(mux, raw):
    conn, peer = raw
    peer.sendall(b"last words")
    reset(peer)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.received(conn) == b"last words"
    assert acc.errno(conn) == errno.ECONNRESET


def test_a_reset_while_output_is_pending_harms_nobody_else(mux, raw):
    conn, peer = raw
    other, far = pair(mux)
    with far:
        conn.send(b"x" * 8_000_000)
        mux.harvest(0)
        reset(peer)
        far.sendall(b"alive")
        acc = harvest_until(
            mux, lambda acc: acc.is_closed(conn) and acc.received(other)
        )
        assert acc.errno(conn) == errno.ECONNRESET
        other.send(b"and well")
        mux.harvest(0)
        assert recv_exactly(far, 8) == b"and well"


# -- the peer's end ----------------------------------------------------------------


def test_the_answer_to_the_last_message_goes_out_before_the_end(mux):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        peer.sendall(b"question\n")
        peer.shutdown(socket.SHUT_WR)
        answered = False
        while not answered:
            batch = mux.harvest(5)
            if len(batch):
                batch.reply([b"answer"] * len(batch))
                answered = True
        harvest_until(mux, lambda acc: conn.closed)
        assert until_end(peer) == (b"answer\n", None)


def test_the_peers_end_closes_without_an_error(mux, raw):
    conn, peer = raw
    peer.shutdown(socket.SHUT_WR)
    acc = harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert acc.error(conn) is None
    assert acc.ended == []
    assert until_end(peer) == (b"", None)


def test_half_open_reports_the_peers_end_and_can_still_send(mux):
    conn, peer = pair(mux, half_open=True)
    with peer:
        peer.sendall(b"question")
        peer.shutdown(socket.SHUT_WR)
        acc = harvest_until(mux, lambda acc: acc.ended)
        assert acc.received(conn) == b"question"
        assert acc.ended == [conn]
        assert not conn.closed
        conn.send(b"a late answer")
        mux.harvest(0)
        assert recv_exactly(peer, 13) == b"a late answer"
        conn.close()
        harvest_until(mux, lambda acc: acc.is_closed(conn), into=acc)
        assert acc.error(conn) is None
        assert acc.ended == [conn]  # once
        assert until_end(peer) == (b"", None)


def test_an_outgoing_connection_can_be_half_open_too(mux):
    conn, peer = outgoing(mux, half_open=True)
    with peer:
        peer.shutdown(socket.SHUT_WR)
        harvest_until(mux, lambda acc: acc.ended == [conn])
        conn.send(b"still here")
        mux.harvest(0)
        assert recv_exactly(peer, 10) == b"still here"


def test_messages_come_before_the_end_that_is_behind_them(mux):
    _conn, peer = pair(mux, pymux.Lines(), half_open=True)
    with peer:
        peer.sendall(b"1\n2\n3")
        peer.shutdown(socket.SHUT_WR)
        seen = []
        while "end" not in seen:
            batch = mux.harvest(5)
            seen += batch.messages
            seen += ["end"] * len(batch.ended)
        assert seen == [b"1", b"2", b"3", "end"]
