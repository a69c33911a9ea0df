"""Framings of real protocols: frames as these send them, cut from the stream."""

import asyncio
import ctypes
import errno
import shutil
import subprocess
import sys

import pytest

import pymux
from pymux import LengthPrefix, Scanner, Varint

from . import util
from .util import FORMS, harvest_until, in_form, pair, recv_exactly, serving

POSTGRES = LengthPrefix(4, offset=1, adjust=-4, keep_head=True)
AMQP = LengthPrefix(4, offset=3, adjust=1, keep_head=True)
MYSQL = LengthPrefix(3, "little", adjust=1, keep_head=True)
HTTP2 = LengthPrefix(3, max_size=16384 + 9, adjust=6, keep_head=True)
MQTT = Varint(offset=1, keep_head=True)

TOO_LONG, BROKEN = errno.EMSGSIZE, errno.EPROTO

# name: framing, its frames, what stands around a message, bytes that are no frame
# and the errno that they end the connection with
PROTOCOLS = {
    "postgres": (
        POSTGRES,
        [
            b"R\0\0\0\x08\0\0\0\0",  # AuthenticationOk
            b"S\0\0\0\x19client_encoding\0UTF8\0",  # ParameterStatus
            b"K\0\0\0\x0c\0\0\x1f\x40\xde\xad\xbe\xef",  # BackendKeyData
            b"Z\0\0\0\x05I",  # ReadyForQuery
            b"1\0\0\0\x04",  # ParseComplete: nothing behind the length
            b"D\0\0\x10\x12\0\1" + (4104).to_bytes(4, "big") + b"x" * 4104,
        ],
        (0, 0),
        (b"Z\0\0\0\x03", BROKEN),  # less than the length itself
    ),
    "postgres, too long": (
        POSTGRES,
        [b"Z\0\0\0\x05I"],
        (0, 0),
        (b"D\x7f\xff\xff\xff", TOO_LONG),
    ),
    "kafka": (
        LengthPrefix(),
        [
            # ApiVersions, version 0, of the client "kcat", and its answer
            b"\0\0\0\x0e" + b"\0\x12\0\0\0\0\0\x01\0\x04kcat",
            b"\0\0\0\x10" + b"\0\0\0\x01\0\0\0\0\0\x01\0\x12\0\0\0\x03",
        ],
        (4, 0),
        (b"\xff\xff\xff\xff", TOO_LONG),
    ),
    "mqtt": (
        MQTT,
        [
            b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03abc",  # CONNECT
            b"\x20\x02\0\0",  # CONNACK
            b"\x30\xac\x02\0\x05topic" + b"p" * 293,  # PUBLISH, two length bytes
            b"\x30\x87\x80\x01\0\x05topic" + b"p" * 16384,  # and three
            b"\xc0\0",  # PINGREQ
            b"\xe0\0",  # DISCONNECT
        ],
        (0, 0),
        (b"\x30\xff\xff\xff\xff\xff\x01", BROKEN),
    ),
    "mqtt, too long": (MQTT, [b"\xd0\0"], (0, 0), (b"\x30\xff\xff\xff\x7f", TOO_LONG)),
    "amqp": (
        AMQP,
        [
            # connection.tune-ok, a heartbeat, a body
            b"\x01\0\0\0\0\0\x0c" + b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\x3c" + b"\xce",
            b"\x08\0\0\0\0\0\0" + b"\xce",
            b"\x03\0\x01\0\0\x02\x58" + b"m" * 600 + b"\xce",
        ],
        (0, 0),
        (b"\x03\0\x01\xff\xff\xff\xff", TOO_LONG),
    ),
    "mysql": (
        MYSQL,
        [
            b"\x21\0\0\0" + b"\x03select @@version_comment limit 1",  # COM_QUERY
            b"\x07\0\0\x01" + b"\0\0\0\x02\0\0\0",  # OK
            b"\x01\0\0\0" + b"\x0e",  # COM_PING
            b"\0\0\0\x05",  # an empty packet ends a long one
            b"\x2c\x01\0\x01" + b"r" * 300,
        ],
        (0, 0),
        (b"\xff\xff\xff\0", TOO_LONG),
    ),
    "http2": (
        HTTP2,
        [
            b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x64",  # SETTINGS
            b"\0\0\0\x04\x01\0\0\0\0",  # SETTINGS, acknowledged
            b"\0\0\x08\x06\0\0\0\0\0" + b"12345678",  # PING
            b"\0\0\x04\x08\0\0\0\0\0" + b"\0\x0f\0\x01",  # WINDOW_UPDATE
            b"\0\x40\0\0\x01\0\0\0\x01" + b"d" * 16384,  # DATA, as large as it gets
        ],
        (0, 0),
        (b"\0\x40\x01\0\0\0\0\0\x01", TOO_LONG),
    ),
    "protobuf": (
        Varint(),
        [
            b"\x03\x08\x96\x01",  # {1: 150}
            b"\x09\x12\x07testing",  # {2: "testing"}
            b"\x00",  # an empty message
            b"\xaf\x02\x0a\xac\x02" + b"z" * 300,
        ],
        None,
        (b"\x80\x80\x80\x80\x80\x01", BROKEN),
    ),
    "protobuf, too long": (
        Varint(max_size=100),
        [b"\x02\x08\x01"],
        None,
        (b"\x65", TOO_LONG),
    ),
}

