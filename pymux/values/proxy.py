"""The PROXY protocol, as far as it has no connection: who may speak it, and a header.

A balancer that speaks it says, before the first byte of a connection, of whom the
connection is. Its specification is ``doc/proxy-protocol.txt`` of HAProxy.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from .checks import number, set_fields, shown

__all__ = ["SIGNATURE", "Proxy", "check_proxy", "header_for"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
UNIX = "unix"  # stands for the peers of a Unix socket
LONGEST = 86400.0  # seconds
NEEDED = "a network like '10.0.0.0/8' or '::1', or 'unix', is needed"
EXAMPLE = "pymux.Proxy(('10.0.0.0/8',)) is an example"

_V4, _V6, _NOBODY = b"\x21\x11", b"\x21\x21", b"\x21\x00"


@dataclass(frozen=True)
class Proxy:
    """Balancers that speak the PROXY protocol, version 1 or 2: `proxy=` of a listener.

    Every connection of the listener begins with a header then, before TLS too, and has
    the names that it tells: `Connection.peer`, `Connection.local`. The rest is in
    `Connection.proxy`. A connection is opened when its header has come. Without a valid
    header, and of a peer that is not trusted, it is reset and counted in
    `Stats.refused`.

    Args:
        trusted: the networks of the balancers, as strings; a number without a length
            is one address, and ``"unix"`` is every peer of a Unix socket. There is no
            default: who may send a header may name any address.
        timeout: seconds within which the header has to come.

    Raises:
        TypeError, ValueError: an argument that cannot be.

    >>> Proxy(("10.0.0.0/8", "::1"))
    Proxy(trusted=('10.0.0.0/8', '::1/128'), timeout=5.0)
    """

    trusted: Iterable[str]
    _: KW_ONLY
    timeout: float = 5.0

    def __post_init__(self) -> None:
        given: Any = self.trusted
        if isinstance(given, str):
            given = (given,)
        try:
            names = tuple(_name_of(one) for one in given)
        except TypeError:
            raise TypeError(
                f"trusted is {shown(self.trusted)}; networks as strings are needed, "
                "like ('10.0.0.0/8', '::1')"
            ) from None
        if not names:
            raise ValueError(f"trusted is {shown(self.trusted)}; {NEEDED}")
        span = number("timeout", self.timeout)
        if not 0 < span <= LONGEST:
            raise ValueError(
                f"timeout is {shown(self.timeout)}; seconds above 0, and at most a "
                "day, are needed"
            )
        set_fields(self, trusted=names, timeout=float(span))

    def networks(self) -> list[tuple[int, int, bytes]]:
        """List the networks as (family, bits, address), as the core takes them."""
        return [_network(name) for name in self.trusted]

    def milliseconds(self) -> int:
        """Return the timeout in milliseconds, rounded up."""
        return math.ceil(self.timeout * 1000)


def _name_of(one: Any) -> str:
    """Write one network as it is shown.

    Raises:
        TypeError: it is no string, and no network of `ipaddress`.
        ValueError: it is no network.
    """
    networks = ipaddress.IPv4Network, ipaddress.IPv6Network
    addresses = ipaddress.IPv4Address, ipaddress.IPv6Address
    if not isinstance(one, (str, *networks, *addresses)):
        raise TypeError
    if one == UNIX:
        return UNIX
    try:
        return str(ipaddress.ip_network(one))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(one, strict=False)
    except ValueError:
        raise ValueError(f"trusted has {shown(one)}; {NEEDED}") from None
    raise ValueError(
        f"trusted has {shown(one)}, which has bits behind its length; "
        f"{str(loose)!r} would be the network"
    )


def _network(name: str) -> tuple[int, int, bytes]:
    if name == UNIX:
        return 1, 0, b""
    network = ipaddress.ip_network(name)
    address, bits = network.network_address, network.prefixlen
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None or bits < 96:
            return 6, bits, address.packed
        address, bits = address.ipv4_mapped, bits - 96
    return 4, bits, address.packed


def check_proxy(value: Any) -> None:
    """Raise TypeError for what is neither a `Proxy` nor None."""
    if value is not None and not isinstance(value, Proxy):
        raise TypeError(f"proxy is {shown(value)}; a pymux.Proxy is needed: {EXAMPLE}")


# --- outgoing ---------------------------------------------------------------------


def header_for(proxy: Any) -> bytes:
    """Return the header, of version 2, of a connection that is passed on.

    Args:
        proxy: a connection whose names are told, or such names: (peer, local), each as
            `Connection.peer` is; None is no header.

    Raises:
        TypeError: it is something else.
        ValueError: a name is no numeric address.
    """
    if proxy is None:
        return b""
    names = proxy
    if not isinstance(proxy, tuple):
        names = getattr(proxy, "peer", None), getattr(proxy, "local", None)
    if len(names) != 2 or not all(isinstance(name, tuple | str) for name in names):
        raise TypeError(
            f"proxy is {shown(proxy)}; a connection, or (peer, local) like "
            "(('192.0.2.1', 50000), ('192.0.2.2', 443)), is needed"
        )
    if any(isinstance(name, str) for name in names):
        return SIGNATURE + _NOBODY + b"\0\0"  # a Unix socket's names say nothing
    ends = [_end_of(name) for name in names]
    if all(ip.version == 4 for ip, _ in ends):
        family = _V4
    else:
        family = _V6
        ends = [(_as_v6(ip), port) for ip, port in ends]
    body = b"".join(ip.packed for ip, _ in ends)
    body += b"".join(port.to_bytes(2, "big") for _, port in ends)
    return SIGNATURE + family + len(body).to_bytes(2, "big") + body


_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def _end_of(name: tuple[Any, ...]) -> tuple[_Ip, int]:
    """The address, of IPv4 where it is one that is written as IPv6, and the port."""
    try:
        host, port = name[:2]
        ip = ipaddress.ip_address(host.partition("%")[0])
        if not 0 <= port < 65536:
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"proxy has the name {shown(name)}; (numeric host, port) is needed"
        ) from None
    mapped = getattr(ip, "ipv4_mapped", None)
    return mapped or ip, port


def _as_v6(ip: _Ip) -> _Ip:
    if ip.version == 4:
        return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + ip.packed)
    return ip
