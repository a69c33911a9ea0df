"""Helpers of the tests. Everything here waits for a condition, with a bound."""

import concurrent.futures
import contextlib
import gc
import os
import random
import socket
import struct
import threading
import time

import pymux

# Whether no backend here has a descriptor that an asyncio loop can watch.
NO_GUESTS = os.environ.get("PYMUX_BACKEND") in ("poll", "select") or not (
    {"epoll", "kqueue"} & set(pymux.backends())
)
WHY_NO_GUESTS = "neither epoll nor kqueue"

LONG = 1 << 20  # bytes, more than a Unix socket takes at once
FORMS = ("function", "coroutine", "batch", "object", "batched object")


def in_form(form, answer):
    """A handler of the named form that answers each message with answer(data)."""

    @pymux.batched
    def batch(batch):
        batch.reply([answer(data) for data in batch.messages])

    def function(conn, data):
        return answer(data)

    async def coroutine(conn):
        async for data in conn:
            conn.send(answer(data))

    class Object:
        def received(self, conn, data):
            return answer(data)

    class BatchedObject:
        @pymux.batched
        def received(self, batch):
            batch.reply([answer(data) for data in batch.messages])

    return {
        "function": function,
        "coroutine": coroutine,
        "batch": batch,
        "object": Object(),
        "batched object": BatchedObject(),
    }[form]


def capitals(data):
    """An answer: the message in capitals, or LONG bytes of `x` for `long`."""
    return b"x" * (LONG - 1) if data == b"long" else data.upper()


@contextlib.contextmanager
def serving(handler, backend=None, address=("127.0.0.1", 0), **options):
    """A started `pymux.Server`, stopped at the end of the block."""
    with pymux.Server(handler, address, backend=backend, **options) as server:
        yield server


def in_server(server, fn, *args):
    """What fn(mux, *args) returns or raises when the server's thread calls it."""
    future = concurrent.futures.Future()

    def call(mux):
        try:
            future.set_result(fn(mux, *args))
        except BaseException as error:
            future.set_exception(error)

    server.call_threadsafe(call)
    return future.result(10)


def settle(server):
    """Return once the server has taken in what had arrived, and said what it had to."""
    for _ in range(3):
        in_server(server, lambda mux: None)


@contextlib.contextmanager
def held(server, then=lambda: None):
    """Hold the server's thread: one harvest takes all that arrives during the block.

    Over Unix sockets surely; over TCP, what the kernel delivers at once. `then` is
    called before the thread looks around again.
    """
    entered, release = concurrent.futures.Future(), concurrent.futures.Future()

    def hold(mux):
        entered.set_result(None)
        release.result(10)
        then()

    server.call_threadsafe(hold)
    entered.result(10)
    try:
        yield
    finally:
        release.set_result(None)


def then_stopped(server):
    """Hold the server during the block; it is stopped before it can look around."""
    return held(server, server.stop)


class Ends:
    """An object handler that answers, and notes which connections opened and ended."""

    def __init__(self, answer=bytes):
        self.answer = answer
        self.open = []  # Connection
        self.ended = []  # (Connection, what `closed` was given)

    def opened(self, conn):
        self.open.append(conn)

    def received(self, conn, data):
        return self.answer(data)

    def closed(self, conn, error):
        self.ended.append((conn, error))

    def errors(self):
        """The errno of each end, or None, in order."""
        return [error and error.errno for _, error in self.ended]


class Boom(Exception):
    """The exception that handlers of tests raise."""


class Panic(BaseException):
    """An exception outside `Exception`, as extension modules define theirs."""


class Gate:
    """A coroutine handler waits here until the test lets it go on."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    async def wait(self):
        """In the handler."""
        self.reached.set()
        await pymux.to_thread(self.opened.wait, 10)

    def open(self):
        """In the test."""
        assert self.reached.wait(10)
        self.opened.set()


def listening(address=("127.0.0.1", 0), backlog=300):
    """A plain socket that listens at a TCP tuple or a Unix socket path."""
    if isinstance(address, tuple):
        sock = socket.create_server(address, backlog=backlog)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address)
        sock.listen(backlog)
    sock.settimeout(20)
    return sock


def ready(selector, timeout=0):
    """What a selector's `select` says: {file object: events}."""
    found = {}
    for key, events in selector.select(timeout):
        found[key.fileobj] = found.get(key.fileobj, 0) | events
    return found


