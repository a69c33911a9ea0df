"""A NATS server in a thread: as much of one as the groups of some servers need."""

import contextlib
import re
import socketserver
import threading

import pymux

INFO = b'INFO {"version":"2.10.4","headers":true,"max_payload":1048576}\r\n'


class Little:
    """Passes on what is published, to each subscriber but the publisher.

    Args:
        context: an `ssl.SSLContext`, for TLS from the first byte.
    """

    def __init__(self, context=None):
        self._context = context
        self._subscribers = {}  # subject -> {connection: sid}
        self._lock = threading.Lock()
        little = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    little.serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = False
            request_queue_size = 100

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = self._server.server_address
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """End; connections end when the other side ends them."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def backplane(self):
        return self.make()

    def make(self, **options):
        """A backplane that leads here."""
        return pymux.Nats(self.address, **options)

    def serve(self, sock):
        """Serve a connection, in its thread."""
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_side=True)
        with sock, sock.makefile("rb") as lines:
            sock.sendall(INFO)
            try:
                for line in lines:
                    self._take(sock, lines, line)
            finally:
                with self._lock:
                    for subscribers in self._subscribers.values():
                        subscribers.pop(sock, None)

    def _take(self, sock, lines, line):
        word, *rest = line.split()
        with self._lock:
            if word == b"SUB":
                self._subscribers.setdefault(rest[0], {})[sock] = rest[1]
            elif word == b"UNSUB":
                for subscribers in self._subscribers.values():
                    if subscribers.get(sock) == rest[0]:
                        del subscribers[sock]
            elif word == b"PING":
                sock.sendall(b"PONG\r\n")
            elif word == b"HPUB":
                text = lines.read(int(rest[2]) + 2)
                for other, sid in self._subscribers.get(rest[0], {}).items():
                    if other is not sock:
                        head = b" ".join([b"HMSG", rest[0], sid, *rest[1:]])
                        with contextlib.suppress(OSError):
                            other.sendall(head + b"\r\n" + text)
            else:
                assert re.match(b"CONNECT|PONG", word), line
