"""Views of a batch stay valid, read-only and unchanged for as long as they live."""

import gc

import pytest

import pymux

from .util import harvest_until, pair


@pytest.fixture
def stream(mux):
    """Call it with bytes: the batch that holds them as one row."""
    _conn, peer = pair(mux)

    def batch_with(data):
        peer.sendall(data)
        while True:
            batch = mux.harvest(5)
            if len(batch):
                assert batch.messages == [data]
                return batch

    yield batch_with
    peer.close()


def overwrite(stream, turns=20):
    """Enough harvests to use every arena there is again."""
    for k in range(turns):
        stream(bytes([65 + k]) * 3000)


def no_arena_held(mux):
    gc.collect()
    mux.harvest(0)
    return mux.stats().arenas_held == 0


def test_a_view_is_unchanged_by_later_harvests(stream):
    view = stream(b"keep me" * 400).data
    overwrite(stream)
    assert bytes(view) == b"keep me" * 400


def test_offsets_and_ids_are_unchanged_by_later_harvests(mux):
    conn, peer = pair(mux, pymux.Lines())
    with peer:
        peer.sendall(b"a\nbb\n")
        batch = mux.harvest(5)
        offsets, ids = batch.offsets, batch.ids
        for k in range(20):
            peer.sendall(b"x\n" * (k + 3))
            mux.harvest(5)
        assert offsets.tolist() == [0, 1, 3]
        assert ids.tolist() == [conn.id, conn.id]


def test_a_slice_outlives_the_view_it_came_from(stream):
    view = stream(b"0123456789" * 100).data
    part = view[5:15]
    view.release()
    del view
    gc.collect()
    overwrite(stream)
    assert bytes(part) == b"5678901234"


def test_a_numpy_array_outlives_the_view_it_came_from(stream):
    np = pytest.importorskip("numpy")
    view = stream(b"0123456789" * 100).data
    array = np.frombuffer(view, dtype=np.uint8)[10:20]
    del view
    gc.collect()
    overwrite(stream)
    assert array.tobytes() == b"0123456789"
    assert not array.flags.writeable


def test_numpy_reads_offsets_without_a_copy(mux):
    np = pytest.importorskip("numpy")
    _, peer = pair(mux, pymux.Lines())
    with peer:
        peer.sendall(b"a\nbb\n\n")
        batch = mux.harvest(5)
        offsets = np.asarray(batch.offsets)
        assert offsets.dtype == np.int32
        assert np.diff(offsets).tolist() == [1, 2, 0]
        assert np.asarray(batch.ids).dtype == np.uint64


def test_many_views_are_all_kept(stream):
    kept = []
    for k in range(60):
        data = b"%d " % k * 500
        kept.append((stream(data).data, data))
    overwrite(stream)
    for view, data in kept:
        assert bytes(view) == data


def test_a_cast_view_is_kept_too(stream):
    words = stream(b"abcd" * 100).data.cast("I")
    before = words.tolist()
    overwrite(stream)
    assert words.tolist() == before


def test_views_live_on_after_close(mux, stream):
    batch = stream(b"keep me" * 400)
    data, offsets, ids = batch.data, batch.offsets, batch.ids
    row = ids[0]
    del batch
    mux.close()
    gc.collect()
    assert bytes(data) == b"keep me" * 400
    assert offsets.tolist() == [0, 2800]
    assert ids.tolist() == [row]
    assert data.readonly


def test_views_outlive_the_mux_itself(backend):
    mux = pymux.Mux(backend)
    _conn, peer = pair(mux)
    with peer:
        peer.sendall(b"keep me")
        view = mux.harvest(5).data
        mux.close()
        del mux, _conn
        gc.collect()
    assert bytes(view) == b"keep me"


def test_held_arenas_are_counted(mux, stream):
    kept = [stream(b"x" * 100).data for _ in range(5)]
    mux.harvest(0)
    assert mux.stats().arenas_held >= 4  # whether the latest counts is left open
    assert len(kept) == 5


def test_arenas_are_free_again_when_the_views_are_gone(mux, stream):
    kept = [stream(b"x" * 100).data for _ in range(5)]
    mux.harvest(0)
    assert mux.stats().arenas_held
    kept.clear()
    harvest_until(mux, lambda acc: no_arena_held(mux))


def test_a_released_view_with_a_living_slice_is_still_held(mux, stream):
    view = stream(b"x" * 100).data
    part = view[1:2]
    view.release()
    del view
    gc.collect()
    mux.harvest(0)
    mux.harvest(0)
    assert mux.stats().arenas_held == 1
    assert bytes(part) == b"x"


def test_without_views_nothing_is_held(mux, stream):
    overwrite(stream, 50)  # messages only
    mux.harvest(0)
    assert mux.stats().arenas_held == 0


def test_held_views_do_not_stop_the_mux(mux, stream):
    kept = []
    for k in range(100):
        kept.append(stream(b"%d" % k).data)
    assert [bytes(view) for view in kept] == [b"%d" % k for k in range(100)]


def test_each_access_gives_the_same_bytes(stream):
    batch = stream(b"same")
    assert batch.data == batch.data
    assert bytes(batch.data) == b"same"


def test_a_batch_with_a_large_frame_keeps_its_view(mux):
    _conn, peer = pair(mux, pymux.Lines(max_size=1 << 20))
    big = b"0123456789abcdef" * 20_000
    with peer:
        peer.sendall(big + b"\n")
        batch = mux.harvest(5)
        while not len(batch):
            batch = mux.harvest(5)
        view = batch.data
        for k in range(10):
            peer.sendall(bytes([65 + k]) * 1000 + b"\n")
            mux.harvest(5)
        assert bytes(view) == big
