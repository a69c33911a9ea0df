"""TLS in an engine: which context a connection has, and its `ssl.SSLObject`.

`ssl` makes an object for each connection that waits for one, with all that the user's
context says. The core drives the `SSL` in that object ("adopted"), or the object itself
("portable": tls_portable.py); openssl.py chooses. A connection's object is kept until
the core has reported the end of the connection.

An object is adopted on two conditions, asked of each object. OpenSSL has noted exactly
one new `SSL` while `ssl` made the object, so that is the object's. And the object is
of the class `ssl.SSLObject` itself. THIS IS A SECURITY CHECK: a subclass may verify its
peer in a method that the core would skip, and the context does not tell of which class
its objects are.
"""

from __future__ import annotations

import errno
import os
import ssl
from typing import Any

from .._core import ffi, lib
from .notices import is_told, tell
from .openssl import asked_for, tls_engine
from .os_errors import error_from
from .owner import BUSY, busy
from .structs import from_core
from .tls_errors import error_from_code
from .tls_portable import OF_MUX, Portable

__all__ = ["Role", "Tls"]

PORTABLE = int(lib.PMX_TLS_PORTABLE)
REFUSED = int(lib.PMX_TLS_REFUSED)
HANDSHAKES = lib.PMX_HANDSHAKES
WRAP_BIO = ssl.SSLContext.wrap_bio
MANY = 64  # roles of outgoing connections, from which unused ones are dropped


class Role:
    """What connections of one number have in common.

    Attributes:
        context: of new connections.
        server_side: the peers are clients.
        hostname: what the peer is verified for, and told by SNI; None of a client.
        uses: outgoing connections that wait for their object.
        unfinished: ids of adopted connections with a bound of handshakes that had not
            opened when somebody looked last.
    """

    __slots__ = ("context", "hostname", "server_side", "unfinished", "uses")

    def __init__(
        self, context: ssl.SSLContext, server_side: bool, hostname: str | None
    ) -> None:
        self.context: ssl.SSLContext = context
        self.server_side: bool = server_side
        self.hostname: str | None = hostname
        self.uses: int = 0
        self.unfinished: set[int] = set()


