"""Answers to a whole batch: `reply` and `reply_data`, and all they refuse."""

import array
import collections

import pytest

import pymux

from . import util
from .util import answer, harvest_until, pair, recv_exactly, until_end


def test_each_row_is_answered_with_one_frame(mux, abc):
    batch, peer = abc
    batch.reply([b"A", b"BB", b"CCC"])
    answer(mux, peer, b"A\nBB\nCCC\n")


def test_none_is_nothing_and_empty_is_an_empty_frame(mux, abc):
    batch, peer = abc
    batch.reply([None, b"", b"CCC"])
    answer(mux, peer, b"\nCCC\n")


def test_an_empty_reply_is_nothing_under_raw(mux):
    conn, peer = pair(mux)
    with peer:
        peer.sendall(b"x")
        batch = mux.harvest(5)
        batch.reply([b""])
        conn.send(b"")
        conn.send(b"end")
        answer(mux, peer, b"end")


def test_a_reply_may_be_any_bytes_like(mux, abc):
    batch, peer = abc
    batch.reply([bytearray(b"A"), memoryview(b"BB"), array.array("B", b"CCC")])
    answer(mux, peer, b"A\nBB\nCCC\n")


def test_each_row_goes_to_its_own_connection(mux, lines):
    _conn, peer = lines
    _other, far = pair(mux, pymux.Lines())
    with far:
        peer.sendall(b"near\n")
        far.sendall(b"far\n")
        batch = mux.harvest(5)
        assert len(batch) == 2
        batch.reply([data.upper() for _, data in batch])
        answer(mux, peer, b"NEAR\n")
        answer(mux, far, b"FAR\n")


def test_each_connection_answers_in_its_own_framing(mux, lines):
    _, peer = lines
    _other, far = pair(mux, pymux.LengthPrefix(2))
    with far:
        peer.sendall(b"ab\n")
        far.sendall(b"\0\2cd")
        batch = mux.harvest(5)
        assert len(batch) == 2
        batch.reply_data(bytes(batch.data).upper())
        answer(mux, peer, b"AB\n")
        answer(mux, far, b"\0\2CD")


def test_large_replies_arrive_whole(mux, abc):
    batch, peer = abc
    replies = [b"A" * 1_000_000, b"B" * 5_000, b"C" * 2_000_000]
    batch.reply(replies)
    total = sum(map(len, replies)) + 3
    got = bytearray()
    peer.setblocking(False)

    def take(acc):
        try:
            while True:
                got.extend(peer.recv(1 << 20))
        except BlockingIOError:
            return len(got) == total

    harvest_until(mux, take)
    assert bytes(got) == b"".join(reply + b"\n" for reply in replies)


# -- reply_data --------------------------------------------------------------------


def test_one_buffer_is_cut_as_the_batch_is(mux, abc):
    batch, peer = abc
    batch.reply_data(bytes(batch.data).upper())
    answer(mux, peer, b"A\nBB\nCCC\n")


def test_the_batch_itself_can_be_the_answer(mux, abc):
    batch, peer = abc
    batch.reply_data(batch.data)
    answer(mux, peer, b"a\nbb\nccc\n")


OFFSETS = {
    "list": list,
    "tuple": tuple,
    "deque": collections.deque,
    "array of int32": lambda o: array.array("i", o),
    "array of int64": lambda o: array.array("q", o),
    "memoryview": lambda o: memoryview(array.array("i", o)),
    "numpy int32": lambda o: pytest.importorskip("numpy").array(o, dtype="int32"),
    "numpy int64": lambda o: pytest.importorskip("numpy").array(o, dtype="int64"),
}


@pytest.mark.parametrize("make", OFFSETS.values(), ids=OFFSETS)
def test_one_buffer_is_cut_by_offsets_of_any_kind(mux, abc, make):
    batch, peer = abc
    batch.reply_data(b"onetwothree", make([0, 3, 6, 11]))
    answer(mux, peer, b"one\ntwo\nthree\n")


@pytest.mark.parametrize("make", OFFSETS.values(), ids=OFFSETS)
def test_offsets_need_not_start_at_zero_nor_end_at_the_end(mux, abc, make):
    batch, peer = abc
    batch.reply_data(b"..onetwo..", make([2, 5, 5, 8]))
    answer(mux, peer, b"one\n\ntwo\n")


def test_answers_of_equal_size_are_cut_by_a_range(mux, abc):
    batch, peer = abc
    batch.reply_data(b"112233", range(0, 7, 2))
    answer(mux, peer, b"11\n22\n33\n")


def test_the_offsets_of_the_batch_can_be_given_back(mux, abc):
    batch, peer = abc
    batch.reply_data(b"123456", batch.offsets)
    answer(mux, peer, b"1\n23\n456\n")


def test_a_numpy_buffer_can_be_the_answer(mux, abc):
    np = pytest.importorskip("numpy")
    batch, peer = abc
    upper = np.frombuffer(batch.data, dtype=np.uint8) - 32
    batch.reply_data(upper, np.asarray(batch.offsets))
    answer(mux, peer, b"A\nBB\nCCC\n")


