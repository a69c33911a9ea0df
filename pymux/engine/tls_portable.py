"""TLS connections that the core drives through their `ssl.SSLObject`.

The core calls `pymux_tls` for each step, in the thread of the harvest: this is the one
place where C calls Python. No exception may pass through C: one ends the connection,
and becomes the cause of its end. One that is no `Exception`, as KeyboardInterrupt of a
signal's handler, leaves the harvest too.
"""

from __future__ import annotations

import importlib
import ssl
import sys
from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from .tls_hello import MOST, server_name_in

if TYPE_CHECKING:
    from .tls import Tls

__all__ = ["OF_MUX", "Portable"]

# The TLS of each open mux that has any, by the core's mux. A garbage collector that
# finds an engine does not find what the core still uses.
OF_MUX: dict[Any, Tls] = {}

# PyPy leaves OpenSSL's errors in the queue of the thread, where those of one object
# would be taken for those of the next.
CLEAR_ERRORS: Any = None
if sys.implementation.name == "pypy":
    CLEAR_ERRORS = importlib.import_module("_pypy_openssl").lib.ERR_clear_error

RECORD = 16384  # the plaintext of a record; a memory BIO keeps its largest size
GOES_ON, DONE, FAILED = lib.PMX_TLS_GOES_ON, lib.PMX_TLS_DONE, lib.PMX_TLS_FAILED
READ, WRITE, BYE = lib.PMX_TLS_READ, lib.PMX_TLS_WRITE, lib.PMX_TLS_BYE
SHAKE = lib.PMX_TLS_SHAKE


class Portable:
    """An `SSLObject` between two memory BIOs.

    Attributes:
        object: the `ssl.SSLObject`, or of a class of the user's.
        got: the bytes that the last `read` has decrypted.
        server_name: what an accepted peer has asked for, once the handshake is done.
    """

    __slots__ = ("_early", "_hello", "_in", "_out", "got", "object", "server_name")

    def __init__(
        self, context: ssl.SSLContext, server_side: bool, server_hostname: str | None
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.got: int = 0
        self.server_name = server_hostname
        self._hello = b"" if server_side else None
        self._early = b""  # plaintext that the object had when our stream ended
        # An object has no options of its own, as adopted ones are given.
        if not context.options & ssl.OP_NO_RENEGOTIATION:
            context.options |= ssl.OP_NO_RENEGOTIATION
        self.object: Any = context.wrap_bio(
            self._in,
            self._out,
            server_side=server_side,
            server_hostname=server_hostname,
        )

    def feed(self, data: Any) -> None:
        """Take in what the peer has sent."""
        self._in.write(data)
        if self._hello is not None and len(self._hello) < MOST:
            self._hello += bytes(data)

    def shake(self) -> bool:
        """Go on with the handshake. True if it is done."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._hello is not None:
            self.server_name = server_name_in(self._hello)
            self._hello = None
        return True

    def read(self, to: Any) -> bool:
        """Decrypt into `to`. True if the peer's stream is over behind what was read.

        `got` counts the bytes, also where an error follows them. Fewer than `to` has
        room for: there are no more.
        """
        self.got = 0
        room, read = len(to), self.object.read
        if self._early:
            early = self._early[:room]
            self._early = self._early[room:]
            self.got = len(early)
            to[: self.got] = early
        try:
            while self.got < room:
                rest = memoryview(to)[self.got :] if self.got else to
                size = read(room - self.got, rest)
                if not size:
                    return True
                self.got += size
                if not self._in.pending and not self.object.pending():
                    return False  # without the error that a further call raises
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLZeroReturnError:
            return True
        return False

    def write(self, data: Any) -> None:
        """Encrypt all of it."""
        size = self.object.write(data)
        while size < len(data):
            data = memoryview(data)[size:]
            size = self.object.write(data)

    def say_bye(self) -> None:
        """Say the end of our stream.

        `unwrap` then looks for the peer's end, and takes what it finds instead for an
        error. So the object gets nothing to find: what it has is read before.
        """
        while self.object.pending():
            self._early += self.object.read(RECORD)
        rest = self._in.read()
        try:
            self.object.unwrap()
        except OSError:
            pass
        finally:
            if rest:
                self._in.write(rest)

    def has_output(self) -> bool:
        """True if something is to be sent."""
        return self._out.pending > 0

    def take(self, room: int) -> bytes:
        """Return what is to be sent, `room` bytes at most."""
        return self._out.read(room)


def _do(portable: Portable, step: int, work: Any) -> int:
    """Do one step; return an `enum pmx_tls_is`."""
    size = work.in_size
    if step == READ:
        if size:
            portable.feed(ffi.buffer(getattr(work, "in"), size))
        return DONE if portable.read(ffi.buffer(work.to, work.room)) else GOES_ON
    if step == WRITE:
        portable.write(ffi.buffer(getattr(work, "in"), size))
    elif step == SHAKE:
        if size:
            portable.feed(ffi.buffer(getattr(work, "in"), size))
        if portable.shake():
            work.resumed = bool(portable.object.session_reused)
            return DONE
    elif step == BYE:
        portable.say_bye()
    return GOES_ON


def _struck(kind: Any, error: BaseException, trace: Any) -> None:
    """Called where `_step` raises: a signal's handler has, at its edges."""
    work = trace.tb_frame.f_locals.get("work") if trace is not None else None
    if work is not None:
        setattr(work, "is", FAILED)
        tls = OF_MUX.get(work.mux)
        if tls is not None:
            tls.fail(work.id, error)


def _step(work: Any) -> None:
    """Called by the core, which has set that the step has failed."""
    id, step = work.id, work.step
    tls = OF_MUX[work.mux]
    portable = tls.kept[id]
    result, portable.got = FAILED, 0
    try:
        if CLEAR_ERRORS is not None:
            CLEAR_ERRORS()
        if id not in tls.causes:  # what has failed fails again
            result = _do(portable, step, work)
    except BaseException as error:
        tls.fail(id, error)
    if portable.got:
        work.got = portable.got
    if portable.has_output():  # an alert too
        made = portable.take(work.out_room)
        work.made = size = len(made)
        ffi.memmove(work.out, made, size)
    setattr(work, "is", result)


ffi.def_extern(name="pymux_tls", onerror=_struck)(_step)
