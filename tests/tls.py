"""Certificates, contexts and plain peers of TLS, by Python's own `ssl`."""

import contextlib
import datetime
import socket
import ssl

import pytest

from .util import connect

NAME = "localhost"


class Papers:
    """An authority, and contexts with its certificates: fixture `papers`.

    Every certificate is for NAME and 127.0.0.1, unless other names are given.
    """

    def __init__(self):
        trustme = pytest.importorskip("trustme")  # not on PyPy: see pyproject.toml
        self.ca = trustme.CA()

    def certificate(self, *names, **options):
        """A certificate that `configure_cert(context)` gives to a context."""
        return self.ca.issue_cert(*(names or (NAME, "127.0.0.1")), **options)

    def expired(self):
        """One that was valid until a day ago."""
        yesterday = datetime.datetime.now(datetime.UTC)
        yesterday -= datetime.timedelta(days=1)
        return self.certificate(not_after=yesterday)

    def server(self, certificate=None, **settings):
        """A context for a server; `settings` are attributes of the context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.certificate()).configure_cert(context)
        return set_all(context, settings)

    def client(self, **settings):
        """A context for a client, which trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return set_all(context, settings)


def set_all(thing, settings):
    """Set attributes of a thing, and return it."""
    for name, value in settings.items():
        setattr(thing, name, value)
    return thing


def secure(address, context, name=NAME, **options):
    """A plain blocking socket that has shaken hands as a client. It tells a cut from
    an end: `recv` raises `ssl.SSLEOFError`."""
    sock = connect(address)
    try:
        return context.wrap_socket(
            sock, server_hostname=name, suppress_ragged_eofs=False, **options
        )
    except BaseException:
        sock.close()
        raise


def accept(listener, context):
    """The same as a server, of the next peer of a plain listener."""
    sock, _ = listener.accept()
    sock.settimeout(10)
    try:
        return context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
    except BaseException:
        sock.close()
        raise


def ends(sock):
    """Say the end of our stream, read the peer's, and close."""
    with contextlib.closing(sock), contextlib.closing(sock.unwrap()) as plain:
        return plain.recv(1)


def cut(sock):
    """End the stream of TCP, but not that of TLS; the socket stays open."""
    socket.socket.shutdown(sock, socket.SHUT_WR)