def test_an_answer_is_as_it_was_at_the_call(mux, abc):
    batch, peer = abc
    data, offsets = bytearray(b"onetwothree"), [0, 3, 6, 11]
    batch.reply_data(data, offsets)
    data[:] = b"x" * len(data)
    offsets[:] = [0, 0, 0, 0]
    answer(mux, peer, b"one\ntwo\nthree\n")


def test_a_bytearray_in_a_reply_is_as_it_was_at_the_call(mux, abc):
    batch, peer = abc
    row = bytearray(b"A")
    batch.reply([row, None, None])
    row[:] = b"Z"
    answer(mux, peer, b"A\n")


def test_a_list_of_replies_is_as_it_was_at_the_call(mux, abc):
    batch, peer = abc
    rows = [b"A", b"BB", b"CCC"]
    batch.reply(rows)
    rows[:] = [b"no"] * 3
    answer(mux, peer, b"A\nBB\nCCC\n")


def test_ten_thousand_rows_are_answered_by_one_call(backend):
    with pymux.Mux(backend, max_messages=10_000) as mux:
        _conn, peer = pair(mux, pymux.Lines())
        with peer:
            peer.sendall(b"".join(b"m%d\n" % k for k in range(10_000)))
            left, got = 10_000, bytearray()
            while left:
                batch = mux.harvest(5)
                batch.reply_data(bytes(batch.data).upper())
                left -= len(batch)
            mux.harvest(0)
            size = sum(len(b"M%d\n" % k) for k in range(10_000))
            got = recv_exactly(peer, size)
            assert got == b"".join(b"M%d\n" % k for k in range(10_000))


# -- order -------------------------------------------------------------------------


def test_output_goes_in_the_order_of_the_program(mux, lines):
    conn, peer = lines
    peer.sendall(b"x\ny\n")
    batch = mux.harvest(5)
    conn.send(b"1")
    batch.reply([b"2", b"3"])
    conn.send(b"4")
    mux.send_many([conn], b"5")
    conn.send(b"6")
    answer(mux, peer, b"1\n2\n3\n4\n5\n6\n")


def test_reply_data_counts_as_sent_when_it_is_called(mux, lines):
    conn, peer = lines
    peer.sendall(b"x\ny\n")
    batch = mux.harvest(5)
    conn.send(b"before")
    batch.reply_data(b"23", [0, 1, 2])
    conn.send(b"after")
    answer(mux, peer, b"before\n2\n3\nafter\n")


# -- refusals ----------------------------------------------------------------------


def refused(mux, abc, error, call):
    """Assert that call(batch) raises and that nothing was sent by it."""
    batch, peer = abc
    with pytest.raises(error):
        call(batch)
    batch.conns[0].send(b"nothing before this")
    answer(mux, peer, b"nothing before this\n")


@pytest.mark.parametrize(
    "replies", [[], [b"x"] * 2, [b"x"] * 4, [None] * 4], ids=["none", "2", "4", "None"]
)
def test_a_reply_of_another_length_is_refused(mux, abc, replies):
    refused(mux, abc, ValueError, lambda batch: batch.reply(replies))


@pytest.mark.parametrize("bad", ["text", 7, [b"x"], object()])
def test_a_reply_that_is_not_bytes_is_refused_whole(mux, abc, bad):
    refused(mux, abc, TypeError, lambda batch: batch.reply([b"good", b"good", bad]))


def test_a_buffer_of_another_size_than_the_batch_is_refused(mux, abc):
    refused(mux, abc, ValueError, lambda batch: batch.reply_data(b"12345"))


def test_a_longer_buffer_than_the_batch_is_refused(mux, abc):
    refused(mux, abc, ValueError, lambda batch: batch.reply_data(b"1234567"))


