"""The standard library's selectors: answers at once, queues what is refused."""

import selectors

from common import READ, answers, arguments, listener, no_delay

args = arguments()
selector = selectors.DefaultSelector()


class Connection:
    """One connection: its answers, and what the kernel has not taken yet."""

    __slots__ = ("answer", "pending", "sock")

    def __init__(self, sock):
        self.sock = sock
        self.answer = answers(args)
        self.pending = b""
        selector.register(sock, selectors.EVENT_READ, self.readable)

    def close(self):
        selector.unregister(self.sock)
        self.sock.close()

    def send(self, data):
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        rest = data[sent:]
        if rest and not self.pending:  # reading goes on when it has left
            selector.modify(self.sock, selectors.EVENT_WRITE, self.writable)
        elif self.pending and not rest:
            selector.modify(self.sock, selectors.EVENT_READ, self.readable)
        self.pending = rest

    def writable(self):
        self.send(self.pending)

    def readable(self):
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        reply = self.answer(data)
        if reply:
            self.send(reply)


def accept():
    """Take all who wait in the backlog."""
    while True:
        try:
            sock, _ = server.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        no_delay(sock)
        Connection(sock)


server = listener(args)
server.setblocking(False)
selector.register(server, selectors.EVENT_READ, accept)
while True:
    for key, _ in selector.select():
        key.data()
