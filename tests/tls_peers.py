"""A server of Python's own `ssl` in a thread; the other end of a socket, without one;
what clients have answered; certificates as files."""

import contextlib
import socket
import ssl
import threading

from .tls import NAME, secure
from .util import harvest_until, recv_exactly


def write(certificate, folder, name="server"):
    """Write a certificate with its chain, and its key; the paths of both."""
    paths = [folder / f"{name}-{part}.pem" for part in ("cert", "key")]
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    paths[0].write_bytes(chain)
    paths[1].write_bytes(certificate.private_key_pem.bytes())
    return [str(path) for path in paths]


def asked(address, context, data, name=NAME):
    """What a server over TLS answers to some bytes, as many as were sent."""
    with secure(address, context, name) as sock:
        sock.sendall(data)
        return recv_exactly(sock, len(data))


class Peer:
    """A server of the standard library's over TLS, which answers in capitals.

    Attributes:
        listener: its socket.
        names: what clients have asked for by SNI.
        errors: of handshakes that failed.
    """

    def __init__(self, listener, context):
        self.listener = listener
        self.names = []
        self.errors = []
        self._context = context
        context.sni_callback = lambda sock, name, context: self.names.append(name)

    @property
    def address(self):
        return self.listener.getsockname()

    def run(self):
        with contextlib.suppress(OSError):  # the listener is shut down
            while True:
                sock, _ = self.listener.accept()
                sock.settimeout(10)
                self.serve(sock)

    def serve(self, sock):
        try:
            with sock, self._context.wrap_socket(sock, server_side=True) as secure:
                while data := secure.recv(65536):
                    secure.sendall(data.upper())
                secure.unwrap()
        except OSError as error:
            self.errors.append(error)


@contextlib.contextmanager
def tls_peer(context, path=None):
    """A `Peer` in a thread, on this machine or at a path; one client at a time."""
    listener = (
        socket.create_server(("127.0.0.1", 0))
        if path is None
        else socket.socket(socket.AF_UNIX)
    )
    with listener:
        if path is not None:
            listener.bind(str(path))
            listener.listen()
        peer = Peer(listener, context)
        thread = threading.Thread(target=peer.run)
        thread.start()
        try:
            yield peer
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def pair_of_tcp():
    """A connected socket, and its peer, which waits at most 20 s."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
    theirs.settimeout(20)
    return ours, theirs


class OtherEnd:
    """The other end of a socket, by Python's own `ssl`; goes on between harvests.

    Attributes:
        up: its handshake is done.
        got: the plaintext that it has read.
        end: what has ended its reading: None, "bye" (close_notify) or an OSError.
    """

    def __init__(self, sock, context, **side):
        sock.setblocking(False)
        self.sock = sock
        self.up, self.got, self.end = False, b"", None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._in, self._out, **side)

    def begin(self):
        """Say what comes first."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.object.do_handshake()
        self.flush()

    def flush(self):
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(self._out.read())

    def send(self, data):
        self.object.write(data)
        self.flush()

    def go_on(self):
        """Take in what has come, and answer it."""
        try:
            while data := self.sock.recv(65536):
                self._in.write(data)
            self._in.write_eof()
        except BlockingIOError:
            pass
        except OSError as error:
            self.end = error
        try:
            if not self.up:
                self.object.do_handshake()
                self.up = True
            while data := self.object.read(65536):
                self.got += data
            self.end = "bye"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.end = self.end or error
        self.flush()


def go_on_until(mux, peer, predicate, into=None):
    """Harvest, and let the peer go on, until predicate(acc)."""

    def is_so(acc):
        peer.go_on()
        return predicate(acc)

    return harvest_until(mux, is_so, into=into)
