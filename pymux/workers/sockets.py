"""The listening sockets of a server with workers, which the supervisor owns.

On Linux and FreeBSD each slot has a socket of its own, and the kernel spreads new
connections over them (`SO_REUSEPORT`). A Unix socket, a socket that the user gave, and
any socket elsewhere, is one for all slots. TCP sockets are bound at once and listen
when the workers are ready, so that a probe of the port tells the truth.

The core makes a Unix socket, by the rules that it has for those: of several servers
that start on one path, one gets the path. Such a socket listens at once, as no other
server could tell one that is bound from one that is stale. Its clients wait for the
workers.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import Any

from ..engine.given import duplicate
from ..mux import Mux
from ..values.addresses import format_address, host_and_port, is_localhost
from ..values.endpoint import Settings
from ..values.posix import os

__all__ = ["Place", "bind_all", "shared_socks", "show_all"]

LINUX = sys.platform.startswith("linux")
ONE_EACH = LINUX or sys.platform.startswith("freebsd")
# The option by which the kernel spreads connections; FreeBSD's SO_REUSEPORT does not.
SPREADS: int = getattr(socket, "SO_REUSEPORT", 0)
if sys.platform.startswith("freebsd"):
    SPREADS = 0x00010000  # SO_REUSEPORT_LB
TRIES = 20  # how often "localhost" looks for a port that is free in both families
NO_FAMILY = errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT


class Place:
    """One address of the server, and its sockets.

    Attributes:
        shown: the address as the user wrote it.
        names: what is bound, as `getsockname` tells; "localhost" has two.
        shared: sockets that are one for all slots; else empty.
    """

    def __init__(self, settings: Settings) -> None:
        self.shown: str = str(settings)
        self.shared: list[socket.socket] = []
        self.names: list[Any] = []
        self._settings = settings
        self._guards: list[socket.socket] = []
        self._mux: Mux | None = None  # its core has made the Unix socket
        address = settings.address
        try:
            if isinstance(address, socket.socket):
                self._share(duplicate(address))
            elif isinstance(address, tuple):
                self._find_port(address)
            else:
                self._share(self._listen_on_path(address))
        except OSError as error:
            self.close()
            number = error.errno or errno.EINVAL
            raise OSError(number, os.strerror(number), self.shown) from None

    def _share(self, sock: socket.socket) -> None:
        self.shared.append(sock)
        self.names.append(sock.getsockname())

    # --- TCP ----------------------------------------------------------------

    def _find_port(self, address: Any) -> None:
        """Bind each name that the address stands for, to know the port and to see
        that no other program has it; each slot's sockets are bound to it again."""
        host, port = host_and_port(address)
        reuse_port = self._settings.reuse_port
        for left in range(TRIES - 1, -1, -1):
            found = [self._bind(_first_of(host, port), reuse_port)]
            try:
                if is_localhost(host):
                    beside = _first_of("::1", found[0].getsockname()[1])
                    try:
                        found.append(self._bind(beside, reuse_port))
                    except OSError as error:
                        if error.errno == errno.EADDRINUSE and not port and left:
                            found[0].close()
                            continue
                        if error.errno not in NO_FAMILY:
                            raise
                self.names = [sock.getsockname() for sock in found]
                if LINUX:
                    for sock in found:
                        _guard(sock, is_alone=bool(port) and not reuse_port)
            except BaseException:
                for sock in found:
                    sock.close()
                raise
            break
        if not ONE_EACH:
            self.shared = found
        elif LINUX:
            self._guards = found
        else:
            for sock in found:
                sock.close()

    def _bind(self, found: tuple[int, Any], reuse_port: bool) -> socket.socket:
        family, name = found
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                only = name[0] != "::"
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, SPREADS, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            sock.bind(name)
        except BaseException:
            sock.close()
            raise
        return sock

    def bind_slot(self) -> list[socket.socket]:
        """Bind the sockets of one slot; none, if the place's are one for all."""
        made: list[socket.socket] = []
        if self.shared:
            return made
        try:
            for name in self.names:
                family = socket.AF_INET6 if len(name) == 4 else socket.AF_INET
                made.append(self._bind((family, name), True))
        except OSError as error:
            for sock in made:
                sock.close()
            number = error.errno or errno.EINVAL
            raise OSError(number, os.strerror(number), self.shown) from None
        return made

    def listen(self, socks: list[socket.socket]) -> None:
        """Listen on sockets of this place; a second call does nothing harmful.

        Raises:
            OSError: another program listens there.
        """
        if isinstance(self._settings.address, socket.socket):
            return
        for sock in socks:
            try:
                sock.listen(self._settings.backlog)
            except OSError as error:
                number = error.errno or errno.EINVAL
                raise OSError(number, os.strerror(number), self.shown) from None

    # --- Unix sockets ---------------------------------------------------------

    def _listen_on_path(self, path: Any) -> socket.socket:
        """Listen on a path; the mux accepts nothing, and owns the file."""
        self._mux = Mux()
        backlog, mode = self._settings.backlog, self._settings.mode
        listener = self._mux.listen(path, backlog=backlog, mode=mode)
        return socket.socket(fileno=os.dup(listener.fileno()))

    def close(self) -> None:
        """Close the sockets that are one for all, and remove the file that is ours."""
        for sock in self.shared + self._guards:
            sock.close()
        self.shared, self._guards = [], []
        if self._mux is not None:
            self._mux.close()
            self._mux = None

    @property
    def addresses(self) -> list[Any]:
        """The bound names as users see them: (host, port) or a path."""
        return [_as_address(name) for name in self.names]


