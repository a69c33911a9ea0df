"""Plain tests over TLS: `pytest --tls adopted`, or `--tls portable`.

What a call of the package takes for `ssl=` where a test gives none is a context, and
what `util` gives for a plain socket is a `Secure`, which a test uses in the same way.
plain_only.py lists what stays out.
"""

import asyncio
import contextlib
import errno
import functools
import os
import queue
import select
import socket
import ssl
import struct
import threading
import time
import weakref

import pymux
import pymux.aio

from . import inside, util
from .tls import Papers

PATIENCE = 20.0  # seconds for what a closed socket has left to do
BRIEFLY = 1.0  # seconds that a client waits for its server
RECORD = 16384
ENGINES = {"adopted": "adopt", "portable": "portable"}
LISTENING = [pymux.Mux.listen, pymux.Server.__init__, pymux.serve, pymux.aio.serve]
CONNECTING = [pymux.Mux.connect, pymux.connect, pymux.dial, pymux.aio.connect]


class Secure:
    """A blocking socket over TLS which seems to be a plain one.

    It shakes hands in a thread, since the test's own thread may be the one that
    harvests. What is sent before is sent then, and so is the end: as the kernel does
    for a plain socket, and with `close` said where a plain socket would say FIN.
    """

    def __init__(self, raw, context, server_side=False):
        self._timeout = raw.gettimeout()
        raw.setblocking(False)
        if raw.family != socket.AF_UNIX:
            # What follows the handshake must not wait for its acknowledgement.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = raw
        self._lock = threading.RLock()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side)
        self._up = threading.Event()  # or it has failed
        self._error = None  # of the handshake: what recv and send raise
        self._lost = None  # what send raises; recv reads on
        self._early = bytearray()  # plaintext, sent before the handshake is done
        self._got = b""  # plaintext, read before our end was said
        self._left = b""  # ciphertext that the kernel has not taken
        self._end = None  # what `shutdown` was given
        self._said = self._closed = self._gone = self._helped = False
        with self._lock:
            self._go_on()

    def __getattr__(self, name):
        return getattr(self._raw, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    # --- what goes on without the test ------------------------------------------

    def _go_on(self):
        """Do what can be done now; a thread does what remains."""
        try:
            self._advance()
        except OSError as error:
            self._fail(error)
        if not self._helped and self._waits_for():
            self._helped = True
            threading.Thread(target=self._help, daemon=True).start()

    def _waits_for(self):
        """The events of `poll` that it takes to go on without the test, or 0."""
        if self._gone or self._error or self._lost:
            return 0
        return (0 if self._up.is_set() else select.POLLIN) | (
            select.POLLOUT if self._left else 0
        )

    def _help(self):
        until = time.monotonic() + PATIENCE
        while True:
            with self._lock:
                events = self._waits_for()
                if not events or time.monotonic() > until:
                    self._helped = False
                    if events:
                        self._fail(TimeoutError("no progress"))
                    return
                poll = select.poll()
                poll.register(self._raw, events)
            poll.poll(1000)
            with self._lock:
                try:
                    self._advance()
                except OSError as error:
                    self._fail(error)

    def _fail(self, error):
        self._error = error
        self._flush()  # an alert
        self._up.set()
        if self._closed:
            self._let_go()

    def _advance(self):
        if self._gone or self._error:
            return
        while not self._up.is_set():
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if self._lost:
                    raise self._lost from None
                if not self._receive():
                    return
            else:
                for at in range(0, len(self._early), RECORD):
                    self._object.write(self._early[at : at + RECORD])
                self._flush()
                self._up.set()
        self._flush()
        if self._closed and self._is_to_reset() and not self._left:
            self._let_go()
            return
        if self._end is not None and not self._said and not self._left:
            self._said = True
            self._say_bye()
            self._flush()
        if self._left:
            return
        if self._said:
            with contextlib.suppress(OSError):
                self._raw.shutdown(self._end)
        if self._closed:
            self._let_go()

    def _say_bye(self):
        """Say the end of our stream; `unwrap` must find nothing to read."""
        with contextlib.suppress(ssl.SSLError):
            while data := self._object.read(RECORD):
                self._got += data
        rest = self._in.read()
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()
        self._in.write(rest)

    def _flush(self):
        self._left += self._out.read()
        try:
            while self._left:
                self._left = self._left[self._raw.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost, self._left = error, b""

    def _receive(self):
        """Take in what has arrived; whether that is anything, the end too."""
        try:
            data = self._raw.recv(1 << 16)
        except BlockingIOError:
            return False
        if data:
            self._in.write(data)
            if self._raw.family != socket.AF_UNIX and hasattr(socket, "TCP_QUICKACK"):
                # Behind a handshake it would be put off, unlike a plain peer's.
                self._raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        else:
            self._in.write_eof()
        return True

    def _let_go(self):
        self._gone = True
        self._raw.close()

    # --- as a socket --------------------------------------------------------------

    @property
    def up(self):
        """Whether the handshake is done, or has failed."""
        return self._up.is_set()

    def wait_up(self, timeout):
        """Return once the handshake is done, or has failed, or the time is over."""
        self._up.wait(timeout)

    def gettimeout(self):
        return self._timeout

    def settimeout(self, timeout):
        self._timeout = timeout

    def setblocking(self, blocks):
        self._timeout = None if blocks else 0.0

    def fileno(self):
        return -1 if self._closed else self._raw.fileno()

    def _wait(self, events, until):
        """Wait for events of the socket, as far as its timeout allows."""
        if self._timeout == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left = None if until is None else max(0.0, until - time.monotonic())
        if left == 0:
            raise TimeoutError("timed out")
        poll = select.poll()
        poll.register(self._raw, events)
        # Another thread of the test's may take what comes.
        poll.poll(50 if left is None else min(50.0, left * 1000))

    def _until(self):
        return self._timeout and time.monotonic() + self._timeout

    def _check(self):
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def recv(self, size):
        """As a socket's. A stream that is cut is no end: it shows as a reset."""
        until = self._until()
        while True:
            with self._lock:
                self._check()
                if self._got:
                    data, self._got = self._got[:size], self._got[size:]
                    return data
                if self._error:
                    raise self._error
                if self._up.is_set():
                    try:
                        return self._object.read(size)
                    except ssl.SSLZeroReturnError:
                        return b""
                    except ssl.SSLEOFError as error:
                        raise ConnectionResetError(errno.ECONNRESET, "cut") from error
                    except ssl.SSLWantReadError:
                        if self._receive():
                            continue
            if self._up.is_set():
                self._wait(select.POLLIN, until)
            elif self._timeout == 0:
                self._wait(0, until)
            elif not self._up.wait(self._timeout):
                raise TimeoutError("timed out")

    def recv_into(self, to):
        data = self.recv(len(to))
        to[: len(data)] = data
        return len(data)

    def send(self, data):
        until = self._until()
        with memoryview(data).cast("B") as data:
            while True:
                with self._lock:
                    self._check()
                    if self._error or self._lost:
                        raise self._error or self._lost
                    if self._end is not None:
                        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
                    if not self._up.is_set():
                        self._early += data
                        return len(data)
                    self._flush()
                    if not self._left:
                        part = data[:RECORD]
                        self._object.write(part)
                        self._go_on()
                        if self._lost:
                            raise self._lost
                        return len(part)
                self._wait(select.POLLOUT, until)

    def sendall(self, data):
        until = self._until()
        with memoryview(data).cast("B") as data:
            while data:
                data = data[self.send(data) :]
            while self._left:
                self._wait(select.POLLOUT, until)
                with self._lock:
                    self._go_on()

    def shutdown(self, how):
        with self._lock:
            self._check()
            if how != socket.SHUT_RD and self._end is None:
                self._end = how
                self._go_on()

    def close(self):
        """A close with bytes unread resets the connection, as a plain one does."""
        with self._lock:
            if self._closed:
                return
            if self._up.is_set() and not self._gone and not self._error:
                if self._has_unread() or self._is_to_reset():
                    self._closed = True
                    self._let_go()
                    return
            elif self._error:
                self._closed = True
                self._let_go()
                return
            if self._end is None:
                self._end = socket.SHUT_WR
            self._closed = True
            self._go_on()

    def _is_to_reset(self):
        linger = self._raw.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        return linger == struct.pack("ii", 1, 0)

    def _has_unread(self):
        """Whether the peer has sent what nobody has read; close_notify is no such."""
        with contextlib.suppress(OSError):
            peeked = self._raw.recv(1 << 20, socket.MSG_PEEK)
            if self._got or self._object.pending():
                abort = struct.pack("ii", 1, 0)
                self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
                return True
            self._in.write(peeked)
            if self._object.read(1):
                return True
            self._raw.recv(len(peeked))
        return False


class SecureListener:
    """A listening socket whose `accept` gives a `Secure`.

    A thread accepts, since a client shakes hands before the test accepts it.
    """

    def __init__(self, raw, context):
        self._raw = raw
        self._context = context
        self._timeout = raw.gettimeout()
        self._over = False
        self._accepted = queue.SimpleQueue()
        raw.setblocking(False)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __getattr__(self, name):
        return getattr(self._raw, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def _serve(self):
        poll = select.poll()
        poll.register(self._raw, select.POLLIN)
        while not self._over:
            poll.poll(PATIENCE * 1000)
            with contextlib.suppress(OSError):
                sock, address = self._raw.accept()
                sock.settimeout(None)
                secure = Secure(sock, self._context, server_side=True)
                self._accepted.put((secure, address))

    def settimeout(self, timeout):
        self._timeout = timeout

    def setblocking(self, blocks):
        self._timeout = None if blocks else 0.0

    def accept(self):
        try:
            return self._accepted.get(self._timeout != 0, self._timeout)
        except queue.Empty:
            if self._timeout == 0:
                again = os.strerror(errno.EAGAIN)
                raise BlockingIOError(errno.EAGAIN, again) from None
            raise TimeoutError("timed out") from None

    def close(self):
        if self._over:
            return
        self._over = True
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._raw.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._accepted.get_nowait()[0].close()


class Waits:
    """Whether a new client waits until it has shaken hands, so that a test which goes
    on finds its server serve it, as the plain test does.

    It must not where the server needs the client's thread, or has none to serve with.
    """

    def __init__(self):
        self._here = weakref.WeakSet()  # listeners of muxes that the test harvests
        self._held = 0
        self._listen, self._hold = pymux.Mux.listen, util.held

    def listen(self, mux, *args, **options):
        """`Mux.listen`."""
        made = self._listen(mux, *args, **options)
        self._here.update(made if isinstance(made, list) else [made])
        return made

    @contextlib.contextmanager
    def hold(self, *args, **options):
        """`util.held`."""
        with self._hold(*args, **options):
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def secure(self, sock, context):
        """A client over TLS of a plain one, or itself."""
        if isinstance(sock, Secure):
            return sock
        made = Secure(sock, context)
        if threading.current_thread() is not threading.main_thread() or self._held:
            return made
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return made
        name = sock.getpeername()
        if not any(listener.address in (name, name[:2]) for listener in self._here):
            made.wait_up(BRIEFLY)
        return made


def begin(engine):
    """From now on this process's calls, and the sockets of `util`, are over TLS."""
    os.environ["PYMUX_TLS"] = ENGINES[engine]
    inside.choose_tls_again()
    papers = Papers()
    server, client = papers.server(), papers.client(check_hostname=False)
    if engine == "portable":
        server.num_tickets = 0  # a peer that only sends, and closes, would be reset
    for calls, context in (LISTENING, server), (CONNECTING, client):
        for call in calls:
            call.__kwdefaults__["ssl"] = context
    peers = papers.server(num_tickets=0)
    waits = Waits()
    connect, narrow, listening = util.connect, util.connect_narrow, util.listening
    util.connect = lambda *args: waits.secure(connect(*args), client)
    util.connect_narrow = lambda *args: waits.secure(narrow(*args), client)
    util.listening = lambda *args, **options: SecureListener(
        listening(*args, **options), peers
    )
    util.held = waits.hold
    pymux.Mux.listen = functools.wraps(pymux.Mux.listen)(
        lambda *args, **options: waits.listen(*args, **options)
    )