def free_port():
    """A TCP port for a program that cannot ask for port 0.

    No program listens there now. No connection gets it by chance, since the ports of
    those begin at 32768.
    """
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def connect(address, timeout=10):
    """A plain blocking socket connected to a TCP tuple or a Unix socket path.

    It connects without a timeout. With one, Python asks the socket a second time
    whether it is connected, and by then a quick server may have reset the connection.
    """
    if isinstance(address, tuple):
        sock = socket.create_connection(address[:2])
        sock.settimeout(timeout)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(os.fspath(address))
    except BaseException:
        sock.close()
        raise
    return sock


def is_up(sock):
    """Whether a connected socket can be served: over TLS, it has shaken hands."""
    return getattr(sock, "up", True)


def connect_narrow(address):
    """The same; over TCP the kernel takes little for it while it does not read."""
    if not isinstance(address, tuple):
        return connect(address)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.settimeout(10)
    sock.connect(address[:2])
    return sock


def connect_when_up(address, timeout=20):
    """Connect once something listens at an address."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def exchange(address, sent, size):
    """The first `size` bytes that a new client gets for what it sent."""
    with connect(address) as sock:
        sock.sendall(sent)
        return recv_exactly(sock, size)


def everything(address, sent):
    """All that a new client gets that sends and ends its stream."""
    with connect(address) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        return recv_all(sock)


def recv_exactly(sock, n):
    """The next n bytes from a socket; an EOFError when the stream ends before."""
    data = bytearray()
    while len(data) < n:
        piece = sock.recv(min(n - len(data), 1 << 20))
        if not piece:
            raise EOFError(f"the stream ended after {len(data)} of {n} bytes")
        data += piece
    return bytes(data)


def recv_all(sock):
    """Everything from a socket until the peer ends its stream."""
    data = bytearray()
    while True:
        piece = sock.recv(1 << 20)
        if not piece:
            return bytes(data)
        data += piece


def until_end(sock):
    """(everything from a socket until its end, None or the errno it ended with)."""
    data = bytearray()
    while True:
        try:
            piece = sock.recv(1 << 20)
        except ConnectionError as error:
            return bytes(data), error.errno
        if not piece:
            return bytes(data), None
        data += piece


def fill(sock, size, pattern=b"0123456789abcdef"):
    """Send up to `size` bytes as far as the kernel takes them; how many it took."""
    timeout = sock.gettimeout()
    sock.setblocking(False)
    data = memoryview(pattern * (size // len(pattern) + 1))[:size]
    sent = 0
    try:
        while sent < size:
            sent += sock.send(data[sent:])
    except BlockingIOError:
        pass
    finally:
        sock.settimeout(timeout)
    return sent


def reset(sock):
    """Close a TCP socket with a reset instead of an end of stream."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def collect():
    """Collect garbage, with what only a finalizer lets go of."""
    for _ in range(3):
        gc.collect()


