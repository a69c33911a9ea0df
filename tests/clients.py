"""Clients of `pymux.connect` whose other end is a plain socket of the test's."""

import contextlib

import pymux

from . import util


@contextlib.contextmanager
def connected(listener, **options):
    """(client, plain socket at its other end), both closed afterwards.

    `options` go to `pymux.connect`.
    """
    options.setdefault("timeout", 20)
    with pymux.connect(listener.getsockname(), **options) as client:
        peer, _ = listener.accept()
        peer.settimeout(20)
        with peer:
            util.wait_until(lambda: util.is_up(peer))
            yield client, peer


@contextlib.contextmanager
def plain_peer(address=("127.0.0.1", 0), **options):
    """The same, with a listener at the address that is closed again. A client that
    is still open at the end of the block does not wait for its peer."""
    options.setdefault("timeout", 20)
    with util.listening(address) as listener:
        client = pymux.connect(listener.getsockname(), **options)
        peer, _ = listener.accept()
    peer.settimeout(20)
    with peer:
        util.wait_until(lambda: util.is_up(peer))
        try:
            yield client, peer
        finally:
            with contextlib.suppress(OSError):
                client.close(0)