CASES = pytest.mark.parametrize("name", PROTOCOLS)


def messages_of(name):
    """What a handler gets of the frames."""
    _framing, frames, around, _hostile = PROTOCOLS[name]
    if around is None:  # a varint: as long as its bytes go on
        heads = [next(k for k, byte in enumerate(f) if byte < 128) + 1 for f in frames]
        return [f[head:] for f, head in zip(frames, heads, strict=True)]
    head, tail = around
    return [f[head : len(f) - tail] for f in frames]


@CASES
def test_frames_that_come_together_are_cut(mux, name):
    framing, frames, _around, _hostile = PROTOCOLS[name]
    conn, peer = pair(mux, framing)
    with peer:
        peer.sendall(b"".join(frames))
        acc = harvest_until(mux, lambda acc: len(acc.messages) == len(frames))
        assert acc.payloads == messages_of(name)
        conn.abort()


@CASES
def test_frames_that_come_byte_by_byte_are_cut(mux, name):
    framing, frames, _around, _hostile = PROTOCOLS[name]
    conn, peer = pair(mux, framing)
    stream = b"".join(frame for frame in frames if len(frame) < 1000)
    few = [m for m, f in zip(messages_of(name), frames, strict=True) if len(f) < 1000]
    got = []
    with peer:
        for byte in stream:
            peer.sendall(bytes([byte]))
            got += [data for _conn, data in mux.harvest(0)]
        while len(got) < len(few):
            got += [data for _conn, data in mux.harvest(5.0)]
        assert got == few
        conn.abort()


@CASES
def test_a_hostile_length_ends_the_connection_behind_the_frames_before(mux, name):
    framing, frames, _around, (hostile, error) = PROTOCOLS[name]
    _conn, peer = pair(mux, framing)
    with peer:
        peer.sendall(frames[0] + hostile)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.payloads == messages_of(name)[:1]
        assert acc.closed[0][1].errno == error


@CASES
def test_half_a_frame_at_the_end_is_an_error(mux, name):
    framing, frames, _around, _hostile = PROTOCOLS[name]
    _conn, peer = pair(mux, framing)
    with peer:
        peer.sendall(frames[0] + frames[0][:-1])
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.payloads == messages_of(name)[:1]
        assert acc.closed[0][1].errno == errno.EPROTO


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["postgres", "protobuf"])
def test_each_form_of_handler_answers_in_frames(backend, name, form):
    framing, frames, _around, _hostile = PROTOCOLS[name]
    stream = b"".join(frames)
    with serving(in_form(form, bytes), backend, framing=framing) as server:
        assert util.exchange(server.address, stream, len(stream)) == stream


@CASES
def test_frames_are_cut_in_an_asyncio_loop(loop, name):
    framing, frames, _around, _hostile = PROTOCOLS[name]
    stream = b"".join(frames)
    got = []

    async def echo(conn):
        async for data in conn:
            got.append(bytes(data))
            conn.send(data)

    async def main():
        async with pymux.aio.serve(echo, ("127.0.0.1", 0), framing=framing) as server:
            answer = await asyncio.to_thread(
                util.exchange, server.address, stream, len(stream)
            )
            assert answer == stream
        assert got == messages_of(name)

    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    loop.run(main())


@CASES
def test_a_client_speaks_in_frames(backend, name):
    framing = PROTOCOLS[name][0]
    messages = messages_of(name)
    with (
        serving(in_form("function", bytes), backend) as server,  # bytes, as they come
        pymux.connect(server.address, framing=framing, timeout=10) as client,
    ):
        for message in messages:
            client.send(message)
        assert [client.recv() for _ in messages] == messages


# -- lengths of replies ------------------------------------------------------------


def test_a_reply_s_length_is_adjusted(mux):
    framing = LengthPrefix(2, adjust=-2)  # a length that counts itself
    conn, peer = pair(mux, framing)
    with peer:
        conn.send(b"hello")
        mux.harvest(0)
        assert recv_exactly(peer, 7) == b"\0\x07hello"
        peer.sendall(b"\0\x04hi\0\x02")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
        assert acc.payloads == [b"hi", b""]
        conn.abort()


