"""Converts addresses, framings and limits to C structs, and back."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from .._core import ffi, lib
from ..values.addresses import (
    check_address,
    host_and_port,
    is_localhost,
    socket_path,
)
from ..values.checks import seconds
from ..values.framing import (
    Fixed,
    Framing,
    Framings,
    LengthPrefix,
    Lines,
    Raw,
    Scanner,
    Splitter,
    Varint,
    check_framing,
)
from ..values.limits import Limits, check_limits

if TYPE_CHECKING:
    from ..values.endpoint import Settings
    from .engine import Engine

__all__ = [
    "endpoints",
    "endpoints_to",
    "fill_framing",
    "framing_from",
    "from_core",
    "policy",
    "policy_of",
    "reply_framing_of",
]


# Of the two, the error of IPv4 is told if neither answers: each machine has IPv4.
LOCALHOST = "::1", "127.0.0.1"
MOST_ENDPOINTS = 1024  # that the core takes for one connection


def _numeric(host: str, port: int) -> tuple[Any, ...]:
    """A result as `getaddrinfo` returns it."""
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, 0, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)


def _alternating(found: list[Any]) -> list[Any]:
    """Results in their order, but the families take turns.

    So a family that does not work delays connecting by one attempt only.
    Source: RFC 8305, section 4.
    """
    first = [result for result in found if result[0] == found[0][0]]
    other = [result for result in found if result[0] != found[0][0]]
    pairs = zip_longest(first, other)
    return [result for pair in pairs for result in pair if result is not None]


def _resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """Resolve a host. A numeric host is tried first, since that does not block."""
    if is_localhost(host):
        # not what a file of hosts says, which may name one family alone
        return [_numeric(number, port) for number in LOCALHOST]
    name = host.encode() if host.isascii() else host  # bytes need no idna codec
    with contextlib.suppress(OSError):
        return socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        text = f"the name {host!r} does not resolve: {error.strerror}"
        raise socket.gaierror(error.errno, text) from None
    except UnicodeError as error:
        raise ValueError(f"the host is {host!r}; it is no name: {error}") from None


def endpoints(address: Any, *, listen: bool) -> tuple[Any, int, Any]:
    """Return a `pmx_endpoint[]`, its length, and the memory it points to."""
    if isinstance(address, (str, os.PathLike)):
        path = socket_path(address)
        keep = ffi.new("char[]", path)
        made = ffi.new("pmx_endpoint[1]")
        made[0].path = keep
        made[0].path_size = len(path)
        return made, 1, keep
    check_address(address)
    host, port = host_and_port(address)
    found = [
        result
        for result in _resolve(host, port)
        if result[0] in (socket.AF_INET, socket.AF_INET6)
    ]
    if listen:
        ipv4 = [result for result in found if result[0] == socket.AF_INET]
        found = (ipv4 or found)[:1]
    elif found:
        found = _alternating(found)
    made = ffi.new("pmx_endpoint[]", max(len(found), 1))
    keeps = []
    for index, result in enumerate(found):
        name = result[4]
        text = name[0]
        if result[0] == socket.AF_INET6 and name[3] and "%" not in text:
            text = f"{text}%{name[3]}"
        keep = ffi.new("char[]", text.encode("ascii"))
        keeps.append(keep)
        made[index].host = keep
        made[index].port = name[1]
    return made, len(found), keeps


def endpoints_to(settings: Settings, header: bytes = b"") -> tuple[Any, int, Any]:
    """What `endpoints` returns of the settings of a call that connects: the first
    MOST_ENDPOINTS, where a name has more addresses. The header is sent first.

    Raises:
        OSError: no address has the family of the source address.
    """
    found, count, keep = endpoints(settings.address, listen=False)
    if header:
        keep = keep, ffi.from_buffer("uint8_t[]", header)
        found[0].header, found[0].header_size = keep[1], len(header)
    if settings.source_address is None:
        return found, min(count, MOST_ENDPOINTS), keep
    source, _, keep_source = endpoints(settings.source_address, listen=True)
    is_ipv6 = b":" in ffi.string(source[0].host)
    fit = [i for i in range(count) if (b":" in ffi.string(found[i].host)) is is_ipv6]
    fit = fit[:MOST_ENDPOINTS]
    if not fit:
        raise OSError(
            errno.EAFNOSUPPORT,
            f"no address of {settings} has the family of source_address "
            f"{settings.source_address!r}",
        )
    made = ffi.new("pmx_endpoint[]", [found[i] for i in fit])
    made[0].header, made[0].header_size = found[0].header, len(header)
    made[0].source = source[0].host
    made[0].source_port = source[0].port
    return made, len(fit), (keep, keep_source)


def from_core(c: Any) -> tuple[str, int] | str:
    """Return the (host, port), or the path, of a `pmx_address`."""
    if c.family == 4:
        return socket.inet_ntop(socket.AF_INET, bytes(c.ip)[:4]), c.port
    if c.family == 6:
        host = socket.inet_ntop(socket.AF_INET6, bytes(c.ip))
        return (f"{host}%{c.scope}" if c.scope else host), c.port
    path = ffi.buffer(c.path, c.path_size)[:] if c.path_size else b""
    return str(os.fsdecode(path))


# Objects that keep the functions of scanners alive, by address: a connection may
# outlive its `Scanner`, and the core still calls the function.
_scanners: dict[int, Any] = {}


def fill_framing(c: Any, framing: Framing | None) -> None:
    """Write a framing into a `pmx_framing`."""
    if framing is None or isinstance(framing, Raw):
        c.kind = lib.PMX_RAW
    elif isinstance(framing, Lines):
        c.kind = lib.PMX_LINES
        c.width = len(framing.delimiter)
        ffi.memmove(c.delimiter, framing.delimiter, len(framing.delimiter))
        c.max_size = framing.max_size
    elif isinstance(framing, LengthPrefix):
        c.kind = lib.PMX_PREFIX
        c.width = framing.width
        c.little = framing.byteorder == "little"
        c.max_size = framing.max_size
        c.offset = framing.offset
        c.adjust = framing.adjust
        c.keep_head = framing.keep_head
    elif isinstance(framing, Varint):
        c.kind = lib.PMX_VARINT
        c.max_size = framing.max_size
        c.offset = framing.offset
        c.keep_head = framing.keep_head
    elif isinstance(framing, Scanner):
        c.kind = lib.PMX_SCANNER
        c.max_size = framing.max_size
        c.scan = framing.address
        if framing.keep is not None:
            _scanners[framing.address] = framing.keep
    elif isinstance(framing, Splitter):
        c.kind = lib.PMX_RAW
        c.scan = id(framing)  # the engine keeps the Splitter, and finds it by its id
    elif isinstance(framing, Fixed):
        c.kind = lib.PMX_FIXED
        c.max_size = framing.size
    else:
        check_framing(framing)


def framing_from(c: Any) -> Framing:
    """Return the framing of a `pmx_framing`; Raw of a function of the caller's."""
    if c.kind == lib.PMX_LINES:
        return Lines(ffi.buffer(c.delimiter, c.width)[:], c.max_size)
    if c.kind == lib.PMX_FIXED:
        return Fixed(c.max_size)
    if c.kind == lib.PMX_PREFIX:
        return LengthPrefix(
            c.width,
            "little" if c.little else "big",
            c.max_size,
            offset=c.offset,
            adjust=c.adjust,
            keep_head=bool(c.keep_head),
        )
    if c.kind == lib.PMX_VARINT:
        return Varint(c.max_size, offset=c.offset, keep_head=bool(c.keep_head))
    return Raw()


