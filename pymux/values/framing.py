"""How a stream is cut into messages. Framings are frozen values, to share and keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .checks import LARGEST, set_fields, shown, whole

__all__ = [
    "Fixed",
    "Framing",
    "LengthPrefix",
    "Lines",
    "Raw",
    "Scanner",
    "Splitter",
    "Varint",
]

MOST_OFFSET = 4096  # bytes before a length
VARINTS = 2**35  # a length of five bytes is less


def _repr(framing: Any) -> str:
    """The fields, but those by keyword alone only where they were given."""
    said = [
        f"{part.name}={getattr(framing, part.name)!r}"
        for part in fields(framing)
        if part.repr
        and (not part.kw_only or getattr(framing, part.name) != part.default)
    ]
    return f"{type(framing).__name__}({', '.join(said)})"


def _check_head(framing: Any) -> None:
    """Check what surrounds a length, and set it as plain values."""
    keep_head = framing.keep_head
    if not isinstance(keep_head, bool):
        raise TypeError(f"keep_head is {shown(keep_head)}; True or False is needed")
    offset = whole("offset", framing.offset, 0, MOST_OFFSET)
    if offset and not keep_head:
        raise ValueError(
            f"offset is {offset}; it needs keep_head=True, as nothing is known "
            "that could stand before the length of a reply"
        )
    max_size = whole("max_size", framing.max_size, 1, LARGEST)
    set_fields(framing, offset=offset, max_size=max_size)


@dataclass(frozen=True)
class Raw:
    """No framing: a message is what one receive brings, and never empty.

    >>> Raw()
    Raw()
    """


@dataclass(frozen=True)
class Lines:
    """Each message ends with a delimiter, which is not part of the message.

    Args:
        delimiter: 1 to 16 bytes. A trailing ``\\r`` stays with the message
            unless the delimiter is ``b"\\r\\n"``. Replies are not searched.
        max_size: the largest message in bytes; a longer one ends its
            connection with `EMSGSIZE`.

    A stream that ends behind an unterminated line delivers that line.

    Raises:
        TypeError, ValueError: the delimiter or the size is out of range.

    >>> Lines(b"\\r\\n").max_size
    65536
    """

    delimiter: bytes = b"\n"
    max_size: int = 65536

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes):
            raise TypeError(f"delimiter is {self.delimiter!r}; bytes are needed")
        if not 1 <= len(self.delimiter) <= 16:
            raise ValueError(
                f"delimiter {self.delimiter!r} has {len(self.delimiter)} bytes; "
                "1 to 16 are needed"
            )
        set_fields(self, max_size=whole("max_size", self.max_size, 1, LARGEST))


@dataclass(frozen=True, repr=False)
class LengthPrefix:
    """Each message follows its length.

    A frame is `offset` bytes, a length of `width` bytes that says L, and
    ``L + adjust`` bytes. With the heads of some protocols::

        LengthPrefix(4, offset=1, adjust=-4, keep_head=True)  # Postgres
        LengthPrefix(4, offset=3, adjust=1, keep_head=True)   # AMQP 0-9-1
        LengthPrefix(3, adjust=6, keep_head=True)             # HTTP/2
        LengthPrefix(3, "little", adjust=1, keep_head=True)   # MySQL
        LengthPrefix()                                        # Kafka, Thrift

    Args:
        width: bytes of the length: 1, 2, 3, 4 or 8.
        byteorder: ``"big"`` or ``"little"``.
        max_size: the largest message in bytes; a longer one, or a length that
            claims one, ends its connection with `EMSGSIZE`.
        offset: bytes before the length, up to 4096. They need `keep_head`.
        adjust: bytes that follow the length, less what it says: negative where
            a length counts itself. A length that leaves less than nothing ends
            its connection with `EPROTO`. A reply's length is its size minus
            `adjust`.
        keep_head: a message is the whole frame, and a reply goes out as it is
            given. Otherwise a message is what follows the length, and a reply
            gets a length in front.

    Raises:
        TypeError, ValueError: the width, the order, the size or the head is none of
            these.

    >>> LengthPrefix(2, "little")
    LengthPrefix(width=2, byteorder='little', max_size=1048576)
    """

    width: int = 4
    byteorder: Literal["big", "little"] = "big"
    max_size: int = 1048576
    offset: int = field(default=0, kw_only=True)
    adjust: int = field(default=0, kw_only=True)
    keep_head: bool = field(default=False, kw_only=True)

    __repr__ = _repr

    def __post_init__(self) -> None:
        width: Any = self.width
        if not isinstance(width, str):  # "4" is a wrong choice, not a wrong type
            width = whole("width", width, 1, 8)
        if width not in (1, 2, 3, 4, 8):
            raise ValueError(f"width is {width!r}; it must be 1, 2, 3, 4 or 8")
        if self.byteorder not in ("big", "little"):
            raise ValueError(
                f"byteorder is {self.byteorder!r}; it must be 'big' or 'little'"
            )
        adjust = whole("adjust", self.adjust, -(2**31), 2**31 - 1)
        set_fields(self, width=width, adjust=adjust)
        _check_head(self)


@dataclass(frozen=True, repr=False)
class Varint:
    """Each message comes behind its length in LEB128, of five bytes at most.

    That is the length of protobuf's delimited streams, and of MQTT with
    ``Varint(offset=1, keep_head=True)``. A longer length ends its connection
    with `EPROTO`.

    Args:
        max_size: the largest message in bytes; a longer one, or a length that
            claims one, ends its connection with `EMSGSIZE`.
        offset: bytes before the length, up to 4096. They need `keep_head`.
        keep_head: a message is the whole frame, and a reply goes out as it is
            given. Otherwise a message is what follows the length, and a reply
            gets a length in front.

    Raises:
        TypeError, ValueError: a size or a head that cannot be.

    >>> Varint(offset=1, keep_head=True)
    Varint(max_size=1048576, offset=1, keep_head=True)
    """

    max_size: int = 1048576
    offset: int = field(default=0, kw_only=True)
    keep_head: bool = field(default=False, kw_only=True)

    __repr__ = _repr

    def __post_init__(self) -> None:
        _check_head(self)


@dataclass(frozen=True)
class Scanner:
    """A C function of yours finds the messages.

    The function is called while bytes wait that are in no message yet::

        typedef struct { size_t head, size, whole; } pmx_frame;
        int scan(const uint8_t *bytes, size_t size, uint64_t *scanned,
                 pmx_frame *frame);

    It returns 1 for a frame of ``frame->whole`` bytes, at most `size`, whose
    message has ``frame->size`` bytes behind ``frame->head``; 0 where more bytes
    are needed, perhaps with ``frame->whole`` set to how many the frame will
    have; or a negative errno, which ends the connection. `scanned` is 0 where a
    frame begins and otherwise what the function has left there, so that it need
    not search the same bytes again. An answer that cannot be ends the
    connection with `EPROTO`. Replies go out as they are given.

    The function runs without the GIL, in the thread of the mux. It must not
    call into Python, and may be called in several threads at once where several
    muxes use it. A wrong one can crash the process.

    Args:
        address: of the function, an int: ``int(ffi.cast("uintptr_t", scan))``
            with cffi, ``ctypes.cast(scan, ctypes.c_void_p).value``, or
            ``cfunc.address`` with numba.
        keep: what has to live so that the function does, like its library. It is
            kept from the first use of the framing until the process ends.
        max_size: the largest frame in bytes, what surrounds its message
            included; a longer one ends its connection with `EMSGSIZE`.

    Raises:
        TypeError, ValueError: an address or a size that cannot be.

    >>> Scanner(0x7F0000001000)
    Scanner(address=139637976731648, max_size=1048576)
    """

    address: int
    keep: Any = field(default=None, compare=False, repr=False)
    max_size: int = 1048576

    def __post_init__(self) -> None:
        address = whole("address", self.address, 1, 2**64 - 1)
        max_size = whole("max_size", self.max_size, 1, LARGEST)
        set_fields(self, address=address, max_size=max_size)


@dataclass(frozen=True)
class Fixed:
    """Every message has the same size.

    Args:
        size: bytes of every message, both ways.

    Raises:
        TypeError, ValueError: the size is not from 1 to 2,147,483,647.

    >>> Fixed(16).size
    16
    """

    size: int

    def __post_init__(self) -> None:
        set_fields(self, size=whole("size", self.size, 1, LARGEST))


@dataclass(frozen=True)
class Splitter:
    """A parser of yours, in Python, makes messages of each connection's bytes.

    The parser is a callable, made by `factory` for each connection. It is called
    with the bytes as they come, never empty, and returns the messages that are
    whole by then: any objects but None, a list of them or a generator. At the end
    of the stream it is called with ``b""``, and raises if that is inside a message;
    what it returns then is delivered, and can be answered where the connection is
    still open (a coroutine's). With h11 and with hiredis::

        def http():
            parser = h11.Connection(h11.SERVER)

            def split(data):
                parser.receive_data(data)
                while True:
                    event = parser.next_event()
                    if event is h11.NEED_DATA or event is h11.PAUSED:
                        return
                    yield event

            return split

        def redis():
            reader = hiredis.Reader()

            def split(data):
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    yield reply

            return split

    What the parser raises ends its connection with `EPROTO`, and is the
    ``__cause__`` of that; the messages before are delivered and answered. Replies
    go out as they are given, unless there is a `reply_framing`. A batch has no
    columns where it has such messages.

    Args:
        factory: called with nothing when a connection's first bytes have come.
            Make one `Splitter` and share it: a mux keeps each that it has met.
        max_size: bytes that may come without a message; more end the connection
            with `EMSGSIZE`.

    Raises:
        TypeError, ValueError: a factory or a size that cannot be.

    >>> import json
    >>> Splitter(lambda: lambda data: map(json.loads, data.split()), max_size=100)
    ... # doctest: +ELLIPSIS
    Splitter(factory=<function <lambda> at ...>, max_size=100)
    """

    factory: Callable[[], Callable[[bytes], Iterable[Any]]]
    max_size: int = 1048576

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise TypeError(f"factory is {shown(self.factory)}; a callable is needed")
        set_fields(self, max_size=whole("max_size", self.max_size, 1, LARGEST))


Framing = Raw | Lines | LengthPrefix | Varint | Scanner | Splitter | Fixed

Framings = tuple[Framing | None, Framing | None]
"""The framing of what is received (None: `Raw()`), and that of what is sent (None: the
same)."""


def check_framing(framing: Any) -> None:
    """Raise TypeError for what is neither a framing nor None."""
    if framing is not None and not isinstance(framing, Framing):
        raise TypeError(
            f"framing is {framing!r}; Raw(), Lines(), LengthPrefix(), Varint(), "
            "Fixed(size), Scanner(address), Splitter(factory) or None is needed"
        )


def check_reply_framing(framing: Any) -> None:
    """Raise for what is neither None nor a framing that frames what is sent.

    Raises:
        TypeError: no framing.
        ValueError: a Scanner or a Splitter, which only cut what is received.
    """
    if framing is not None and not isinstance(framing, Framing):
        raise TypeError(
            f"reply_framing is {framing!r}; Raw(), Lines(), LengthPrefix(), Varint(), "
            "Fixed(size) or None is needed"
        )
    if isinstance(framing, (Scanner, Splitter)):
        raise ValueError(
            f"reply_framing is {framing!r}, which only cuts what is received; "
            "Raw() sends bytes as they are"
        )


def longest_reply(framing: Framing | None) -> int:
    """The length up to which any reply fits this framing without a check."""
    if isinstance(framing, Fixed):
        return -1
    if isinstance(framing, LengthPrefix) and not framing.keep_head:
        least, most = _range(framing)
        return most if not least else -1
    if isinstance(framing, Varint) and not framing.keep_head:
        return VARINTS - 1
    return 2**63


def _range(framing: LengthPrefix) -> tuple[int, int]:
    """The sizes of the replies that a length of this kind can say."""
    most = min(256**framing.width - 1 + framing.adjust, 2**63)
    return max(framing.adjust, 0), most


def check_reply(framing: Framing, size: int) -> None:
    """Raise ValueError where a reply of this size does not fit the framing."""
    if isinstance(framing, Fixed):
        if size != framing.size:
            raise ValueError(
                f"a message of {size} bytes; Fixed({framing.size}) takes {framing.size}"
            )
    elif isinstance(framing, LengthPrefix) and not framing.keep_head:
        least, most = _range(framing)
        name = f"a message of {size} bytes; a length prefix of width {framing.width}"
        if size > most:
            raise ValueError(f"{name} holds at most {most}")
        if size < least:
            raise ValueError(f"{name} and adjust={framing.adjust} needs {least}")
    elif isinstance(framing, Varint) and not framing.keep_head and size >= VARINTS:
        raise ValueError(
            f"a message of {size} bytes; a varint of five bytes holds at most "
            f"{VARINTS - 1}"
        )
