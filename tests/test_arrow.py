"""A batch's columns as Arrow arrays, without a copy, and Arrow arrays as answers."""

import ctypes
import gc
import sys
import threading

import pytest

import pymux

from .arrays import (
    array_in,
    batches,
    held,
    overwrite,
    release,
    rows_in,
    schema_in,
    taken,
)
from .interrupts import at_each_place, interrupted, needs_tracing
from .util import pair, recv_exactly

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="there are no capsules"
)


@pytest.fixture
def lines(mux):
    with batches(mux) as batch_of:
        yield batch_of


# --- without a library -----------------------------------------------------------


def test_messages_are_an_arrow_array_of_binary(lines):
    schema, array = lines(b"one\n\nthree\n").__arrow_c_array__()
    assert schema_in(schema).format == b"z"
    found = array_in(array)
    assert (found.length, found.null_count, found.offset) == (3, 0, 0)
    assert (found.n_buffers, found.n_children, found.buffers[0]) == (3, 0, None)
    assert rows_in(found) == [b"one", b"", b"three"]


def test_the_array_is_the_memory_of_the_batch(lines):
    batch = lines(b"one\ntwo\n")
    _, array = batch.__arrow_c_array__()
    data = (ctypes.c_char * 6).from_address(array_in(array).buffers[2])
    numpy = pytest.importorskip("numpy")
    ours = numpy.frombuffer(batch.data, "u1").__array_interface__["data"][0]
    assert ctypes.addressof(data) == ours


def test_ids_are_an_arrow_array_of_uint64(lines):
    batch = lines(b"one\ntwo\n")
    assert len(batch.arrow_ids) == 2
    schema, array = batch.arrow_ids.__arrow_c_array__()
    assert schema_in(schema).format == b"L"
    found = array_in(array)
    assert (found.length, found.n_buffers) == (2, 2)
    ids = (ctypes.c_uint64 * 2).from_address(found.buffers[1])
    assert list(ids) == batch.ids.tolist() == [lines.conn.id] * 2


def test_an_empty_batch_is_an_empty_array(mux):
    batch = mux.harvest(0)
    assert rows_in(array_in(batch.__arrow_c_array__()[1])) == []
    assert array_in(batch.arrow_ids.__arrow_c_array__()[1]).length == 0


def test_delimiters_that_were_kept_are_taken_out_first(lines):
    for _ in range(3):  # the mux sees that only rows are used, and keeps delimiters
        assert lines(b"one\ntwo\n").messages == [b"one", b"two"]
    batch = lines(b"one\ntwo\n")
    assert rows_in(array_in(batch.__arrow_c_array__()[1])) == [b"one", b"two"]
    assert batch.messages == [b"one", b"two"]


def test_an_array_is_unchanged_by_later_harvests(lines):
    array = taken(lines(b"keep\nme\n").__arrow_c_array__()[1])
    overwrite(lines)
    assert rows_in(array) == [b"keep", b"me"]
    release(array)


def test_ids_are_unchanged_by_later_harvests(lines):
    ids = lines(b"one\ntwo\n").arrow_ids
    overwrite(lines)
    array = array_in(ids.__arrow_c_array__()[1])
    found = (ctypes.c_uint64 * 2).from_address(array.buffers[1])
    assert list(found) == [lines.conn.id] * 2


def test_an_array_outlives_the_mux(lines, mux):
    array = taken(lines(b"keep\nme\n").__arrow_c_array__()[1])
    mux.close()
    gc.collect()
    assert rows_in(array) == [b"keep", b"me"]
    release(array)


def test_an_array_is_held_until_its_release(lines, mux):
    array = taken(lines(b"one\n").__arrow_c_array__()[1])
    assert held(mux) == 1
    overwrite(lines)
    assert held(mux) == 1
    release(array)
    assert held(mux) == 0


def test_each_array_of_a_batch_holds_it(lines, mux):
    batch = lines(b"one\n")
    arrays = [taken(batch.__arrow_c_array__()[1]) for _ in range(3)]
    ids = taken(batch.arrow_ids.__arrow_c_array__()[1])
    del batch
    for array in arrays:
        release(array)
        assert held(mux) == 1
    release(ids)
    assert held(mux) == 0


def test_a_capsule_that_nobody_takes_is_released_with_its_object(lines, mux):
    batch = lines(b"one\n")
    capsules = batch.__arrow_c_array__()
    del batch
    assert held(mux) == 1
    del capsules
    assert held(mux) == 0