def reply_framing_of(rules: Any) -> Framing:
    """Return the framing of what a `pmx_policy` sends."""
    return framing_from(rules.replies if rules.replies.other else rules.framing)


def frame_of(c: Any, message: Any) -> bytes:
    """Rebuild the frame of a message that a `pmx_framing` has cut.

    Raises:
        RuntimeError: a Scanner or a Splitter, which cannot rebuild a frame.
    """
    if c.kind == lib.PMX_SCANNER or (c.kind == lib.PMX_RAW and c.scan):
        raise RuntimeError(
            "messages were received behind this one, and a Scanner or Splitter does "
            "not tell what their bytes were; pause() before the peer sends more"
        )
    if c.kind == lib.PMX_LINES:
        delimiter: bytes = ffi.buffer(c.delimiter, c.width)[:]
        return bytes(message) + delimiter
    head = b""
    if c.kind == lib.PMX_PREFIX and not c.keep_head:
        order: Any = "little" if c.little else "big"
        head = (len(message) - c.adjust).to_bytes(c.width, order)
    elif c.kind == lib.PMX_VARINT and not c.keep_head:
        left = len(message)
        while left > 127:
            head += bytes([left & 127 | 128])
            left >>= 7
        head += bytes([left])
    return head + bytes(message)


def policy(
    framings: Framings,
    limits: Limits | None,
    *,
    half_open: bool = False,
    timeout: float | None = None,
    tls: int = 0,
    tls_lax: bool = False,
) -> Any:
    """Return a `pmx_policy` of the user's settings.

    Args:
        timeout: seconds to connect in.
        tls: a number that the engine's Tls has given; 0 is plain text.
        tls_lax: an end of the stream without close_notify is no error.
    """
    check_limits(limits)
    limits = limits or Limits()
    c = ffi.new("pmx_policy *")
    received, sent = framings
    fill_framing(c.framing, received)
    if sent is not None and sent != (received or Raw()):
        fill_framing(c.replies, sent)
        c.replies.other = 1
    c.max_connections = min(limits.max_connections or 0, 2**32 - 1)
    c.max_per_peer = min(limits.max_per_peer or 0, 2**32 - 1)
    c.half_open = bool(half_open)
    c.high_water = limits.high_water
    c.low_water = limits.low_water
    c.max_output = limits.max_output
    c.idle_ns = seconds("idle_timeout", limits.idle_timeout)
    c.message_ns = seconds("message_timeout", limits.message_timeout)
    c.close_ns = seconds("close_timeout", limits.close_timeout)
    c.connect_ns = seconds("timeout", timeout)
    c.tls = tls
    c.tls_lax = tls_lax
    c.max_handshakes = limits.max_handshakes or 0
    c.handshake_ns = seconds("handshake_timeout", limits.handshake_timeout)
    c.send_buffer = limits.send_buffer or 0
    c.notsent_lowat = limits.notsent_lowat or 0
    if limits.keepalive is not None:
        c.keep_idle, c.keep_interval, c.keep_count = limits.keepalive
    return c


def policy_of(
    engine: Engine,
    settings: Settings,
    *,
    listen: bool = False,
    half_open: bool = True,
    timeout: float | None = None,
) -> Any:
    """Return a `pmx_policy` of the settings of a call that listens, or connects.

    Raises:
        BackendUnavailable: the connections are to speak TLS, and the engine cannot.
    """
    number = 0
    strict = settings.require_close_notify
    if settings.ssl is not None:
        tls = engine.use_tls()
        if listen:
            number = tls.listener(settings.ssl)
        else:
            number = tls.outgoing(settings.ssl, settings.server_hostname)
    made = policy(
        settings.framings,
        settings.limits,
        half_open=half_open,
        timeout=timeout,
        tls=number,
        tls_lax=not strict,
    )
    if listen and settings.proxy is not None:
        made.proxy = engine.trust(settings.proxy.networks())
        made.proxy_ms = settings.proxy.milliseconds()
    return made