@pytest.mark.parametrize(
    "offsets",
    [
        [],
        [0, 1, 2],
        [0, 1, 2, 3, 4],
        [0, 2, 1, 3],
        [0, 1, 2, 7],
        [-1, 1, 2, 3],
        [3, 2, 1, 0],
        [0, 1, 2, 1 << 40],
        [0, 1, 2, 1 << 70],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["list", "array"])
def test_offsets_that_do_not_fit_are_refused(mux, abc, offsets, kind):
    if kind == "array":
        if offsets and max(offsets) >= 1 << 63:
            pytest.skip("no such int64")
        offsets = array.array("q", offsets)
    refused(
        mux,
        abc,
        (ValueError, OverflowError),
        lambda batch: batch.reply_data(b"123456", offsets),
    )


@pytest.mark.parametrize("code", ["d", "f", "h", "B"])
def test_offsets_of_another_type_are_refused(mux, abc, code):
    offsets = array.array(code, [0, 1, 2, 3])
    refused(
        mux,
        abc,
        (ValueError, TypeError),
        lambda batch: batch.reply_data(b"123456", offsets),
    )


def test_offsets_that_are_not_contiguous_are_refused(mux, abc):
    offsets = memoryview(array.array("i", [0, 9, 1, 9, 2, 9, 3, 9]))[::2]
    refused(
        mux,
        abc,
        (ValueError, TypeError, BufferError),
        lambda batch: batch.reply_data(b"123456", offsets),
    )


@pytest.mark.parametrize("offsets", [["a"] * 4, [None] * 4, [0.0, 1.0, 2.0, 3.0]])
def test_offsets_that_are_not_integers_are_refused(mux, abc, offsets):
    refused(
        mux,
        abc,
        (ValueError, TypeError),
        lambda batch: batch.reply_data(b"123456", offsets),
    )


@pytest.mark.parametrize("offsets", ["0123", 4, {0, 1, 2, 3}, iter([0, 1, 2, 3])])
def test_offsets_that_are_no_sequence_are_a_type_error(mux, abc, offsets):
    batch, peer = abc
    with pytest.raises(TypeError, match=r"offsets is a \w+; a sequence, or"):
        batch.reply_data(b"123456", offsets)
    batch.reply_data(b"123456", range(4))
    answer(mux, peer, b"1\n2\n3\n")


@pytest.mark.parametrize("data", ["123456", 6, None])
def test_data_that_is_not_bytes_is_refused(mux, abc, data):
    refused(mux, abc, TypeError, lambda batch: batch.reply_data(data))


def test_one_reply_a_batch(mux, abc):
    batch, peer = abc
    batch.reply([b"A", b"BB", b"CCC"])
    with pytest.raises(RuntimeError):
        batch.reply([b"x", b"x", b"x"])
    with pytest.raises(RuntimeError):
        batch.reply_data(batch.data)
    answer(mux, peer, b"A\nBB\nCCC\n")


def test_one_reply_data_a_batch(mux, abc):
    batch, peer = abc
    batch.reply_data(b"123456")
    with pytest.raises(RuntimeError):
        batch.reply([b"x", b"x", b"x"])
    answer(mux, peer, b"1\n23\n456\n")


def test_an_empty_batch_takes_an_empty_reply(mux):
    mux.harvest(0).reply([])
    mux.harvest(0).reply_data(b"")
    mux.harvest(0).reply_data(b"", [0])


def test_an_empty_batch_refuses_a_row(mux):
    with pytest.raises(ValueError):
        mux.harvest(0).reply([b"x"])


def test_a_fixed_reply_of_another_length_is_refused_whole(mux):
    conn, peer = pair(mux, pymux.Fixed(2))
    with peer:
        peer.sendall(b"aabbcc")
        batch = mux.harvest(5)
        with pytest.raises(ValueError):
            batch.reply([b"AA", b"BB", b"C"])
        conn.send(b"ok")
        answer(mux, peer, b"ok")


def test_fixed_reply_data_of_another_length_is_refused_whole(mux):
    conn, peer = pair(mux, pymux.Fixed(2))
    with peer:
        peer.sendall(b"aabbcc")
        batch = mux.harvest(5)
        with pytest.raises(ValueError):
            batch.reply_data(b"AABBC", [0, 2, 4, 5])
        conn.send(b"ok")
        answer(mux, peer, b"ok")


def test_a_reply_too_long_for_its_prefix_is_refused_whole(mux):
    conn, peer = pair(mux, pymux.LengthPrefix(1, max_size=255))
    with peer:
        peer.sendall(b"\1a\1b")
        batch = mux.harvest(5)
        with pytest.raises(ValueError):
            batch.reply([b"fits", b"x" * 256])
        conn.send(b"x" * 255)
        answer(mux, peer, b"\xff" + b"x" * 255)


def test_a_reply_to_a_connection_that_was_closed_is_discarded(mux, abc):
    batch, peer = abc
    batch.conns[0].close()
    batch.reply([b"A", b"BB", b"CCC"])
    mux.harvest(0)
    assert until_end(peer) == (b"", None)
    mux.harvest(0)
    assert mux.stats().discarded > 0


def test_a_reply_to_a_peer_that_is_gone_harms_nobody(mux, lines):
    conn, peer = lines
    other, far = pair(mux, pymux.Lines())
    with far:
        peer.sendall(b"near\n")
        far.sendall(b"far\n")
        batch = mux.harvest(5)
        assert len(batch) == 2
        conn.abort()
        batch.reply([data.upper() for _, data in batch])
        answer(mux, far, b"FAR\n")
        assert not other.closed


def test_a_subclass_of_bytes_can_be_sent_and_counts(mux):
    class Text(bytes):
        """Bytes with another name."""

    conn, peer = util.pair(mux)
    with peer:
        conn.send(Text(b"abc"))
        assert conn.queued == 3
        assert mux.send_many([conn], Text(b"de")) == 1
        assert conn.queued == 5
        mux.harvest(0)
        assert util.recv_exactly(peer, 5) == b"abcde"
        peer.sendall(b"question")
        while not len(batch := mux.harvest(1)):
            """Until it has come."""
        batch.reply([Text(b"answer")])
        mux.harvest(0)
        assert util.recv_exactly(peer, 6) == b"answer"
