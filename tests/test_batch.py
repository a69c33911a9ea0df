"""The columns of a batch."""

import contextlib

import pytest

import pymux

from .util import harvest_until, pair, reset


@pytest.fixture
def lines(mux):
    """(Connection, socket) with line framing."""
    conn, peer = pair(mux, pymux.Lines())
    yield conn, peer
    peer.close()


def batch_of(mux, peer, data, rows):
    """The batch of a single harvest that holds `rows` messages."""
    peer.sendall(data)
    batch = mux.harvest(5)
    assert len(batch) == rows, "loopback delivers one small send at once"
    return batch


def test_iterating_gives_connections_and_bytes(mux, lines):
    conn, peer = lines
    batch = batch_of(mux, peer, b"one\ntwo\n", 2)
    assert list(batch) == [(conn, b"one"), (conn, b"two")]
    assert list(batch) == [(conn, b"one"), (conn, b"two")]  # and again
    assert all(type(data) is bytes for _, data in batch)


def test_messages_are_a_list_of_bytes(mux, lines):
    _, peer = lines
    batch = batch_of(mux, peer, b"one\n\nthree\n", 3)
    assert batch.messages == [b"one", b"", b"three"]
    assert all(type(data) is bytes for data in batch.messages)


def test_conns_are_a_list_with_one_row_a_message(mux, lines):
    conn, peer = lines
    batch = batch_of(mux, peer, b"one\ntwo\n", 2)
    assert type(batch.conns) is list
    assert all(row is conn for row in batch.conns)
    assert len(batch.conns) == 2


def test_data_is_every_payload_back_to_back(mux, lines):
    _, peer = lines
    batch = batch_of(mux, peer, b"one\n\nthree\n", 3)
    assert isinstance(batch.data, memoryview)
    assert batch.data.format == "B"
    assert batch.data.contiguous
    assert bytes(batch.data) == b"onethree"


def test_offsets_are_int32_and_one_longer(mux, lines):
    _, peer = lines
    batch = batch_of(mux, peer, b"one\n\nthree\n", 3)
    assert isinstance(batch.offsets, memoryview)
    assert (batch.offsets.format, batch.offsets.itemsize) == ("i", 4)
    assert batch.offsets.tolist() == [0, 3, 3, 8]


def test_message_k_is_between_offsets_k_and_k_plus_1(mux, lines):
    _, peer = lines
    batch = batch_of(mux, peer, b"a\nbb\n\nccc\n", 4)
    data, offsets = batch.data, batch.offsets
    rows = [bytes(data[offsets[k] : offsets[k + 1]]) for k in range(len(batch))]
    assert rows == batch.messages


def test_ids_are_uint64_and_name_the_connections(mux, lines):
    conn, peer = lines
    other, far = pair(mux, pymux.Lines())
    with far:
        far.sendall(b"far\n")
        batch = batch_of(mux, peer, b"near\nnear\n", 3)
        assert (batch.ids.format, batch.ids.itemsize) == ("Q", 8)
        assert batch.ids.tolist() == [row.id for row in batch.conns]
        assert sorted(set(batch.ids)) == sorted({conn.id, other.id})


@pytest.mark.parametrize("column", ["data", "offsets", "ids"])
def test_a_column_is_read_only(mux, lines, column):
    _, peer = lines
    batch = batch_of(mux, peer, b"one\n", 1)
    view = getattr(batch, column)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


def test_an_empty_batch_has_empty_columns(mux):
    batch = mux.harvest(0)
    assert len(batch) == 0
    assert (list(batch), batch.messages, batch.conns) == ([], [], [])
    assert (batch.data.nbytes, batch.ids.nbytes) == (0, 0)
    assert batch.offsets.tolist() == [0]
    assert (batch.opened, batch.drained, batch.ended, batch.closed) == ([], [], [], [])


def test_an_empty_batch_is_a_batch(mux):
    assert isinstance(mux.harvest(0), pymux.Batch)


def test_framing_is_removed_from_every_column(mux):
    _conn, peer = pair(mux, pymux.LengthPrefix(2))
    with peer:
        batch = batch_of(mux, peer, b"\0\3abc\0\0\0\1d", 3)
        assert bytes(batch.data) == b"abcd"
        assert batch.offsets.tolist() == [0, 3, 3, 4]
        assert batch.messages == [b"abc", b"", b"d"]


def test_raw_input_is_one_row_a_piece(mux):
    conn, peer = pair(mux)
    with peer:
        batch = batch_of(mux, peer, b"whatever\ncame", 1)
        assert list(batch) == [(conn, b"whatever\ncame")]


