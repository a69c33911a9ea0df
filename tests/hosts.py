"""Names and addresses: a resolver for tests, and whether this machine has IPv6."""

import socket

import pytest


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def results(*addresses):
    """A `getaddrinfo` that gives these addresses, in this order."""

    def getaddrinfo(host, port, *args, **kwargs):
        return [
            (
                socket.AF_INET6 if ":" in found else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (found, port, 0, 0) if ":" in found else (found, port),
            )
            for found in addresses
        ]

    return getaddrinfo


def know(monkeypatch, name, *addresses):
    """Let a name, which is no number, stand for these addresses; return the name."""
    real, ours = socket.getaddrinfo, results(*addresses)

    def getaddrinfo(host, *args, **options):
        if host not in (name, name.encode()):
            return real(host, *args, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        return ours(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return name
