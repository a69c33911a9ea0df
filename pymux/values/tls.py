"""Arguments of TLS: contexts, and the names that certificates are to have.

A user gives the `ssl.SSLContext` that other libraries take. Python's `ssl` is loaded
when a user gives the first one, and not by `import pymux`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from .addresses import host_and_port
from .checks import misplaced, shown
from .errors import BackendUnavailable

if TYPE_CHECKING:
    from ssl import SSLContext
else:  # annotations can be evaluated where `ssl` is not loaded
    SSLContext = Any

__all__ = [
    "PLAIN_TEXT",
    "SSLContext",
    "check_context",
    "check_new_context",
    "check_server_hostname",
    "check_ssl",
    "context_to_connect",
    "is_served",
    "name_to_check",
]

PLAIN_TEXT = "only TLS has it, and ssl is None"
TO_ADOPT = (
    "to adopt a socket, an ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), if the peer is a "
    "client, or (ssl.PROTOCOL_TLS_CLIENT), if it is a server, is needed"
)

# The context of ssl=True, once there is one.
_default: dict[str, SSLContext] = {}


def check_ssl(value: Any) -> None:
    """Raise TypeError for what is neither a context, nor True, nor None."""
    if value is None or value is True or _is_context(value):
        return
    hint = ""
    if value is False:
        hint = "; only a context of yours can leave certificates unchecked"
    raise TypeError(
        f"ssl is {shown(value)}; an ssl.SSLContext, True (to connect) or None is "
        f"needed{hint}"
    )


def _is_context(value: Any) -> bool:
    try:
        import ssl
    except ImportError:  # then there is no context
        return False
    return isinstance(value, ssl.SSLContext)


def check_context(value: Any, *, listen: bool) -> None:
    """Raise for an `ssl=` that a call which listens, or connects, cannot use.

    Raises:
        TypeError: neither a context nor None; True is taken to connect.
        ValueError: a context of the other side.
    """
    check_ssl(value)
    if value is None:
        return
    if value is True:
        if listen:
            raise TypeError(
                "ssl is True; to listen, an ssl.SSLContext with a certificate is needed"
            )
        return
    import ssl

    wrong = ssl.PROTOCOL_TLS_CLIENT if listen else ssl.PROTOCOL_TLS_SERVER
    if value.protocol != wrong:
        return
    side, call, right = ("client", "listens", ssl.PROTOCOL_TLS_SERVER)
    if not listen:
        side, call, right = ("server", "connects", ssl.PROTOCOL_TLS_CLIENT)
    raise ValueError(
        f"ssl is a context for a {side}, and this call {call}; an "
        f"ssl.SSLContext(ssl.{right.name}) is needed"
    )


def check_new_context(value: Any) -> None:
    """Raise as `check_context` for what cannot replace the context of a listener."""
    check_context(value, listen=True)
    if value is None:
        raise TypeError("ssl is None; an ssl.SSLContext is needed to replace another")


def context_to_connect(value: SSLContext | bool) -> SSLContext:
    """The context of an `ssl=` that has been checked: for True, one that verifies
    with the certificates that the system trusts.

    Raises:
        BackendUnavailable: this Python has no `ssl`.
    """
    if not isinstance(value, bool):
        return value
    if not _default:
        try:
            import ssl
        except ImportError as error:
            raise BackendUnavailable(
                errno.ENOTSUP, "this Python was built without the ssl module"
            ) from error
        _default.setdefault("context", ssl.create_default_context())
    return _default["context"]


def check_server_hostname(name: Any) -> None:
    """Raise TypeError or ValueError for what is no name of a server, nor None."""
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"server_hostname is {shown(name)}; a str or None is needed")
    if not name:
        raise ValueError("server_hostname is ''; a name or None is needed")
    _check_name("server_hostname", name)


def _check_name(what: str, name: str) -> None:
    """Raise ValueError for a name that `ssl` would refuse later."""
    fault = ""
    if name.startswith("."):
        fault = "it begins with a dot"
    elif "\0" in name:
        fault = "it holds a NUL"
    elif not name.isascii():
        try:
            name.encode("idna")
        except UnicodeError as error:
            fault = str(error)
    if fault:
        raise ValueError(f"{what} is {shown(name)}, which no certificate has: {fault}")


def name_to_check(context: SSLContext, name: str | None, address: Any) -> str | None:
    """The name, or number, that the certificate of a server is to have.

    Args:
        name: what the caller gave as `server_hostname`.
        address: what is connected to: a tuple, or the path of a Unix socket.

    Returns:
        `name`, else the host of the address. The zone of an IPv6 address is left out,
        and so is the dot at the end of a name, since no certificate has either. None:
        a path, where the context checks no name.

    Raises:
        ValueError: there is no name, and the context is to check one.
    """
    if name is not None:
        return name
    if isinstance(address, tuple):
        host = host_and_port(address)[0].partition("%")[0]
        host = host.removesuffix(".") or host
        _check_name("the host", host)
        return host
    if context.check_hostname:
        raise ValueError(
            f"server_hostname is None, and the certificate is to be checked for a "
            f"name, which the path {address!r} does not tell; a name is needed"
        )
    return None


def is_served(
    value: Any, server_hostname: str | None, require_close_notify: bool
) -> bool:
    """Check the TLS of a socket that is adopted; True if the peer is a client.

    Args:
        value: what the caller gave as `ssl`. The context's protocol says of which side
            it is; None is plain text.
        server_hostname, require_close_notify: as the caller gave them.

    Raises:
        TypeError: neither a context nor None.
        ValueError: a context that may be of either side; a name that is lacking, or
            that nothing checks.
    """
    check_server_hostname(server_hostname)
    if value is None:
        if server_hostname is not None:
            raise misplaced("server_hostname", server_hostname, PLAIN_TEXT)
        if not require_close_notify:
            raise misplaced("require_close_notify", require_close_notify, PLAIN_TEXT)
        return False
    if not _is_context(value):
        raise TypeError(f"ssl is {shown(value)}; {TO_ADOPT}")
    import ssl

    if value.protocol == ssl.PROTOCOL_TLS_SERVER:
        if server_hostname is not None:
            why = "the peer is a client, by the protocol of ssl"
            raise misplaced("server_hostname", server_hostname, why)
        return True
    if value.protocol != ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            f"ssl is a context of {value.protocol.name}, which may be of either side; "
            f"{TO_ADOPT}"
        )
    if server_hostname is None and value.check_hostname:
        raise ValueError(
            "server_hostname is None, and the certificate is to be checked for a "
            "name, which a connected socket does not tell; a name is needed"
        )
    return False