def wait_until(condition, timeout=10):
    """Return once condition() holds; an AssertionError after the timeout.

    For what other threads and processes do. What a mux does is waited for with
    `harvest_until`, since nothing happens on a mux that is not harvested.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition} did not hold within {timeout} s")
        time.sleep(0.001)


class Harvested:
    """What several harvests reported, copied out of their batches."""

    ROWS = "opened", "messages", "ended", "blocked", "drained", "closed"

    def __init__(self):
        self.opened = []  # Connection
        self.messages = []  # (Connection, bytes)
        self.ended = []  # Connection
        self.blocked = []  # Connection
        self.drained = []  # Connection
        self.closed = []  # (Connection, OSError or None)
        self.turns = 0

    def add(self, batch):
        """Copy out the rows of a batch."""
        self.opened.extend(batch.opened)
        self.messages.extend(batch)
        self.ended.extend(batch.ended)
        self.blocked.extend(batch.blocked)
        self.drained.extend(batch.drained)
        self.closed.extend(batch.closed)
        self.turns += 1

    @property
    def payloads(self):
        """The messages alone, in order."""
        return [data for _, data in self.messages]

    def received(self, conn):
        """Everything that one connection received, joined."""
        return b"".join(data for c, data in self.messages if c is conn)

    def is_closed(self, conn):
        """Whether `closed` has told of this connection."""
        return any(c is conn for c, _ in self.closed)

    def error(self, conn):
        """The error with which a closed connection ended, or None."""
        (error,) = [error for c, error in self.closed if c is conn]
        return error

    def errno(self, conn):
        """The errno with which a closed connection ended, or None."""
        error = self.error(conn)
        return None if error is None else error.errno

    def has_rows(self):
        """Whether anything at all was reported."""
        return any(getattr(self, name) for name in self.ROWS)

    def __repr__(self):
        rows = ", ".join(f"{len(getattr(self, name))} {name}" for name in self.ROWS)
        return f"<{self.turns} harvests: {rows}>"


def harvest_until(mux, predicate, timeout=10, into=None, **options):
    """Harvest until predicate(acc) holds, and return acc, a `Harvested`.

    Rows are copied out of each batch. `into` goes on with an earlier acc,
    `options` go to each harvest. An AssertionError says what had come by the timeout.
    """
    acc = Harvested() if into is None else into
    deadline = time.monotonic() + timeout
    while not predicate(acc):
        left = deadline - time.monotonic()
        if left <= 0:
            raise AssertionError(f"not within {timeout} s; so far: {acc}")
        # A short wait, so that a predicate that looks elsewhere is asked again.
        acc.add(mux.harvest(min(left, 0.05), **options))
    return acc


def pair(mux, framing=None, **listen_options):
    """A new (Connection on the mux, blocking socket at its other end).

    The listener is closed again. The caller closes the socket.
    """
    listener = mux.listen(("127.0.0.1", 0), framing=framing, **listen_options)
    peer = connect(listener.address)
    try:
        acc = harvest_until(mux, lambda acc: acc.opened)
    except BaseException:
        peer.close()
        raise
    finally:
        listener.close()
    (conn,) = acc.opened
    return conn, peer


def says_hello(mux, address, to=None):
    """Assert that a listener at `address` serves a peer; its Connection."""
    listener = mux.listen(address)
    with connect(listener.address if to is None else to(listener.address)) as peer:
        (conn,) = harvest_until(mux, lambda acc: acc.opened).opened
        peer.sendall(b"hello")
        harvest_until(mux, lambda acc: acc.received(conn) == b"hello")
        conn.send(b"yourself")
        mux.harvest(0)
        assert recv_exactly(peer, 8) == b"yourself"
    return conn


def outgoing(mux, framing=None, **connect_options):
    """A new (Connection that the mux made, blocking socket at its other end).

    The caller closes the socket.
    """
    with listening() as server:
        conn = mux.connect(server.getsockname(), framing=framing, **connect_options)
        harvest_until(mux, lambda acc: conn in acc.opened)
        peer, _ = server.accept()
    peer.settimeout(10)
    return conn, peer


def assert_nothing(mux):
    """Assert that the mux has nothing to report now."""
    acc = Harvested()
    acc.add(mux.harvest(0))
    assert not acc.has_rows(), acc


def assert_idle(mux, seconds=0.15):
    """Assert that for a while the mux reports nothing, returns seldom, and sleeps."""
    acc = Harvested()
    cpu = time.thread_time()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        acc.add(mux.harvest(max(0.0, deadline - time.monotonic())))
    cpu = time.thread_time() - cpu
    assert not acc.has_rows(), acc
    assert acc.turns < 30, f"{acc.turns} harvests returned in {seconds} s of nothing"
    assert cpu < seconds / 2, f"{cpu:.3f} s of CPU in {seconds} s of nothing"


@contextlib.contextmanager
def full_backlog():
    """The address of a listener that takes nobody any more."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def answer(mux, peer, expected):
    """Assert that the answers up to now are exactly `expected`."""
    mux.harvest(0)
    assert recv_exactly(peer, len(expected)) == expected
    peer.setblocking(False)
    try:
        more = peer.recv(1)
    except BlockingIOError:
        more = None
    assert more is None
    peer.settimeout(10)
