"""The supervisor: one thread that starts workers, waits for them and hears signals.

It has no mux and calls no code of the user's. Its loop sleeps until a signal comes, a
worker says something or ends, or a time is due: an idle one never wakes.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from ..engine.notices import tell
from ..figures.exposition import CONTENT_TYPE, exposition
from ..values.addresses import Address
from ..values.posix import os, signal
from ..values.stats import Stats, totals
from ..values.workers import Workers
from .board import Board
from .manager import ServiceManager
from .process import Process
from .slots import Slots
from .sockets import Place, show_all
from .status import Answer, Status, http
from .watchdog import Watchdog

__all__ = ["Ready", "Supervisor", "check_can_supervise"]

HEARD = ("SIGHUP", "SIGTERM", "SIGINT", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGCHLD")
INIT = 1  # the number of the process that is to wait for every orphan


def check_can_supervise() -> None:
    """Raise for a system or a thread that cannot have workers.

    Raises:
        OSError: Windows.
        RuntimeError: this is not the main thread.
    """
    if sys.platform == "win32":
        raise OSError("workers need a POSIX system; Windows passes no sockets on")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "workers= needs the main thread, which gets the signals; this is "
            f"{threading.current_thread().name!r}"
        )


class Ready(NamedTuple):
    """What `on_ready` is told: the bound addresses, the backend, how many workers."""

    addresses: list[Any]
    backend: str
    workers: int


class Supervisor:
    """Runs workers until a signal ends them.

    Args:
        workers: how many, and how they are replaced.
        count: how many at first.
        places: the bound addresses.
        told: what each worker must know before it reads its task.
        task: the pickled task.
        linger: seconds over which a worker that leaves spreads its last connections.
        drain_timeout: seconds that a worker has to drain then; None: for ever.
        on_ready: called once, when every worker is ready.
    """

    def __init__(
        self,
        workers: Workers,
        count: int,
        places: list[Place],
        told: dict[str, Any],
        task: bytes,
        *,
        linger: float,
        drain_timeout: float | None,
        on_ready: Callable[[Ready], Any] | None = None,
    ) -> None:
        self._workers = workers
        self._count = count
        self._places = places
        self._told = told
        self._task = task
        self._linger = linger
        self._on_ready = on_ready
        self._where = show_all(places)
        self._addresses = [name for place in places for name in place.addresses]
        stop_after = linger, drain_timeout
        self.slots: Slots = Slots(workers, places, self._spawn, stop_after)
        self._told_by = {
            "ready": self.slots.became_ready,
            "gave": self.slots.gave,
            "asked": self.slots.asked,
        }
        self._selector = selectors.DefaultSelector()
        self._heard: list[int] = []  # signals that were not looked at yet
        self._was_first = True
        self._stops_at: float | None = None  # the end of the grace after SIGTERM
        self._board = Board(count)
        self._manager = ServiceManager(self._where)
        self._status: Status | None = None
        self._watchdog = Watchdog(workers, self.slots, self._board, self._selector)

    def run(self) -> Stats:
        """Supervise until the end; return the figures of all workers.

        Raises:
            OSError: a socket cannot be bound, or no process can be started.
            RuntimeError: a worker did not start at the first start.
        """
        slots = self.slots
        with self._signals() as woken, contextlib.ExitStack() as stack:
            self._selector.register(
                woken, selectors.EVENT_READ, lambda _: _read_all(woken)
            )
            stack.callback(self._selector.close)
            stack.callback(self._watchdog.close)
            stack.callback(self._end)
            self._status = Status(self._selector, self._answers())
            stack.callback(self._status.close)
            slots.begin(self._count)
            while not slots.over:
                self._turn()
                if slots.first or not self._was_first or slots.error is not None:
                    continue
                self._was_first = False
                text = "listening on %s with %d workers"
                tell("listening", text, self._where, len(slots.all))
                if self._on_ready is not None:
                    backends = [one.backend for one in slots.processes.values()]
                    backend = max(backends, default="")  # all have the same
                    self._on_ready(Ready(list(self._addresses), backend, self._count))
            stats = self._board.total()
        if slots.error is not None:
            raise slots.error
        text = "the server at %s has stopped: %s"
        tell("stopped", text, self._where, totals(stats))
        return stats

    def _end(self) -> None:
        """Leave no process and no socket behind, also if an exception ends `run`."""
        if self.slots.processes:
            self.slots.kill()
            for process in list(self.slots.processes.values()):
                with contextlib.suppress(ChildProcessError):
                    process.note_end(os.waitpid(process.pid, 0)[1])
                process.close()
        self.slots.close()
        self._board.close()

    # --- what others ask ----------------------------------------------------------

    def _answers(self) -> list[tuple[Address, Answer]]:
        answers: list[tuple[Address, Answer]] = []
        if self._workers.health is not None:
            answers.append((self._workers.health, self._say_health))
        if self._workers.metrics is not None:
            answers.append((self._workers.metrics, self._say_metrics))
        return answers

    def _say_metrics(self, http_asked: bool) -> bytes:
        return http("200 OK", CONTENT_TYPE, exposition(self._board.slots()))

    def _say_health(self, http_asked: bool) -> bytes:
        slots = self.slots
        stops = slots.stopping or self._stops_at is not None
        ready = not stops and any(slot.accepts for slot in slots.all)
        if http_asked:
            status = "200 OK" if ready else "503 Service Unavailable"
            word = "ready" if ready else "stopping" if stops else "not ready"
            return http(status, "text/plain", word + "\n")
        return b"up ready\n" if ready else b"drain\n" if stops else b"down\n"

    # --- signals ----------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Hear signals while the block runs; the socket is readable when one came.

        A signal that was ignored stays ignored, as SIGHUP under nohup.
        """
        woken, wakes = socket.socketpair()
        woken.setblocking(False)
        wakes.setblocking(False)
        before: dict[int, Any] = {}
        wakeup = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        try:
            for name in HEARD:
                number = getattr(signal, name)
                was = signal.getsignal(number)
                if was is not None and (
                    was is not signal.SIG_IGN or number == signal.SIGCHLD
                ):
                    before[number] = was
                    signal.signal(number, lambda number, _: self._heard.append(number))
            yield woken
        finally:
            for number, was in before.items():
                signal.signal(number, was)
            signal.set_wakeup_fd(wakeup)
            woken.close()
            wakes.close()

    def _obey(self, number: int) -> None:
        slots = self.slots
        if number == signal.SIGHUP:
            slots.roll()
            self._manager.reload()
        elif number == signal.SIGTTIN:
            slots.more()
        elif number == signal.SIGTTOU:
            slots.fewer()
        elif number == signal.SIGUSR1:
            for process in slots.processes.values():
                if process.ready:
                    process.kill(signal.SIGUSR1)
        elif slots.stopping or self._stops_at is not None:
            slots.kill()
        elif number == signal.SIGINT:
            self._stop(0.0)
        elif number == signal.SIGTERM and self._workers.grace and not slots.first:
            slots.grace = True
            self._stops_at = time.monotonic() + self._workers.grace
        elif number == signal.SIGTERM:
            self._stop(self._linger)

    def _stop(self, linger: float) -> None:
        self._stops_at = None
        count = self._board.total().connections
        how = f"end one by one within {linger:.3g} s" if linger else "are drained"
        text = "the server at %s stops: %d connections %s"
        tell("stopping", text, self._where, count, how)
        self.slots.stop(linger)

    # --- the loop -----------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for anything, and do what it asks for."""
        slots = self.slots
        times = [self.slots.next_time, self._stops_at, self._watchdog.next_look]
        times.append(self._manager.next_time)
        if self._status is not None:
            times.append(self._status.next_time)
        at = min((one for one in times if one is not None), default=None)
        left = None if at is None else max(0.0, at - time.monotonic())
        for key, events in self._selector.select(0 if self._heard else left):
            # Another one may have unregistered it, and closed its descriptor.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
        while self._heard:
            number = self._heard.pop(0)
            if number == signal.SIGCHLD:
                self._reap()
            else:
                self._obey(number)
        if self._stops_at is not None and self._stops_at <= time.monotonic():
            self._stop(self._linger)
        self.slots.tick()
        self._watchdog.tick()
        if self._status is not None:
            self._status.tick()
        self._manager.tick(slots, self._stops_at is not None)
        for process in slots.processes.values():
            self._watch(process)

    def _watch(self, process: Process) -> None:
        """Wait for room in a control socket that is full."""
        control = process.control
        events = selectors.EVENT_READ
        if control.pending:
            events |= selectors.EVENT_WRITE
        key = self._selector.get_map().get(control.fileno())
        if key is not None and key.events != events:
            self._selector.modify(control, events, key.data)

    def _spawn(self, slot: int) -> Process:
        number = self._board.page(slot)
        told = {**self._told, "page": number}
        process = Process(slot, told, self._task, self._watchdog.bell)
        self._board.owns(process.pid, number)
        self._watchdog.wake()
        self._selector.register(
            process.control, selectors.EVENT_READ, partial(self._hear, process)
        )
        return process

    def _hear(self, process: Process, events: int = 0) -> None:
        """Take in what a worker says."""
        control = process.control
        control.flush()
        more = control.receive()
        try:
            for frame in control.frames():
                what = process.note(frame)
                if what in self._told_by:
                    self._told_by[what](process)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            tell("worker_died", "%s says what no worker says: %s", process, error)
            process.kill()
            more = False
        if not more:  # it has closed its end, and is about to end
            self.slots.went_silent(process)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(control)

    def _reap(self) -> None:
        """Wait for workers that have ended, and note who was stopped.

        As the first process of a container, wait for every orphan, too. Else the
        user's own children keep their exit codes.
        """
        options = os.WNOHANG | os.WUNTRACED | os.WCONTINUED
        if os.getpid() == INIT:
            while True:
                try:
                    pid, status = os.waitpid(-1, options)
                except ChildProcessError:
                    return
                if not pid:
                    return
                process = self.slots.processes.get(pid)
                if process is not None:
                    self._note(process, status)
        for process in list(self.slots.processes.values()):
            while True:
                try:
                    pid, status = os.waitpid(process.pid, options)
                except ChildProcessError:  # another thread has waited for it
                    pid, status = process.pid, 0
                if not pid or self._note(process, status):
                    break

    def _note(self, process: Process, status: int) -> bool:
        """Note a change of a worker; True if it has ended."""
        if os.WIFSTOPPED(status):
            process.stopped = True
            tell("worker_died", "%s was stopped by a signal", process)
            self._watchdog.wake()  # its handler may be stuck since before
            self.slots.cover()
            return False
        if os.WIFCONTINUED(status):
            process.stopped = False
            tell("worker", "%s goes on", process)
            self.slots.cover()
            return False
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(process.control)
        self._hear(process)  # its last words
        process.note_end(status)
        self._watchdog.wake()
        self._board.bury(process.pid, process.backend, process.ends)
        self.slots.ended(process)
        process.close()
        return True


def _read_all(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while len(sock.recv(4096)) == 4096:
            pass
