"""Endpoints: an address and how to speak there; and what a call makes of one.

A call that listens or connects takes an address or an `Endpoint`, and options of
its own. `listen_settings` and `connect_settings` put both together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, TypedDict, TypeVar

from .addresses import (
    Address,
    check_address,
    check_served,
    format_address,
    is_localhost,
    is_numeric,
    is_url,
    parse_url,
)
from .checks import (
    DEFAULT_BACKLOG,
    check_backlog,
    check_mode,
    misplaced,
    set_fields,
)
from .framing import Framing, Framings, check_framing, check_reply_framing
from .limits import Limits, check_limits
from .proxy import Proxy, check_proxy
from .tls import (
    PLAIN_TEXT,
    SSLContext,
    check_context,
    check_server_hostname,
    check_ssl,
    context_to_connect,
    name_to_check,
)

if TYPE_CHECKING:
    from ..objects.handler import HandlerOf

__all__ = [
    "Connectable",
    "Endpoint",
    "ListenOptions",
    "Listenable",
    "Listenables",
    "Settings",
    "connect_settings",
    "listen_settings",
]

OWNER_ONLY = 0o600  # the default mode of a Unix socket's file

# Options that only a call that listens, or connects, takes; and their values where
# nothing is asked for.
LISTENING = {"backlog": None, "reuse_port": False, "mode": OWNER_ONLY, "proxy": None}
CONNECTING = {"server_hostname": None, "source_address": None}

# Schemes that mean plain text, and what to give where TLS is wanted.
PLAIN = {"tcp": "tls://HOST:PORT", "ws": "wss://HOST:PORT/PATH"}


@dataclass(frozen=True)
class Endpoint:
    """An address, and how to speak there.

    Whatever takes an address takes an endpoint, and whatever listens takes a list
    of both. An option of the endpoint wins over the same option of the call; None
    leaves it to the call. (So an endpoint that says nothing of `reuse_port`, `mode`
    and `require_close_notify` has the defaults of these, whatever the call says.)
    Types and ranges are checked here. Names are resolved, and options that cannot
    apply are refused, by the call.

    Args:
        address: (host, port), the path of a Unix socket, a URL like
            ``"tcp://[::1]:8093"``, ``"tls://localhost:8443"`` or
            ``"unix:///run/app.sock"``; to listen, also a listening `socket.socket`,
            which is duplicated.
        framing: how streams are cut into messages; ``Raw()`` means raw, whatever
            the call says.
        reply_framing: the framing of what is sent, where it differs from that of what
            is received.
        ssl: an `ssl.SSLContext` to speak TLS; to connect, also True: certificates are
            verified with those that the system trusts.
        limits: what a connection may use.
        handler: one of the four forms, for the connections of this endpoint.
        server_hostname: to connect: the name that the server's certificate is to
            have; None takes the host of the address. Only with TLS.
        require_close_notify: an end of the stream that the peer has not announced by
            TLS' close_notify is an error, as it may be a cut; False takes it for an
            end. Only with TLS.
        backlog: to listen: how many peers may wait to be accepted.
        reuse_port: to listen: let several processes listen on one port.
        mode: to listen: permissions of a Unix socket's file.
        source_address: to connect over TCP: the (host, port) of this machine to
            connect from; the host is a number, port 0 lets the system choose. Of a
            name only the addresses of the same family are tried.
        proxy: to listen: the balancers that speak the PROXY protocol.

    Raises:
        TypeError, ValueError: an argument that cannot be.

    >>> import pymux
    >>> admin = pymux.Endpoint("unix:///run/app.sock", framing=pymux.Lines())
    >>> admin
    Endpoint('unix:///run/app.sock', framing=Lines(delimiter=b'\\n', max_size=65536))
    """

    address: Address | socket.socket
    _: KW_ONLY
    framing: Framing | None = None
    reply_framing: Framing | None = None
    ssl: SSLContext | bool | None = None
    limits: Limits | None = None
    handler: HandlerOf[Any] | None = None
    server_hostname: str | None = None
    require_close_notify: bool | None = True
    backlog: int | None = None
    reuse_port: bool | None = False
    mode: int | None = OWNER_ONLY
    source_address: tuple[str, SupportsIndex] | None = None
    proxy: Proxy | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.address, socket.socket):
            check_address(self.address)
        check_framing(self.framing)
        check_reply_framing(self.reply_framing)
        check_ssl(self.ssl)
        check_limits(self.limits)
        check_server_hostname(self.server_hostname)
        check_proxy(self.proxy)
        if self.source_address is not None:
            _check_source(self.source_address)
        for name in "require_close_notify", "reuse_port":
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}; True, False or None is needed")
        if self.backlog is not None:
            set_fields(self, backlog=check_backlog(self.backlog))
        if self.mode is not None:
            set_fields(self, mode=check_mode(self.mode))

    def __repr__(self) -> str:
        said = [repr(self.address)]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not field.default and value != field.default:
                shown = oct(value) if field.name == "mode" and value else repr(value)
                said.append(f"{field.name}={shown}")
        return f"Endpoint({', '.join(said)})"


Connectable = Address | Endpoint
"""What a call that connects takes."""

Listenable = Address | Endpoint | socket.socket
"""What stands for one place to listen on."""

Place_co = TypeVar("Place_co", covariant=True)


class ListOf(Protocol[Place_co]):
    """A list, as a type checker sees it: neither a str nor a tuple has `reverse`."""

    def __iter__(self) -> Iterator[Place_co]: ...
    def __len__(self) -> int: ...
    def reverse(self) -> None: ...


Listenables = ListOf[Listenable]
"""A list of places to listen on; no other sequence is taken."""


class ListenOptions(TypedDict, total=False):
    """Options of a call that listens, each as in `listen_settings`."""

    framing: Framing | None
    reply_framing: Framing | None
    ssl: SSLContext | None
    limits: Limits | None
    require_close_notify: bool
    backlog: int | None
    reuse_port: bool
    mode: int
    proxy: Proxy | None


@dataclass(frozen=True)
class Settings:
    """What a call does at one address: its own options and the endpoint's.

    Attributes:
        address: a tuple or a path, no URL; or the listening socket that was given.
        reply_framing: None: what is sent has the framing of what is received.
        ssl: the context; None is plain text.
        server_hostname: to connect over TLS: the name that is checked and sent; None
            where the context checks none.
        handler: None where neither the call nor the endpoint has one.
        source_address: to connect.
        backlog, reuse_port, mode, proxy: to listen.
    """

    address: Any
    framing: Framing | None = None
    reply_framing: Framing | None = None
    limits: Limits | None = None
    handler: Any = None
    ssl: SSLContext | None = None
    server_hostname: str | None = None
    require_close_notify: bool = True
    source_address: Any = None
    backlog: int = DEFAULT_BACKLOG
    reuse_port: bool = False
    mode: int = OWNER_ONLY
    proxy: Proxy | None = None

    @property
    def framings(self) -> Framings:
        """The framing of what is received, and that of what is sent."""
        return self.framing, self.reply_framing

    def __str__(self) -> str:
        return format_address(self.address)

    def not_connected(self, error: OSError) -> OSError:
        """Return the error of a connect that failed, with the address in it."""
        where = str(self)
        if self.source_address is not None:
            where += f" from {format_address(self.source_address)}"
        why = error.strerror or str(error)  # a user's own may have a text alone
        if (
            error.errno == errno.ENOENT
            and isinstance(self.address, str)
            and not {"/", os.sep} & set(self.address)
        ):
            why += " (a str is the path of a Unix socket; for TCP give (host, port))"
        loaded = sys.modules.get("ssl")
        if loaded is not None and isinstance(error, loaded.SSLError):
            why = f"{where}: {why}"  # its text is this alone, whatever `filename` is
        try:
            named = type(error)(error.errno, why, where)
        except Exception:
            return error  # of a user's class, which takes other arguments
        vars(named).update(vars(error))  # `reason`, `verify_message`
        named.__cause__ = error.__cause__
        return named


def listen_settings(
    where: Listenable | Listenables,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | None = None,
    limits: Limits | None = None,
    handler: Any = None,
    require_close_notify: bool = True,
    backlog: int | None = None,
    reuse_port: bool = False,
    mode: int = OWNER_ONLY,
    proxy: Proxy | None = None,
) -> list[Settings]:
    """What a call that listens does at each address, in the given order.

    Args:
        where: an address, an `Endpoint`, a listening stream socket, or a list of
            these.
        framing, reply_framing, ssl, limits, handler, require_close_notify, backlog,
            reuse_port, mode, proxy: the call's options.

    Raises:
        TypeError, ValueError: an argument that cannot be, or cannot apply.
    """
    check_framing(framing)
    check_reply_framing(reply_framing)
    check_context(ssl, listen=True)
    check_limits(limits)
    check_backlog(backlog)
    check_proxy(proxy)
    mode = check_mode(mode)
    places = where if isinstance(where, list) else [where]
    if not places:
        raise ValueError("the list of addresses is empty; one address is needed")
    ends = [_to_endpoint(place) for place in places]
    given = [end for end in ends if isinstance(end.address, socket.socket)]
    if len(given) == len(ends):
        _refuse_beside_socket(backlog, reuse_port, mode)
    chosen = [
        Settings(
            _address_to_listen(end, ssl),
            framing=framing if end.framing is None else end.framing,
            reply_framing=(
                reply_framing if end.reply_framing is None else end.reply_framing
            ),
            ssl=ssl if end.ssl is None else end.ssl,  # type: ignore[arg-type]
            require_close_notify=_is_strict(end, require_close_notify),
            limits=limits if end.limits is None else end.limits,
            handler=handler if end.handler is None else end.handler,
            backlog=check_backlog(backlog if end.backlog is None else end.backlog),
            reuse_port=bool(reuse_port if end.reuse_port is None else end.reuse_port),
            mode=mode if end.mode is None else end.mode,
            proxy=proxy if end.proxy is None else end.proxy,
        )
        for end in ends
    ]
    if all(settings.ssl is None for settings in chosen) and not require_close_notify:
        raise misplaced("require_close_notify", require_close_notify, PLAIN_TEXT)
    return chosen


def connect_settings(
    where: Connectable,
    *,
    framing: Framing | None = None,
    reply_framing: Framing | None = None,
    ssl: SSLContext | bool | None = None,
    limits: Limits | None = None,
    handler: Any = None,
    server_hostname: str | None = None,
    require_close_notify: bool = True,
    refuse: Sequence[str] = ("handler",),
) -> Settings:
    """What a call that connects does: all but how to listen.

    Args:
        where: an address or an `Endpoint`.
        framing, reply_framing, ssl, limits, handler, server_hostname,
            require_close_notify: the call's options.
        refuse: options of an endpoint that the call does not take.

    Raises:
        TypeError, ValueError: an argument that cannot be, or cannot apply.
        BackendUnavailable: `ssl` is True, and this Python has no `ssl`.
    """
    check_framing(framing)
    check_reply_framing(reply_framing)
    check_context(ssl, listen=False)
    check_limits(limits)
    check_server_hostname(server_hostname)
    for_tls = (ssl, server_hostname, require_close_notify)
    if isinstance(where, tuple) and for_tls == (None, None, True):
        check_address(where)  # most are so, and say nothing more
        return Settings(where, framing, reply_framing, limits, handler)
    end = _to_endpoint(where)
    if isinstance(end.address, socket.socket):
        raise TypeError(
            f"address is {end.address!r}, which can only be listened on; "
            "(host, port), a path, a URL or a pymux.Endpoint is needed"
        )
    for name in *LISTENING, *refuse:
        value = getattr(end, name)
        if value is not None and value != LISTENING.get(name):
            raise misplaced(name, value, "this call does not take it")
    address, given = _served_address(end, ssl, listen=False)
    check_context(given, listen=False)
    host = server_hostname if end.server_hostname is None else end.server_hostname
    strict = _is_strict(end, require_close_notify)
    context = None
    if given is not None:
        context = context_to_connect(given)
        host = name_to_check(context, host, address)
    elif host is not None:
        raise misplaced("server_hostname", host, PLAIN_TEXT)
    elif not strict:
        raise misplaced("require_close_notify", strict, PLAIN_TEXT)
    if end.source_address is not None and not isinstance(address, tuple):
        why = "a Unix socket is connected to, which has none"
        raise misplaced("source_address", end.source_address, why)
    return Settings(
        address,
        framing=framing if end.framing is None else end.framing,
        reply_framing=(
            reply_framing if end.reply_framing is None else end.reply_framing
        ),
        limits=limits if end.limits is None else end.limits,
        handler=handler if end.handler is None else end.handler,
        ssl=context,
        server_hostname=host,
        require_close_notify=strict,
        source_address=end.source_address,
    )


def _to_endpoint(where: Any) -> Endpoint:
    """An endpoint that leaves to the call what `where` does not say."""
    if isinstance(where, Endpoint):
        return where
    return Endpoint(where, require_close_notify=None, reuse_port=None, mode=None)


def _is_strict(end: Endpoint, require_close_notify: bool) -> bool:
    strict = end.require_close_notify
    return bool(require_close_notify if strict is None else strict)


def _address_to_listen(end: Endpoint, ssl: SSLContext | None) -> Any:
    """The address of an endpoint, after checks of what is only to connect, or TLS."""
    for name, nothing in CONNECTING.items():
        value = getattr(end, name)
        if value is not nothing:
            raise misplaced(name, value, "a call that listens does not take it")
    if isinstance(end.address, socket.socket):
        _refuse_beside_socket(end.backlog, end.reuse_port, end.mode)
        _check_listening(end.address)
    address, given = _served_address(end, ssl, listen=True)
    check_context(given, listen=True)
    if given is None and end.require_close_notify is False:
        raise misplaced("require_close_notify", False, PLAIN_TEXT)
    return address


def _refuse_beside_socket(
    backlog: int | None, reuse_port: bool | None, mode: int | None
) -> None:
    """Raise ValueError for an option of a socket that is given, and listens."""
    given = {"backlog": backlog, "reuse_port": reuse_port, "mode": mode}
    for name, value in given.items():
        if value is not None and value != LISTENING[name]:
            raise misplaced(name, value, "a socket is given, which listens already")


def _check_listening(sock: socket.socket) -> None:
    """Raise ValueError for what is no plain listening stream socket."""
    needed = "a listening stream socket, TCP or Unix, is needed"
    loaded = sys.modules.get("ssl")
    if loaded is not None and isinstance(sock, loaded.SSLSocket):
        raise ValueError(
            f"address is {sock!r}, over which pymux would not speak TLS; give the "
            "socket that it wraps, and its context as ssl="
        )
    if sock.fileno() < 0:
        raise ValueError(f"address is {sock!r}, which is closed; {needed}")
    family = sock.family in (socket.AF_INET, socket.AF_INET6)
    if hasattr(socket, "AF_UNIX"):
        family = family or sock.family == socket.AF_UNIX
    if not family or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"address is {sock!r}; {needed}")
    with contextlib.suppress(OSError):  # the core asks the system again
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(
                f"address is {sock!r}, which does not listen; call its listen() first"
            )


def _served_address(
    end: Endpoint, ssl: SSLContext | bool | None, *, listen: bool
) -> tuple[Any, SSLContext | bool | None]:
    """The tuple or path of an endpoint, and its `ssl`, else that of the call.

    Raises:
        ValueError: no version serves the address yet, or not with this `ssl`.
    """
    address: Any = end.address
    given = ssl if end.ssl is None else end.ssl
    if not is_url(address):
        return address, given
    url = parse_url(address)
    if given is not None and url.scheme in PLAIN:
        raise ValueError(
            f"ssl is given, and {url.scheme}:// means plain text; "
            f"{PLAIN[url.scheme]} is needed"
        )
    check_served(url)
    if url.scheme == "tls" and given is None:
        if listen:
            raise ValueError(
                f"address {url.text!r} means TLS, and ssl is None; to listen, an "
                "ssl.SSLContext with a certificate is needed"
            )
        given = True
    return url.address(listen=listen), given


def _check_source(value: Any) -> None:
    if not isinstance(value, tuple):
        raise TypeError(f"source_address is {value!r}; (host, port) or None is needed")
    if not is_numeric(value) or is_localhost(value[0]):
        raise ValueError(
            f"source_address is {value!r}; a numeric host of this machine is needed"
        )
