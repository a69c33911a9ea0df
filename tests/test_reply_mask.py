"""Rows without an answer in `reply_data`."""

import array

import pytest

import pymux

from .util import answer, pair, recv_exactly

MASKS = {
    "list": list,
    "tuple": tuple,
    "bytes": bytes,
    "array": lambda m: array.array("B", m),
    "numpy bool": lambda m: pytest.importorskip("numpy").array(m, dtype="bool"),
    "numpy uint8": lambda m: pytest.importorskip("numpy").array(m, dtype="uint8"),
}


@pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
def test_a_row_whose_entry_is_false_gets_no_answer(mux, abc, make):
    batch, peer = abc
    batch.reply_data(b"onetwothree", [0, 3, 6, 11], mask=make([1, 0, 1]))
    answer(mux, peer, b"one\nthree\n")


def test_a_mask_goes_with_the_cut_of_the_batch(mux, abc):
    batch, peer = abc
    batch.reply_data(bytes(batch.data).upper(), mask=[False, True, False])
    answer(mux, peer, b"BB\n")


def test_an_empty_piece_is_an_empty_frame_unless_the_mask_is_false(mux, abc):
    batch, peer = abc
    batch.reply_data(b"x", [0, 0, 0, 1], mask=[True, False, True])
    answer(mux, peer, b"\nx\n")


def test_a_mask_that_is_false_throughout_is_an_answer_of_nothing(mux, abc):
    batch, peer = abc
    batch.reply_data(b"", [0, 0, 0, 0], mask=[False] * 3)
    with pytest.raises(RuntimeError):
        batch.reply([None] * 3)
    answer(mux, peer, b"")
    assert mux.stats().messages_out == 0


def test_a_row_without_an_answer_is_not_counted_as_discarded(mux, abc):
    batch, peer = abc
    batch.reply_data(b"onetwothree", [0, 3, 6, 11], mask=[False, True, False])
    answer(mux, peer, b"two\n")
    stats = mux.stats()
    assert (stats.discarded, stats.messages_out) == (0, 1)


def test_what_is_not_sent_is_not_queued(mux, abc):
    batch, _ = abc
    conn = batch.conns[0]
    batch.reply_data(b"onetwothree", [0, 3, 6, 11], mask=[False, True, False])
    assert conn.queued == 3


def test_each_row_of_several_connections_has_its_own_entry(mux):
    ends = [pair(mux, pymux.Lines()) for _ in range(4)]
    for k, (_, sock) in enumerate(ends):
        sock.sendall(b"%d\n" % k)
    waiting = {conn for conn, _ in ends}
    while waiting:
        batch = mux.harvest(10)
        waiting -= set(batch.conns)
        batch.reply_data(batch.data, mask=[int(m) % 2 for m in batch.messages])
    for conn, _ in ends:
        conn.close()
    mux.harvest(0)
    for k, (_, sock) in enumerate(ends):
        expected = b"%d\n" % k if k % 2 else b""
        assert recv_exactly(sock, len(expected)) == expected
        assert sock.recv(1) == b""
        sock.close()


def test_a_piece_that_is_not_sent_may_have_any_size(mux):
    _conn, peer = pair(mux, pymux.Fixed(2))
    with peer:
        peer.sendall(b"aabbcc")
        batch = mux.harvest(5)
        while not batch.messages:
            batch = mux.harvest(5)
        assert len(batch) == 3
        with pytest.raises(ValueError, match="2"):
            batch.reply_data(b"AABCC", [0, 2, 3, 5], mask=[True, True, False])
        batch.reply_data(b"AABCC", [0, 2, 3, 5], mask=[True, False, True])
        answer(mux, peer, b"AACC")


def test_a_mask_is_any_sequence(mux, abc):
    batch, peer = abc
    batch.reply_data(batch.data, mask=range(3))  # 0 is false
    answer(mux, peer, b"bb\nccc\n")


@pytest.mark.parametrize("mask", [[True] * 2, [True] * 4, b"", []])
def test_a_mask_of_another_length_is_refused_whole(mux, abc, mask):
    batch, peer = abc
    with pytest.raises(ValueError, match="mask has"):
        batch.reply_data(b"onetwothree", [0, 3, 6, 11], mask=mask)
    batch.reply([b"1", b"2", b"3"])
    answer(mux, peer, b"1\n2\n3\n")


@pytest.mark.parametrize("mask", [7, True, object(), "abc"])
def test_a_mask_of_another_type_is_a_type_error(mux, abc, mask):
    batch, peer = abc
    with pytest.raises(TypeError, match="mask is a"):
        batch.reply_data(batch.data, mask=mask)
    batch.reply_data(batch.data)
    answer(mux, peer, b"a\nbb\nccc\n")


@pytest.mark.parametrize("code", ["d", "i", "q"])
def test_a_mask_of_numbers_is_refused(mux, abc, code):
    batch, peer = abc
    with pytest.raises(ValueError, match=f"mask has format '{code}'"):
        batch.reply_data(batch.data, mask=array.array(code, [1, 0, 1]))
    batch.reply_data(batch.data)
    answer(mux, peer, b"a\nbb\nccc\n")