def test_rows_of_several_connections_keep_each_ones_order(mux):
    ends = [pair(mux, pymux.Lines()) for _ in range(20)]
    for k, (_, peer) in enumerate(ends):
        peer.sendall(b"".join(b"%d:%d\n" % (k, n) for n in range(50)))
    acc = harvest_until(mux, lambda acc: len(acc.messages) == 1000)
    for k, (conn, peer) in enumerate(ends):
        peer.close()
        rows = [data for c, data in acc.messages if c is conn]
        assert rows == [b"%d:%d" % (k, n) for n in range(50)]


def test_opened_lists_each_new_connection_once(mux):
    listener = mux.listen(("127.0.0.1", 0))
    out = [mux.connect(listener.address) for _ in range(5)]
    acc = harvest_until(mux, lambda acc: len(acc.opened) == 10)
    assert len(set(acc.opened)) == 10
    assert set(out) < set(acc.opened)
    assert all(isinstance(conn, pymux.Connection) for conn in acc.opened)


def test_a_connection_opens_before_or_with_its_first_message(mux):
    listener = mux.listen(("127.0.0.1", 0))
    out = mux.connect(listener.address)
    out.send(b"early")
    acc = harvest_until(mux, lambda acc: acc.messages)
    conn, data = acc.messages[0]
    assert data == b"early"
    assert conn in acc.opened


def test_closed_lists_each_connection_once_with_its_cause(mux):
    ended, peer_a = pair(mux)
    broken, peer_b = pair(mux)
    ours, peer_c = pair(mux)
    peer_a.close()
    reset(peer_b)
    ours.abort()
    acc = harvest_until(mux, lambda acc: len(acc.closed) == 3)
    for _ in range(5):
        acc.add(mux.harvest(0))
    peer_c.close()
    assert len(acc.closed) == 3
    assert acc.error(ended) is None
    assert isinstance(acc.error(broken), ConnectionResetError)
    assert acc.error(ours) is None


def test_many_connections_closing_at_once_are_all_reported(mux):
    ends = [pair(mux) for _ in range(200)]
    for _, peer in ends:
        peer.close()
    acc = harvest_until(mux, lambda acc: len(acc.closed) == 200)
    assert {conn for conn, _ in acc.closed} == {conn for conn, _ in ends}


def test_an_old_batch_keeps_its_length_and_lists(mux, lines):
    conn, peer = lines
    batch = batch_of(mux, peer, b"one\n", 1)
    messages, conns = batch.messages, batch.conns
    mux.harvest(0)
    assert messages == [b"one"]
    assert conns == [conn]


@pytest.mark.parametrize(
    "access",
    [
        lambda batch: batch.data,
        lambda batch: batch.offsets,
        lambda batch: batch.ids,
        lambda batch: batch.messages,
        lambda batch: list(batch),
        lambda batch: batch.reply([b"x"]),
        lambda batch: batch.reply_data(b"one"),
        lambda batch: batch.reply_data(b"one", [0, 3]),
    ],
    ids=[
        "data",
        "offsets",
        "ids",
        "messages",
        "iteration",
        "reply",
        "reply_data",
        "with_offsets",
    ],
)
def test_an_old_batch_refuses_access(mux, lines, access):
    _, peer = lines
    batch = batch_of(mux, peer, b"one\n", 1)
    mux.harvest(0)
    with pytest.raises(ValueError):
        access(batch)


@pytest.mark.parametrize("column", ["data", "offsets", "ids"])
def test_a_column_that_was_read_is_refused_through_an_old_batch(mux, lines, column):
    _, peer = lines
    batch = batch_of(mux, peer, b"one\n", 1)
    getattr(batch, column)
    mux.harvest(0)
    with pytest.raises(ValueError):
        getattr(batch, column)


def test_an_iterator_begun_before_the_next_harvest_is_refused_or_right(mux, lines):
    conn, peer = lines
    batch = batch_of(mux, peer, b"one\ntwo\n", 2)
    rows = iter(batch)
    assert next(rows) == (conn, b"one")
    peer.sendall(b"other\n")
    mux.harvest(5)
    with contextlib.suppress(ValueError):
        assert next(rows) == (conn, b"two")


def test_a_connection_in_an_old_batch_is_still_the_connection(mux, lines):
    conn, peer = lines
    batch = batch_of(mux, peer, b"one\n", 1)
    rows = batch.conns
    mux.harvest(0)
    assert rows[0] is conn
