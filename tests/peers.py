"""Peers that read or write in a thread of their own."""

import contextlib
import socket
import threading

from .util import harvest_until, until_end


@contextlib.contextmanager
def talking(sock, data=b"more of it\n" * 1000):
    """During the block a thread goes on sending `data` to a socket. The other end
    may be lost meanwhile. The stream ends with the block."""
    over = threading.Event()

    def talk():
        with contextlib.suppress(OSError):
            while not over.is_set():
                sock.sendall(data)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        thread.join()


@contextlib.contextmanager
def slow_reader(listener, got):
    """A thread that accepts one connection and reads it to its end, by and by."""

    def read():
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(20)
            go.wait(20)
            got.append(until_end(sock))

    go = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield go
    finally:
        go.set()
        thread.join()


class Reader:
    """Reads a socket to its end in a thread."""

    def __init__(self, sock):
        self.result = None
        self.thread = threading.Thread(target=self.run, args=[sock])
        self.thread.start()

    def run(self, sock):
        self.result = until_end(sock)

    def join(self):
        self.thread.join()
        return self.result


def wait_until_read(mux, reader):
    """Harvest until the reader has seen the end of its stream."""
    harvest_until(mux, lambda acc: not reader.thread.is_alive())