def test_a_capsule_in_a_cycle_is_released_by_the_collector(lines, mux):
    cycle = [lines(b"one\n").__arrow_c_array__()]
    cycle.append(cycle)
    lines(b"two\n")
    assert mux.stats().arenas_held == 1
    del cycle
    assert held(mux) == 0


def test_a_capsule_whose_array_was_taken_does_not_release_it(lines, mux):
    capsules = lines(b"one\n").__arrow_c_array__()
    array = taken(capsules[1])
    del capsules
    assert held(mux) == 1
    overwrite(lines)
    assert rows_in(array) == [b"one"]
    release(array)
    assert held(mux) == 0


def test_a_capsule_whose_array_was_released_does_not_release_it_again(lines, mux):
    batch = lines(b"one\n")
    capsules, other = batch.__arrow_c_array__(), taken(batch.__arrow_c_array__()[1])
    release(array_in(capsules[1]))
    del capsules, batch
    assert held(mux) == 1  # by the other array
    release(other)
    assert held(mux) == 0


def test_arrays_are_released_in_any_thread(lines, mux):
    batch = lines(b"one\n")
    arrays = [taken(batch.__arrow_c_array__()[1]) for _ in range(200)]
    del batch
    threads = [
        threading.Thread(target=lambda mine: [release(a) for a in mine], args=[mine])
        for mine in (arrays[::2], arrays[1::2])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(mux) == 0


@needs_tracing
def test_an_array_that_is_interrupted_while_it_is_made_holds_nothing(lines, mux):
    lines(b"one\n").__arrow_c_array__()  # what is made once for all is there

    def scene(nth):
        batch = lines(b"one\n")
        where, capsules = interrupted(batch.__arrow_c_array__, nth)
        assert (capsules is None) is (where is not None)
        del capsules, batch
        assert mux.stats().arenas_held == 0, where
        return where

    assert at_each_place(scene) > 10


def test_more_arrays_than_arenas_in_reserve_are_counted_and_kept(lines, mux):
    arrays = []
    for k in range(12):
        arrays.append(taken(lines(b"%d\n" % k).__arrow_c_array__()[1]))
    assert held(mux) == 12
    assert [rows_in(array) for array in arrays] == [[b"%d" % k] for k in range(12)]
    for array in arrays:
        release(array)
    assert held(mux) == 0


def test_a_view_and_an_array_of_one_batch_count_once(lines, mux):
    kept = []
    for k in range(8):
        batch = lines(b"%d\n" % k)
        kept.append((batch.data, taken(batch.__arrow_c_array__()[1])))
    del batch
    lines(b"last\n")
    assert held(mux) == 8
    while kept:
        view, array = kept.pop()
        release(array)
        del array
        assert held(mux) == len(kept) + 1
        del view
        assert held(mux) == len(kept)


def test_a_large_message_is_an_array_of_its_own_memory(mux):
    _, peer = pair(mux, pymux.LengthPrefix())
    data = bytes(range(256)) * 1024
    with peer:
        peer.sendall(len(data).to_bytes(4, "big") + data)
        while not len(batch := mux.harvest(5)):
            pass
        array = taken(batch.__arrow_c_array__()[1])
        del batch
        mux.harvest(0)
        assert rows_in(array) == [data]
        assert held(mux) == 1
        release(array)
        assert held(mux) == 0


def test_a_batch_that_is_over_makes_no_array(lines, mux):
    batch = lines(b"one\n")
    mux.harvest(0)
    for column in (batch.__arrow_c_array__, lambda: batch.arrow_ids):
        with pytest.raises(ValueError, match="this batch is over"):
            column()


def test_messages_of_a_splitter_make_no_array(mux):
    splitter = pymux.Splitter(lambda: bytes.split)
    _, peer = pair(mux, splitter)
    with peer:
        peer.sendall(b"one two ")
        while not (batch := mux.harvest(5)):
            pass
        for column in batch.__arrow_c_array__, lambda: batch.arrow_ids:
            with pytest.raises(TypeError, match="no columns"):
                column()


# --- with a library ------------------------------------------------------------------


@pytest.fixture(scope="module")
def pa():
    return pytest.importorskip("pyarrow")


def test_pyarrow_takes_messages_and_ids(lines, mux, pa):
    batch = lines(b"one\n\nthree\n")
    messages, ids = pa.array(batch), pa.array(batch.arrow_ids)
    numpy = pytest.importorskip("numpy")
    ours = numpy.frombuffer(batch.data, "u1").__array_interface__["data"][0]
    assert messages.buffers()[2].address == ours
    del batch, ours
    overwrite(lines)
    messages.validate(full=True)
    assert (messages.type, ids.type) == (pa.binary(), pa.uint64())
    assert messages.to_pylist() == [b"one", b"", b"three"]
    assert ids.to_pylist() == [lines.conn.id] * 3
    assert held(mux) == 1
    del messages, ids
    assert held(mux) == 0


def test_pyarrow_casts_messages_to_text(lines, pa):
    batch = lines("grün\n".encode())
    assert pa.array(batch).cast(pa.string()).to_pylist() == ["grün"]
    array = taken(batch.__arrow_c_array__(pa.string().__arrow_c_schema__())[1])
    assert rows_in(array) == ["grün".encode()]  # as without a request
    release(array)


@pytest.mark.parametrize("kind", ["binary", "large_binary", "string", "large_string"])
def test_replies_are_taken_from_an_arrow_array(lines, mux, pa, kind):
    lines(b"a\nb\nc\n").reply_data(pa.array(["one", "", "three"], getattr(pa, kind)()))
    mux.harvest(0)
    assert recv_exactly(lines.peer, 11) == b"one\n\nthree\n"


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_a_slice_of_an_arrow_array_answers_with_its_own_rows(lines, mux, pa, kind):
    array = pa.array([b"skip", b"one", b"two", b"end"], getattr(pa, kind)())[1:3]
    lines(b"a\nb\n").reply_data(array)
    mux.harvest(0)
    assert recv_exactly(lines.peer, 8) == b"one\ntwo\n"


def test_a_null_row_is_no_answer(lines, mux, pa):
    array = pa.array([b"skip", None, b"one", None, b""] + [None] * 9 + [b"end"])[1:]
    lines(b"x\n" * 14).reply_data(array)
    mux.harvest(0)
    assert recv_exactly(lines.peer, 9) == b"one\n\nend\n"
    lines(b"x\n").reply([b"next"])
    mux.harvest(0)
    assert recv_exactly(lines.peer, 5) == b"next\n"


def test_a_batch_answers_itself(lines, mux):
    batch = lines(b"one\n\nthree\n")
    batch.reply_data(batch)
    mux.harvest(0)
    assert recv_exactly(lines.peer, 11) == b"one\n\nthree\n"


def test_an_empty_arrow_array_answers_an_empty_batch(mux, pa):
    mux.harvest(0).reply_data(pa.array([], pa.binary()))


def test_an_arrow_array_of_another_length_is_refused(lines, mux, pa):
    batch = lines(b"a\nb\n")
    with pytest.raises(ValueError, match="3 rows for 2 messages"):
        batch.reply_data(pa.array([b"a", b"b", b"c"]))
    batch.reply_data(pa.array([b"a", b"b"]))  # nothing was answered
    mux.harvest(0)
    assert recv_exactly(lines.peer, 4) == b"a\nb\n"


def test_an_arrow_array_of_another_type_is_refused(lines, pa):
    batch = lines(b"a\nb\n")
    texts = pa.array(["a", "a"])
    for array in (pa.array([1, 2]), texts.dictionary_encode(), pa.array([[b"a"]] * 2)):
        with pytest.raises(TypeError, match="cast the array"):
            batch.reply_data(array)


def test_an_array_of_several_chunks_is_refused(lines, pa):
    batch = lines(b"a\nb\n")
    with pytest.raises(TypeError, match="combine_chunks"):
        batch.reply_data(pa.chunked_array([[b"a"], [b"b"]]))


def test_a_row_that_the_framing_cannot_carry_is_refused(mux, pa):
    _, peer = pair(mux, pymux.Fixed(2))
    with peer:
        peer.sendall(b"aabb")
        while len(batch := mux.harvest(5)) != 2:
            pass
        with pytest.raises(ValueError, match="2"):
            batch.reply_data(pa.array([b"aa", b"bbb"]))
        batch.reply_data(pa.array([b"AA", b"BB"]))
        mux.harvest(0)
        assert recv_exactly(peer, 4) == b"AABB"


def test_the_array_that_was_answered_with_is_released(lines, mux, pa):
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    for kept in (False, True):
        array = pa.array([b"x" * 100_000, None if kept else b"y"])
        lines(b"a\nb\n").reply_data(array)
        del array
        gc.collect()
        assert pool.bytes_allocated() == before
        mux.harvest(0)
        assert recv_exactly(lines.peer, 100_001) == b"x" * 100_000 + b"\n"
        if not kept:
            assert recv_exactly(lines.peer, 2) == b"y\n"