class Tls:
    """The TLS of an engine.

    Attributes:
        adopts: the core drives OpenSSL itself, where the check allows it.
        kept: the `ssl.SSLObject` or `Portable` of each connection, by id; None where
            none could be made.
        causes: what `ssl` or the user's context has raised, by the connection's id.
        views: what users have asked of `Connection.tls`, by the connection's id.
        served: ids of adopted connections whose peers are clients.
        struck: raised by a signal's handler inside the core; the harvest raises it.
    """

    def __init__(self, c: Any, opening: set[int]) -> None:
        """Use TLS in the mux `c` of the core.

        Args:
            opening: the engine's ids of outgoing and adopted connections that have
                not opened.

        Raises:
            BackendUnavailable, ValueError: see `tls_engine`.
        """
        self.adopts: bool = tls_engine().adopts
        lib.pmx_tls_portable(lib.pymux_tls)
        self._c = c
        self._dummy = ssl.MemoryBIO()  # of adopted objects, until the core has them
        self._roles: dict[int, Role] = {}
        self._last = 0  # the number of the newest role
        self._opening = opening
        self._outgoing: dict[tuple[int, bool, str | None], int] = {}
        self._dialled: dict[int, int] = {}  # numbers of those that wait, by id
        self._addresses: dict[int, int] = {}  # what the core takes for each, by id
        self.kept: dict[int, Any] = {}
        self.causes: dict[int, BaseException] = {}
        self.views: dict[int, Any] = {}
        self.served: set[int] = set()
        self.struck: BaseException | None = None
        OF_MUX[c] = self  # last: now it is made

    # --- contexts -----------------------------------------------------------

    def listener(self, context: ssl.SSLContext) -> int:
        """Return a number for the connections of one listener, whose context `reload`
        may change."""
        return self._add(Role(context, True, None))

    def reload(self, number: int, context: ssl.SSLContext) -> None:
        """Give new connections of a number another context. Any thread may call."""
        self._roles[number].context = context

    def context_of(self, number: int) -> ssl.SSLContext:
        """Return the context of new connections of a number."""
        return self._roles[number].context

    def outgoing(
        self,
        context: ssl.SSLContext,
        server_hostname: str | None,
        server_side: bool = False,
    ) -> int:
        """Return the number of connections with this context and name, for one that is
        dialled or adopted next. Server_side: its peer is a client."""
        key = id(context), server_side, server_hostname  # the role keeps the context
        number = self._outgoing.get(key)
        if number is None:
            if len(self._outgoing) >= MANY:
                self._drop_unused()
            number = self._add(Role(context, server_side, server_hostname))
            self._outgoing[key] = number
        return number

    def _add(self, role: Role) -> int:
        self._last += 1
        self._roles[self._last] = role
        return self._last

    def _drop_unused(self) -> None:
        """Drop the roles of outgoing connections that all have their objects, and
        have a bound of handshakes for none that has not opened."""
        for key, number in list(self._outgoing.items()):
            role = self._roles[number]
            role.unfinished &= self._opening
            if not role.uses and not role.unfinished:
                del self._outgoing[key]
                del self._roles[number]

    def check_handshakes(self, number: int, most: int) -> None:
        """Raise BlockingIOError if so many adopted clients have not shaken hands.

        Args:
            number: of connections that are adopted, from `outgoing`.
            most: how many of them may shake hands at once; 0: any number.
        """
        role = self._roles[number]
        if not most or len(role.unfinished) < most:
            return
        role.unfinished &= self._opening
        if len(role.unfinished) >= most:
            raise BlockingIOError(
                errno.EAGAIN,
                f"max_handshakes, {most}, is reached by sockets that were adopted "
                "with this context; adopt again when one of them has opened or closed",
            )

    def dialled(self, id: int, policy: Any) -> None:
        """Note an outgoing or adopted connection, which waits for its object."""
        role = self._roles[policy.tls]
        self._dialled[id] = policy.tls
        role.uses += 1
        if role.server_side:
            self.served.add(id)
            if policy.max_handshakes:
                role.unfinished.add(id)

    def _arrived(self, id: int) -> None:
        """An outgoing connection has its object, or has ended before."""
        number = self._dialled.pop(id, None)
        if number is not None:
            self._roles[number].uses -= 1

    # --- the turn -----------------------------------------------------------

    def go_on(self, turn: Any, reason: int) -> None:
        """After a turn: give connections that wait their objects, and forget those that
        failed.

        A signal's handler may raise anywhere in here; then this is called again, and
        goes on.
        """
        if self.struck is not None:
            self._raise_struck()
        if reason & HANDSHAKES:
            self._shake_hands(turn)

    def _shake_hands(self, turn: Any) -> None:
        if turn.waiting_count:
            self._adopt(turn)
        while turn.failed_count:
            row = turn.failed[turn.failed_count - 1]
            self.tell(row)
            self.forget(row.id)
            turn.failed_count -= 1

    def _adopt(self, turn: Any) -> None:
        count = turn.waiting_count
        ids, objects = ffi.new("uint64_t[]", count), ffi.new("uint64_t[]", count)
        notes = lib.pmx_tls_noted()  # of this thread
        for k in range(count):
            row = turn.waiting[k]
            id = row.id
            if id not in self.kept:  # else it was made before a signal's handler raised
                self._make(id, self._roles[row.tls], notes)
            ids[k] = id
            objects[k] = self._addresses[id]
        error = lib.pmx_tls_adopt(self._c, ids, objects, count)
        if error == BUSY:
            raise busy()
        if error:
            raise OSError(-error, os.strerror(-error))
        turn.waiting_count = 0
        for k in range(count if self._dialled else 0):
            self._arrived(ids[k])

    def _make(self, id: int, role: Role, notes: Any) -> None:
        """Make the object of a connection."""
        made: Any = None
        address = REFUSED
        try:
            made, address = self._object(role, notes)
        except Exception as error:
            self.causes[id] = error
        self._addresses[id] = address
        self.kept[id] = made  # last: now it is made

    def _object(self, role: Role, notes: Any) -> tuple[Any, int]:
        """Return an object, and what the core is to take for it."""
        context = role.context
        # A `wrap_bio` of the user's may put a check into the object, or give another
        # than it made last.
        own = getattr(context.wrap_bio, "__func__", None) is not WRAP_BIO
        if self.adopts and not own:
            before = notes.count
            made = context.wrap_bio(
                self._dummy, self._dummy, role.server_side, role.hostname
            )
            if type(made) is ssl.SSLObject and notes.count == before + 1:
                return made, notes.last
        return Portable(context, role.server_side, role.hostname), PORTABLE

    # --- ends ---------------------------------------------------------------

    def fail(self, id: int, error: BaseException) -> None:
        """Keep what has ended a connection, from inside the core."""
        self.causes.setdefault(id, error)
        if not isinstance(error, Exception):
            self.struck = error

    def _raise_struck(self) -> None:
        """Raise what a signal's handler has raised inside the core."""
        error, self.struck = self.struck, None
        if error is not None:
            raise error

    def forget(self, id: int) -> None:
        """Let go of the object of a connection, as the core has."""
        self.kept.pop(id, None)
        self._addresses.pop(id, None)
        self.causes.pop(id, None)
        self.views.pop(id, None)
        self.served.discard(id)
        self._arrived(id)

    def forget_all(self) -> None:
        """Let go of everything: the core has closed."""
        OF_MUX.pop(self._c, None)
        self.kept.clear()
        self._addresses.clear()
        self.causes.clear()
        self.views.clear()

    def error_of(self, row: Any) -> OSError:
        """Return the error of a row of `closed` or `failed` that has one."""
        number, cause = row.error, None
        if number == errno.EPROTO:
            cause = self.causes.get(row.id)
        if isinstance(cause, OSError):
            return cause
        if row.tls_error and number == errno.EPROTO:
            made = self.object_of(row.id)
            name = None if made is None else made.server_hostname
            error: OSError = error_from_code(row.tls_error, row.tls_verify, name)
            return error
        error = error_from(number)
        error.__cause__ = cause
        return error

    def tell(self, row: Any) -> None:
        """Log that the connection of a client has never opened."""
        if not is_told("handshake"):
            return
        peer = local = None
        if row.names:
            peer, local = from_core(row.names[0]), from_core(row.names[1])
        error = self.error_of(row) if row.error else None
        why = "it was closed" if error is None else str(error)
        if error is not None and error.__cause__ is not None:
            why += f" ({error.__cause__!r})"
        text = "the TLS handshake with %s failed: %s"
        tell("handshake", text, peer, why, peer=peer, local=local)

    # --- looking inside -----------------------------------------------------

    def object_of(self, id: int) -> Any:
        """Return the `ssl.SSLObject` of a connection, or None. Only to ask it: the
        core reads and writes it."""
        made = self.kept.get(id)
        return made.object if isinstance(made, Portable) else made

    def server_name_of(self, id: int) -> str | None:
        """Return the server's name of a connection that has opened."""
        made = self.kept[id]
        if isinstance(made, Portable):
            return made.server_name
        if not made.server_side:
            return str(made.server_hostname) if made.server_hostname else None
        return asked_for(self._addresses[id])
