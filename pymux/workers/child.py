"""What a worker's process runs: the user's server, without sockets of its own.

The worker reads its options from the control socket, imports the handler, binds a
server without listeners and says that it is ready. From then on it does what the
supervisor says: listen on these sockets, stop. It drains when the control socket ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import pickle
import selectors
import socket
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any

from ..figures.pages import PageNumber, attach
from ..objects.base import engine_of
from ..objects.listener import Listener
from ..server.balance import Balance
from ..server.base import count_in, listen_at, mux_of, share_in
from ..server.giver import Giver
from ..server.server import Server, run_until_signal
from ..server.taker import Taker
from ..values.posix import signal
from ..values.stats import Stats
from .channel import Channel, Frame
from .references import Reference, run_main_again

__all__ = ["Task", "in_worker", "main"]

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
LIBRARY = os.path.dirname(os.__file__) + os.sep
LAST_WORD = 1.0  # seconds that the supervisor has to read the figures
_inside = False  # this process is a worker


def in_worker() -> bool:
    """Whether this process is a worker, which cannot have workers of its own."""
    return _inside


@dataclass
class Task:
    """What a worker is to serve; the supervisor pickles it.

    Attributes:
        handler: where the handler is; None if each endpoint has its own.
        endpoints: the addresses, each with the `Reference` of its handler.
        options: further arguments of `Server`.
        made: arguments of `Server` that the worker makes or imports.
        setup: called when the handler is there, before the server is made.
    """

    handler: Reference | None
    endpoints: list[Any]
    options: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Reference] = field(default_factory=dict)
    setup: Reference | None = None

    def server(self) -> Server:
        """Import what the task names, and make the server.

        Raises:
            Exception: of the user's modules, or for an argument that is refused.
        """
        handler = None if self.handler is None else self.handler.resolve()
        endpoints = [
            end
            if getattr(end, "handler", None) is None  # an address alone
            else dataclasses.replace(end, handler=_resolved(end.handler))
            for end in self.endpoints
        ]
        made = {name: reference.resolve() for name, reference in self.made.items()}
        if self.setup is not None:
            self.setup.resolve()
        return Server(handler, endpoints, **self.options, **made)


def _resolved(reference: Any) -> Any:
    return reference.resolve()


class Worker:
    """The life of this process: what the supervisor says, and what it is told.

    Args:
        control: this end of the control socket.
    """

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._listeners: dict[int, list[Listener]] = {}  # by slot
        self._server: Server | None = None
        self._watch: Any = None
        self._ready = False
        self._balance: Balance | None = None
        self._reset = 0  # connections, before the last gift had ended
        self._bell: socket.socket | None = None  # wakes the supervisor

    def run(self) -> None:
        """Serve until the supervisor says to stop; tell why, if that cannot begin."""
        try:
            server, names = self._prepare()
            self._server = server
            stats = run_until_signal(server, self._bound, names)
        except BaseException as error:
            if self._ready:
                raise
            self._control.send("failed", _reason(error), _trace(error))
            raise SystemExit(1) from None
        self._say_last(stats)

    def close(self) -> None:
        """Close what leads to the supervisor."""
        self._control.close()
        if self._bell is not None:
            self._bell.close()

    def _prepare(self) -> tuple[Server, list[list[Any]]]:
        """Make the server, as the supervisor has told; and the names of its addresses.

        Raises:
            Exception: of the user's modules, or for an argument that is refused.
        """
        start = self._control.wait()
        task = self._control.wait()
        if start is None or task is None:
            raise SystemExit(1)  # the supervisor is gone
        [_, told] = start.words
        self._bell = next(iter(start.sockets()), None)  # an older supervisor has none
        sys.argv[:] = told["argv"]
        if told["main"] is not None:
            run_main_again(*told["main"])
        made: Task = pickle.loads(task.body)
        server = made.server()
        if told["page"] is not None:
            count_in(server, attach(PageNumber(*told["page"])))
        return server, [
            [tuple(name) if isinstance(name, list) else name for name in names]
            for names in told["names"]
        ]

    def _bound(self, server: Server) -> None:
        mux = mux_of(server)
        self._control.sock.setblocking(False)
        self._watch = mux.watch(
            self._control.sock, selectors.EVENT_READ, lambda *_: self._obey()
        )
        server.call_threadsafe(lambda mux: self._say_ready())  # behind `started`
        signal.signal(signal.SIGTERM, lambda *_: self._pass_on())

    def _say_ready(self) -> None:
        assert self._server is not None
        self._ready = True
        mux = mux_of(self._server)
        words: list[Any] = [mux.stats().backend]
        if self._bell is not None:
            engine_of(mux).wakes(self._bell.fileno())
            words.append("wakes")
        self._control.send("ready", *words)

    def _pass_on(self) -> None:
        """SIGTERM: the supervisor, which may have got it too, is to decide."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            assert self._server is not None
            self._server.call_threadsafe(lambda mux: self._control.send("asked"))

    def _obey(self) -> None:
        """Do what has come from the supervisor; drain if the supervisor is gone."""
        assert self._server is not None
        more = self._control.receive()
        for frame in self._control.frames():
            self._do(frame)
        if not more:
            self._watch.close()
            self._server.stop()

    def _do(self, frame: Frame) -> None:
        assert self._server is not None
        what, *words = frame.words
        if what == "share":
            share_in(self._server, words[0])
        elif what == "listen":
            slot, numbers = words
            self._listen(slot, numbers, frame.sockets())
        elif what == "unlisten":
            self._unlisten(words[0])
        elif what == "seat":
            (seats,), frame.fds = frame.fds, []
            if self._balance is not None:
                self._balance.end()
            self._balance = Balance(self._server, seats, words[0])
        elif what in ("reach", "inbox"):
            (sock,) = frame.sockets()
            self._meet(what, words[0], sock)
        elif what == "take":
            (sock,) = frame.sockets()
            Taker(self._server, sock)
        elif what == "give":
            (sock,) = frame.sockets()
            self._accept_no_more()
            patience, *which = words
            Giver(
                self._server,
                sock,
                patience=patience,
                on_done=lambda giver: self._gave(giver, which),
            )
        elif what == "stop":
            drain_timeout, linger, is_last = words
            if is_last and self._balance is not None:
                self._balance.take_all()
            self._accept_no_more()
            self._server.stop(drain_timeout, linger=linger)

    def _gave(self, giver: Giver, which: list[int]) -> None:
        self._reset = giver.reset
        self._control.send("gave", giver.moved, giver.remain, giver.error, *which)

    def _meet(self, what: str, slot: int, sock: socket.socket) -> None:
        """Give to a slot, too; or read what is given to one."""
        if self._balance is None:
            sock.close()
        elif what == "inbox":
            self._balance.open(slot, sock)
        else:
            with contextlib.suppress(OSError):  # without the seats, none is given
                self._balance.reach(slot, sock)

    def _accept_no_more(self) -> None:
        for slot in list(self._listeners):
            self._unlisten(slot)
        if self._balance is not None:
            self._balance.end()
            self._balance = None

    def _unlisten(self, slot: int) -> None:
        if self._balance is not None:
            self._balance.close(slot)
        for listener in self._listeners.pop(slot, ()):
            listener.close()

    def _listen(self, slot: int, numbers: list[int], socks: list[Any]) -> None:
        assert self._server is not None
        made = self._listeners.setdefault(slot, [])
        with contextlib.ExitStack() as stack:
            for sock in socks:
                stack.callback(sock.close)
            for number, sock in zip(numbers, socks):
                made.append(listen_at(self._server, number, sock))

    def _say_last(self, stats: Stats) -> None:
        sock = self._control.sock
        with contextlib.suppress(OSError):
            sock.settimeout(LAST_WORD)
            words: list[Any] = [list(stats.ends.items())]
            if self._bell is not None:  # an older supervisor hears no second word
                words.append(stats.reset - self._reset)
            self._control.send("done", *words)