def bind_all(settings: list[Settings]) -> list[Place]:
    """Bind every address, or none if one fails.

    Raises:
        OSError: an address cannot be bound; the error names the address.
    """
    places: list[Place] = []
    try:
        for one in settings:
            places.append(Place(one))
    except BaseException:
        for place in places:
            place.close()
        raise
    return places


def shared_socks(places: list[Place]) -> list[tuple[int, socket.socket]]:
    """Return (number of the place, socket) of each that is one for all slots."""
    return [(number, sock) for number, one in enumerate(places) for sock in one.shared]


def _guard(sock: socket.socket, is_alone: bool) -> None:
    """Let a bound socket keep other servers from its port until these sockets listen.

    Linux lets several sockets with SO_REUSEADDR bind a port while none listens, so a
    server that starts would not be noticed. A socket without that option is in the
    way of all but sockets with SO_REUSEPORT of the same user, which the slots have.
    The option is needed at bind, for connections of the server before.

    Args:
        is_alone: refuse a port that another server has: listening tells, and ends at
            once. The system chose a port 0 as one that nobody has.

    Raises:
        OSError: another server has the port, or is starting on it.
    """
    if is_alone:
        sock.listen(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    if is_alone:
        sock.shutdown(socket.SHUT_RD)  # bound as before
    sock.setsockopt(socket.SOL_SOCKET, SPREADS, 1)


def _first_of(host: str, port: int) -> tuple[int, Any]:
    """The (family, name) to bind of a host: its first IPv4 result, else its first."""
    if is_localhost(host):
        host = "127.0.0.1"
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = [one for one in found if one[0] in (socket.AF_INET, socket.AF_INET6)]
    ipv4 = [one for one in families if one[0] == socket.AF_INET]
    family, _, _, _, name = (ipv4 or families)[0]
    return family, name


def _as_address(name: Any) -> Any:
    if isinstance(name, bytes):
        return os.fsdecode(name)
    if isinstance(name, str):
        return name
    host = name[0]
    if len(name) == 4 and name[3] and "%" not in host:
        host = f"{host}%{name[3]}"
    return host, name[1]


def show_all(places: list[Place]) -> str:
    """Name the bound addresses, for the log."""
    return ", ".join(format_address(name) for one in places for name in one.addresses)
