"""A batch's columns as Arrow streams of one array, without a copy."""

import concurrent.futures
import ctypes
import sys

import pytest

import pymux

from .arrays import (
    Array,
    Schema,
    batches,
    held,
    overwrite,
    pointer_in,
    release,
    rows_in,
)
from .interrupts import at_each_place, interrupted, needs_tracing
from .util import pair

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="there are no capsules"
)


@pytest.fixture
def lines(mux):
    with batches(mux) as batch_of:
        yield batch_of


class Stream(ctypes.Structure):
    _fields_ = (
        ("get_schema", ctypes.c_void_p),
        ("get_next", ctypes.c_void_p),
        ("get_last_error", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )

    def into(self, struct):
        """The schema or the next array, as C asks for it, without the GIL."""
        get = self.get_schema if isinstance(struct, Schema) else self.get_next
        call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(get)
        assert call(ctypes.addressof(self), ctypes.addressof(struct)) == 0
        return struct


def stream_in(capsule):
    return Stream.from_address(pointer_in(capsule, b"arrow_array_stream"))


def taken(capsule):
    """What a consumer has once it has taken the stream out of the capsule."""
    inside = stream_in(capsule)
    mine = Stream.from_buffer_copy(inside)
    inside.release = None
    return mine


def test_messages_are_a_stream_of_one_array_of_binary(lines, mux):
    stream = taken(lines(b"one\n\nthree\n").__arrow_c_stream__())
    schema, array = stream.into(Schema()), stream.into(Array())
    assert schema.format == b"z"
    release(schema)
    assert rows_in(array) == [b"one", b"", b"three"]
    for _ in range(2):
        assert stream.into(Array()).release is None, "the end of the stream"
    release(stream)
    assert rows_in(array) == [b"one", b"", b"three"]
    assert held(mux) == 1
    release(array)
    assert held(mux) == 0


def test_ids_are_a_stream_of_one_array_of_uint64(lines):
    stream = taken(lines(b"one\ntwo\n").arrow_ids.__arrow_c_stream__())
    schema, array = stream.into(Schema()), stream.into(Array())
    assert schema.format == b"L"
    ids = (ctypes.c_uint64 * 2).from_address(array.buffers[1])
    assert list(ids) == [lines.conn.id] * 2
    for struct in schema, array, stream:
        release(struct)


def test_an_empty_batch_is_a_stream_of_an_empty_array(mux):
    capsule = mux.harvest(0).__arrow_c_stream__()
    array = stream_in(capsule).into(Array())
    assert rows_in(array) == []
    release(array)


def test_a_stream_is_unchanged_by_later_harvests_and_outlives_the_mux(lines, mux):
    stream = taken(lines(b"keep\nme\n").__arrow_c_stream__())
    overwrite(lines)
    assert held(mux) == 1
    mux.close()
    array = stream.into(Array())
    release(stream)
    assert rows_in(array) == [b"keep", b"me"]
    release(array)


def test_a_stream_of_which_nothing_is_taken_holds_the_batch_until_its_release(
    lines, mux
):
    stream = taken(lines(b"one\n").__arrow_c_stream__())
    overwrite(lines)
    assert held(mux) == 1
    release(stream)
    assert held(mux) == 0


def test_a_capsule_that_nobody_takes_is_released_with_its_object(lines, mux):
    batch = lines(b"one\n")
    capsule = batch.__arrow_c_stream__()
    del batch
    assert held(mux) == 1
    del capsule
    assert held(mux) == 0


def test_a_capsule_whose_stream_was_taken_does_not_release_it(lines, mux):
    capsule = lines(b"one\n").__arrow_c_stream__()
    stream = taken(capsule)
    del capsule
    assert held(mux) == 1
    array = stream.into(Array())
    assert rows_in(array) == [b"one"]
    release(array)
    assert held(mux) == 1
    release(stream)
    assert held(mux) == 0


def test_a_capsule_whose_stream_was_released_does_not_release_it_again(lines, mux):
    batch = lines(b"one\n")
    capsule, other = batch.__arrow_c_stream__(), taken(batch.__arrow_c_stream__())
    release(stream_in(capsule))
    del capsule, batch
    assert held(mux) == 1  # by the other stream
    release(other)
    assert held(mux) == 0


@needs_tracing
def test_a_stream_that_is_interrupted_while_it_is_made_holds_nothing(lines, mux):
    lines(b"one\n").__arrow_c_stream__()  # what is made once for all is there

    def scene(nth):
        batch = lines(b"one\n")
        where, capsule = interrupted(batch.__arrow_c_stream__, nth)
        assert (capsule is None) is (where is not None)
        del capsule, batch
        assert mux.stats().arenas_held == 0, where
        return where

    assert at_each_place(scene) > 8


def test_a_batch_that_is_over_makes_no_stream(lines, mux):
    batch = lines(b"one\n")
    mux.harvest(0)
    for column in batch.__arrow_c_stream__, lambda: batch.arrow_messages:
        with pytest.raises(ValueError, match="this batch is over"):
            column()


def test_messages_of_a_splitter_make_no_stream(mux):
    _, peer = pair(mux, pymux.Splitter(lambda: bytes.split))
    with peer:
        peer.sendall(b"one two ")
        while not (batch := mux.harvest(5)):
            pass
        for column in batch.__arrow_c_stream__, lambda: batch.arrow_messages:
            with pytest.raises(TypeError, match="no columns"):
                column()


def test_a_batch_is_its_own_threads_and_its_columns_are_any_threads(lines, mux):
    batch = lines(b"one\ntwo\n")
    columns = batch.arrow_messages, batch.arrow_ids
    with concurrent.futures.ThreadPoolExecutor() as threads:
        with pytest.raises(RuntimeError, match="belongs to the thread"):
            threads.submit(batch.__arrow_c_stream__).result()
        del batch
        overwrite(lines)
        for column in columns:
            taking = [threads.submit(column.__arrow_c_stream__) for _ in range(50)]
            streams = [taken(one.result()) for one in taking]
            arrays = [stream.into(Array()) for stream in streams]
            assert {array.length for array in arrays} == {2}
            if column is columns[0]:
                assert [rows_in(array) for array in arrays] == [[b"one", b"two"]] * 50
            for struct in streams + arrays:
                threads.submit(release, struct).result()
    del column, columns, taking
    assert held(mux) == 0


def test_messages_in_a_column_have_no_delimiters(lines):
    for _ in range(3):  # the mux sees that only rows are used, and keeps delimiters
        assert lines(b"one\ntwo\n").messages == [b"one", b"two"]
    capsule = lines(b"one\ntwo\n").arrow_messages.__arrow_c_stream__()
    array = stream_in(capsule).into(Array())
    assert rows_in(array) == [b"one", b"two"]
    release(array)


# --- with a library ------------------------------------------------------------------


def test_pyarrow_takes_messages_and_ids_as_chunks(lines, mux):
    pa = pytest.importorskip("pyarrow")
    batch = lines(b"one\n\nthree\n")
    messages, ids = pa.chunked_array(batch), pa.chunked_array(batch.arrow_ids)
    del batch
    overwrite(lines)
    messages.validate(full=True)
    assert (messages.type, ids.type) == (pa.binary(), pa.uint64())
    assert messages.num_chunks == ids.num_chunks == 1
    assert messages.to_pylist() == [b"one", b"", b"three"]
    assert ids.to_pylist() == [lines.conn.id] * 3
    assert held(mux) == 1
    del messages, ids
    assert held(mux) == 0


def test_duckdb_scans_messages_in_its_threads(lines, mux):
    duckdb = pytest.importorskip("duckdb")

    def query(what):
        messages = lines(b"one\n\nthree\n").arrow_messages  # the query names it
        assert len(messages) == 3
        with duckdb.connect() as db:
            return db.sql(f"SELECT {what} FROM messages").fetchall()

    assert query("*") == [(b"one",), (b"",), (b"three",)]
    assert query("count(*)") == [(3,)]
    lines(b"next\n")
    assert held(mux) == 0


def test_polars_takes_a_batch(lines, mux):
    pl = pytest.importorskip("polars")
    assert pl.Series(lines(b"one\n\nthree\n")).to_list() == [b"one", b"", b"three"]
    assert held(mux) == 0
