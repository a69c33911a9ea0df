"""A peer over TLS that says what no honest one says, by tlslite-ng.

`pytest.importorskip` of this module's `tlslite` skips the tests where it is missing.
"""

import warnings

import pytest

from . import util

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports what Python means to drop
    pytest.importorskip("tlslite", reason="tlslite-ng is not installed")
    from tlslite import errors
    from tlslite.handshakesettings import HandshakeSettings
    from tlslite.messages import Message
    from tlslite.tlsconnection import TLSConnection
    from tlslite.utils.keyfactory import parsePEMKey
    from tlslite.x509certchain import X509CertChain

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA, HEARTBEAT = 20, 21, 22, 23, 24
HEAD = 5  # bytes of a record's header
VERSIONS = {"TLSv1.2": (3, 3), "TLSv1.3": (3, 4)}
CIPHERS = {"TLSv1.2": "aes128gcm", "TLSv1.3": "chacha20-poly1305"}  # quick in Python


class Left(Exception):
    """The client has left in the middle of what it said."""


class Wire:
    """A socket that keeps what is sent instead, while it is told to.

    Attributes:
        sent: the pieces that were sent.
        cut: (index of a piece, bytes of it), behind which it leaves; or None.
    """

    def __init__(self, sock, cut=None):
        self.sock = sock
        self.kept = None
        self.sent = []
        self.cut = cut

    def send(self, data):
        if self.kept is not None:
            self.kept += data
            return len(data)
        if self.cut and len(self.sent) == self.cut[0]:
            self.sock.sendall(data[: self.cut[1]])
            raise Left
        self.sent.append(bytes(data))
        self.sock.sendall(data)
        return len(data)

    def sendall(self, data):
        self.send(data)

    def __getattr__(self, name):
        return getattr(self.sock, name)


class Talker(TLSConnection):
    """What a client and a server have in common. `cut` is that of `Wire`.

    Attributes:
        raw: its socket, for bytes as they are.
    """

    def __init__(self, sock, version, cut=None):
        self._wire = Wire(sock, cut)
        super().__init__(self._wire)
        self.raw = sock
        self.settings = HandshakeSettings()
        self.settings.minVersion = self.settings.maxVersion = VERSIONS[version]
        self.settings.cipherNames = [CIPHERS[version]]

    @property
    def pieces(self):
        """What it has sent so far, in pieces."""
        return self._wire.sent

    def leave(self):
        """Close, without a word."""
        self.raw.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()

    # -- what it says ------------------------------------------------------------

    def sealed(self, kind, data):
        """A record of the next number, encrypted as it should be."""
        return self.kept(self._recordLayer.sendRecord(Message(kind, bytearray(data))))

    def update(self, wanted=False):
        """A record that says that its keys change, and whether ours are to."""
        return self.kept(self.send_keyupdate_request(int(wanted)))

    def kept(self, steps):
        """The bytes that steps of tlslite's send."""
        self._wire.kept = bytearray()
        try:
            for _ in steps:
                pass
            return bytes(self._wire.kept)
        finally:
            self._wire.kept = None

    def say(self, *records):
        """Send records, however the other end likes them."""
        self.raw.sendall(b"".join(records))

    def flood(self, records):
        """Send records as long as the other end goes on; whether it has to the end.
        Nothing that comes is read."""
        try:
            for record in records:
                self.raw.sendall(record)
        except OSError:
            return False
        return True

    # -- what it hears -----------------------------------------------------------

    def hears(self, data):
        """Assert that it is sent these bytes, under its own keys."""
        assert bytes(self.read(min=len(data), max=len(data))) == data

    def hears_the_end(self):
        """Assert that nothing comes but an alert or an end, under its own keys: the
        alert's number, or None."""
        try:
            assert not self.recv(1)
        except errors.TLSRemoteAlert as alert:
            return alert.description
        except (errors.TLSAbruptCloseError, ConnectionError):
            pass
        return None


class Hostile(Talker):
    """A client that has shaken hands, unless it leaves at a cut before."""

    def __init__(self, address, version="TLSv1.3", cut=None):
        super().__init__(util.connect(address), version, cut)
        try:
            self.handshakeClientCert(settings=self.settings, serverName="localhost")
        except BaseException:
            self.leave()
            raise


class HostileServer(Talker):
    """A server that has shaken hands with the next peer of a listener."""

    def __init__(self, listener, certificate, version="TLSv1.3"):
        sock, _ = listener.accept()
        sock.settimeout(10)
        super().__init__(sock, version)
        self.settings.ticket_count = 0
        chain = X509CertChain()
        chain.parsePemList(certificate.cert_chain_pems[0].bytes().decode())
        key = parsePEMKey(certificate.private_key_pem.bytes().decode(), private=True)
        try:
            self.handshakeServer(
                certChain=chain, privateKey=key, settings=self.settings
            )
        except BaseException:
            self.leave()
            raise


def record(kind, data, version=0x0303, size=None):
    """A record in plain text; `size` is what its header claims."""
    size = len(data) if size is None else size
    return bytes([kind]) + version.to_bytes(2, "big") + size.to_bytes(2, "big") + data


def records_of(data, size=16384):
    """Handshake messages in records of so many bytes."""
    return b"".join(
        record(HANDSHAKE, data[at : at + size], 0x0301)
        for at in range(0, len(data), size)
    )


def padded(message, size):
    """A client's hello with an extension of no known kind, of so many bytes."""
    body = message[4:]
    at = 34 + 1 + body[34]  # behind the version, the random bytes and the session
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # the ciphers
    at += 1 + body[at]  # the compressions
    extensions = body[at + 2 :] + b"\xfa\xfa" + size.to_bytes(2, "big") + bytes(size)
    body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
    return message[:1] + len(body).to_bytes(3, "big") + body
