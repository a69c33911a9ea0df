"""The listening sockets of a server with workers, which the supervisor owns.

On Linux and FreeBSD each slot has a socket of its own, and the kernel spreads new
connections over them (`SO_REUSEPORT`). A Unix socket, a socket that the user gave, and
any socket elsewhere, is one for all slots. Sockets are bound at once and listen when
the workers are ready, so that a probe of the port tells the truth.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
import sys
from typing import Any

from ..values.addresses import format_address, host_and_port, is_localhost, socket_path
from ..values.endpoint import Settings
from ..values.posix import os, sockets

__all__ = ["Place", "bind_all", "show_all"]

ONE_EACH = sys.platform.startswith(("linux", "freebsd"))
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
        self.shown = str(settings)
        self.shared: list[socket.socket] = []
        self.names: list[Any] = []
        self._settings = settings
        self._file: tuple[str, int, int] | None = None  # path, device, inode
        address = settings.address
        try:
            if isinstance(address, socket.socket):
                self._share(address.dup())
            elif isinstance(address, tuple):
                self._find_port(address)
            else:
                self._share(self._bind_path(address))
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
        for left in range(TRIES - 1, -1, -1):
            first = self._bind(_first_of(host, port), self._settings.reuse_port)
            found = [first]
            try:
                if is_localhost(host):
                    name = ("::1", first.getsockname()[1])
                    beside = _first_of(*name)
                    try:
                        found.append(self._bind(beside, self._settings.reuse_port))
                    except OSError as error:
                        if error.errno == errno.EADDRINUSE and not port and left:
                            continue
                        if error.errno not in NO_FAMILY:
                            raise
            except BaseException:
                first.close()
                raise
            break
        self.names = [sock.getsockname() for sock in found]
        if not ONE_EACH:
            self.shared = found
            return
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

    def _bind_path(self, address: Any) -> socket.socket:
        path = os.fspath(address)
        name = socket_path(path)
        sock = socket.socket(sockets.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if path.startswith("\0"):
                sock.bind(name)
                return sock
            with contextlib.suppress(OSError):  # on Linux the file gets this mode
                os.fchmod(sock.fileno(), self._settings.mode)
            try:
                sock.bind(name)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_stale(path):
                    raise
                os.unlink(path)
                sock.bind(name)
            os.chmod(path, self._settings.mode)
            status = os.stat(path)
            self._file = os.path.abspath(path), status.st_dev, status.st_ino
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Close the sockets that are one for all, and remove the file that is ours."""
        for sock in self.shared:
            sock.close()
        self.shared = []
        if self._file is not None:
            path, device, inode = self._file
            self._file = None
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) == (device, inode):
                    os.unlink(path)

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


def _is_stale(path: str) -> bool:
    """Whether a path is a socket on which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(sockets.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def show_all(places: list[Place]) -> str:
    """Name the bound addresses, for the log."""
    return ", ".join(format_address(name) for one in places for name in one.addresses)