def _reason(error: BaseException) -> str:
    """One line: what an exception says, and where it was raised."""
    text = " ".join(str(error).split()) or "no message"
    where = ""
    if not isinstance(error, SyntaxError):  # its text names the line
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if _is_users(frame.filename):
                file = os.path.basename(frame.filename)
                where = f" ({file}, line {frame.lineno})"
                break
    return f"{type(error).__name__}: {text}{where}"


def _trace(error: BaseException) -> str:
    """The user's own lines that led to an exception; "" if none did."""
    found = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in found if _is_users(frame.filename)]
    lines = traceback.StackSummary.from_list(frames).format()
    return "in the worker:\n" + "".join(lines) if lines else ""


def _is_users(file: str) -> bool:
    return not file.startswith(("<", PACKAGE, LIBRARY))


def main() -> None:
    """Be a worker. The arguments are the descriptors of the control socket and of the
    file that gets the stack at a fatal signal."""
    global _inside
    _inside = True
    control, stack = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(control, False)
    os.set_inheritable(stack, False)
    faulthandler.enable(stack)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)
    for number in (signal.SIGINT, signal.SIGHUP):
        # A terminal sends these to the supervisor too, which decides. They are not
        # ignored, since programs that the user starts would ignore them as well.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave_to_supervisor)
    worker = Worker(Channel(socket.socket(fileno=control)))
    try:
        worker.run()
    finally:
        if hasattr(signal, "pthread_sigmask"):
            # The end of Python ends faulthandler, and the signal would kill us.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        worker.close()


def _leave_to_supervisor(number: int, frame: Any) -> None:
    """Do nothing at a signal."""