@pytest.mark.parametrize(
    "framing, fits, fits_not",
    [
        (LengthPrefix(1, adjust=-2), 253, 254),
        (LengthPrefix(1, adjust=2), 257, 258),
        (LengthPrefix(1, adjust=2), 2, 1),
        (LengthPrefix(3), 2**24 - 1, 2**24),
        (LengthPrefix(1, keep_head=True), 70000, None),
    ],
    ids=repr,
)
def test_a_reply_whose_length_cannot_say_its_size_is_refused(
    mux, framing, fits, fits_not
):
    conn, peer = pair(mux, framing)
    with peer:
        conn.send(b"x" * fits)
        if fits_not is not None:
            with pytest.raises(ValueError) as info:
                conn.send(b"x" * fits_not)
            assert str(fits_not) in str(info.value)
            assert str(fits) in str(info.value)
        conn.abort()


# -- values ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, said",
    [
        (lambda: LengthPrefix(offset=1), ValueError, "keep_head=True"),
        (lambda: LengthPrefix(offset=-1, keep_head=True), ValueError, "-1"),
        (lambda: LengthPrefix(offset=4097, keep_head=True), ValueError, "4096"),
        (lambda: LengthPrefix(adjust=2**31), ValueError, str(2**31)),
        (lambda: LengthPrefix(adjust=1.5), TypeError, "1.5"),
        (lambda: LengthPrefix(keep_head=1), TypeError, "True or False"),
        (lambda: LengthPrefix(5), ValueError, "1, 2, 3, 4 or 8"),
        (lambda: Varint(0), ValueError, "max_size is 0"),
        (lambda: Varint(offset=1), ValueError, "keep_head=True"),
        (lambda: Varint(offset="1", keep_head=True), TypeError, "'1'"),
        (lambda: Scanner(0), ValueError, "address is 0"),
        (lambda: Scanner(None), TypeError, "None"),
        (lambda: Scanner(1, max_size=0), ValueError, "max_size is 0"),
    ],
)
def test_an_argument_that_cannot_be_is_named(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_what_is_given_by_keyword_is_shown_where_it_was():
    assert repr(LengthPrefix()) == (
        "LengthPrefix(width=4, byteorder='big', max_size=1048576)"
    )
    for framing in (POSTGRES, MQTT, HTTP2):
        assert eval(repr(framing)) == framing
    assert Scanner(5, keep=[]) == Scanner(5) and hash(Scanner(5, keep=[]))


# -- scanners ----------------------------------------------------------------------

# A frame is "<", a message, ">"; a byte 0 in it is an error of its own.
SOURCE = """
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
typedef struct { size_t head, size, whole; } pmx_frame;
int scan(const uint8_t *bytes, size_t size, uint64_t *scanned, pmx_frame *frame)
{
    size_t at = *scanned ? *scanned : 1;
    if (bytes[0] != '<')
        return 2;
    for (; at < size; at++) {
        if (!bytes[at])
            return -EBADMSG;
        if (bytes[at] == '>') {
            frame->head = 1;
            frame->size = at - 1;
            frame->whole = at + 1;
            return 1;
        }
    }
    *scanned = at;
    return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The function above, compiled and loaded."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform == "win32":
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("scanner")
    (folder / "scan.c").write_text(SOURCE)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "scan.so", folder / "scan.c"],
        check=True,
    )
    return folder / "scan.so"


def by_ctypes(path):
    loaded = ctypes.CDLL(path)
    return Scanner(
        ctypes.cast(loaded.scan, ctypes.c_void_p).value, loaded, max_size=70000
    )


def by_cffi(path):
    from cffi import FFI

    ffi = FFI()
    ffi.cdef("int scan(const uint8_t *, size_t, uint64_t *, void *);")
    loaded = ffi.dlopen(str(path))
    address = int(ffi.cast("uintptr_t", ffi.addressof(loaded, "scan")))
    return Scanner(address, (ffi, loaded), max_size=70000)


@pytest.mark.parametrize("load", [by_ctypes, by_cffi])
def test_a_function_of_the_user_s_finds_the_messages(mux, library, load):
    conn, peer = pair(mux, load(library))
    with peer:
        peer.sendall(b"<hello><><" + b"y" * 60000)
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
        assert acc.payloads == [b"hello", b""]
        peer.sendall(b"><end>")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
        assert acc.payloads == [b"y" * 60000, b"end"]
        conn.send(b"<as given>")
        mux.harvest(0)
        assert recv_exactly(peer, 10) == b"<as given>"
        conn.abort()


@pytest.mark.parametrize(
    "stream, error",
    [
        (b"<a>no", errno.EPROTO),  # an answer that is none
        (b"<a><\0", errno.EBADMSG),  # the function's own
        (b"<a><" + b"x" * 70000, errno.EMSGSIZE),
    ],
)
def test_what_the_function_refuses_ends_the_connection(mux, library, stream, error):
    _conn, peer = pair(mux, by_ctypes(library))
    with peer:
        peer.sendall(stream)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.payloads == [b"a"]
        assert acc.closed[0][1].errno == error


def test_the_function_lives_as_long_as_it_may_be_called(mux, library):
    conn, peer = pair(mux, by_ctypes(library))  # nobody else has the library
    with peer:
        peer.sendall(b"<still there>")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.payloads == [b"still there"]
        conn.abort()
