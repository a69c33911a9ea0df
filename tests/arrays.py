"""Arrow's structs, as C hands them over, and batches to make them of."""

import contextlib
import ctypes
import gc
from itertools import pairwise

import pymux

from .util import pair


class Schema(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


class Array(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


def pointer_in(capsule, name):
    look = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    return look(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, name)


def schema_in(capsule):
    return Schema.from_address(pointer_in(capsule, b"arrow_schema"))


def array_in(capsule):
    return Array.from_address(pointer_in(capsule, b"arrow_array"))


def taken(capsule):
    """What a consumer has once it has taken the array out of the capsule."""
    inside = array_in(capsule)
    mine = Array.from_buffer_copy(inside)
    inside.release = None
    return mine


def release(struct):
    """Release it, as C does: by a call with its address, without the GIL."""
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(struct.release)(ctypes.addressof(struct))
    assert struct.release is None, "a released struct is marked so"


def rows_in(array):
    """The rows of an Arrow array of type binary."""
    ends = (ctypes.c_int32 * (array.length + 1)).from_address(array.buffers[1])
    return [ctypes.string_at(array.buffers[2] + a, b - a) for a, b in pairwise(ends)]


def held(mux):
    """How many arenas are held, whatever waits to be collected."""
    gc.collect()
    return mux.stats().arenas_held


@contextlib.contextmanager
def batches(mux):
    """For a block: call it with bytes, and it is the batch that holds them as lines."""
    conn, peer = pair(mux, pymux.Lines())

    def batch_of(data):
        peer.sendall(data)
        batch = mux.harvest(5)
        assert len(batch) == data.count(b"\n"), "loopback delivers a small send at once"
        return batch

    batch_of.conn, batch_of.peer = conn, peer
    with peer:
        yield batch_of


def overwrite(batch_of):
    """Enough harvests to use every arena there is again."""
    for k in range(20):
        batch_of(bytes([65 + k]) * 100 + b"\n")
