"""A worker's process, as the supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

from ..engine.notices import tell
from ..values.posix import signal, sockets
from .channel import Channel, Frame

__all__ = ["Process", "how_it_ended", "tell_death", "tell_end"]

CODE = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from pymux.workers.child import main; main()"
)
MOST_STACK = 65536  # bytes of a stack that are logged


class Process:
    """One worker.

    Args:
        slot: the number of its slot.
        told: what the worker must know before it can read the task.
        task: the pickled `Task`.
        bell: a socket to which the worker sends a byte to wake the supervisor.

    Attributes:
        pid: its number.
        control: this end of the control socket.
        born: when it was started, on the monotonic clock.
        ready: it has said that it is ready.
        leaving: it was told to stop.
        heir: the process that it gives its connections to; None: to none now.
        gives_since: when it began to give to its heir; None: it has not.
        stop_at: when it is told to stop, though its heir has not taken all.
        gifts: how many gifts it has been told to make.
        gave: (moved, remain, error) of the last gift; None before its end.
        large: it was seen with more memory than it may have.
        stopped: a signal like SIGSTOP has stopped it.
        stuck: its handler runs for too long.
        aborted: it was aborted for that.
        superseded: it is to be replaced even before it is ready.
        by: when it must have become ready, or ended; None: no such time.
        silent_at: when it counts as gone, since its server has ended though the process
            has not; None: no such time.
        gone: it counts as gone.
        why: its own words on why it could not start; None if it has said none.
        trace: the traceback of that.
        backend: the name of its backend, once it is ready.
        wakes: it wakes a supervisor that sleeps.
        ends: how many of its connections ended with each errno; empty until it has
            told them.
        reset: how many it has reset since its gift had ended; None: it has not told.
        status: as `os.waitstatus_to_exitcode` tells, once it has ended.
    """

    def __init__(
        self, slot: int, told: dict[str, Any], task: bytes, bell: socket.socket
    ) -> None:
        self.slot = slot
        self.ready: bool = False
        self.leaving = self.superseded = False
        self.stopped = self.stuck = self.aborted = self.large = False
        self.heir: Process | None = None
        self.gives_since: float | None = None
        self.gifts: int = 0
        self.gave: tuple[int, int, str | None] | None = None
        self.by: float | None = None
        self.silent_at: float | None = None
        self.gone = False
        self.stop_at: float | None = None
        self.why: str | None = None
        self.trace: str = ""
        self.wakes: bool = False
        self.backend: str = ""
        self.ends: dict[int, int] = {}
        self.reset: int | None = None
        self.status: int | None = None
        self._stack = _memory()
        ours, theirs = socket.socketpair(sockets.AF_UNIX, socket.SOCK_STREAM)
        self.born: float = time.monotonic()
        try:
            fds = theirs.fileno(), self._stack.fileno()
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-c",
                    CODE,
                    *map(str, fds),
                    *sys.path,
                ],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            self._stack.close()
            raise
        finally:
            theirs.close()
        self.pid: int = self._popen.pid
        ours.setblocking(False)
        self.control: Channel = Channel(ours)
        self.control.send("start", told, socks=[bell])
        self.control.send_bytes(task)

    def __repr__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"

    @property
    def can_serve(self) -> bool:
        """Whether it is ready, and is not to end."""
        return self.ready and not (self.superseded or self.leaving)

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.born

    def note(self, frame: Frame) -> str:
        """Take in a message, and return what it is about.

        Raises:
            ValueError, TypeError, OverflowError, RecursionError: no worker says so.
        """
        try:
            return self._note(frame)
        finally:
            for fd in frame.fds:
                os.close(fd)

    def _note(self, frame: Frame) -> str:
        what, *words = frame.words
        if what == "ready":
            if self.ready:
                raise ValueError("it is ready twice")
            backend, *wakes = words  # a worker of before tells no more
            self.backend, self.wakes = str(backend), bool(wakes)
            self.ready = True
        elif what == "failed":
            self.why, self.trace = map(str, words)
        elif what == "gave":
            moved, remain, error, *which = words  # a worker of before tells no number
            if which in ([], [self.gifts]):  # else that gift's heir has died since
                error = None if error is None else str(error)
                self.gave = int(moved), int(remain), error
        elif what == "done":
            ends, *reset = words  # a worker of before tells no number
            self.reset = int(reset[0]) if reset else None
            self.ends = {int(number): int(count) for number, count in ends}
        return str(what)

    def send(
        self, *words: Any, socks: Sequence[socket.socket] = (), close: bool = False
    ) -> None:
        """Send a message, unless the worker has ended; perhaps close the sockets."""
        if self.status is None:
            self.control.send(*words, socks=socks, close=close)
        elif close:
            for sock in socks:
                sock.close()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless the worker has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def note_end(self, status: int) -> None:
        """The process has ended, and was waited for."""
        self.status = self._popen.returncode = os.waitstatus_to_exitcode(status)

    def stack(self) -> str:
        """Return what faulthandler wrote at a fatal signal, if anything."""
        try:
            self._stack.seek(0)
            return self._stack.read(MOST_STACK).decode(errors="replace").strip()
        except (OSError, ValueError):
            return ""

    def close(self) -> None:
        """Close what belongs to the process."""
        self.control.close()
        self._stack.close()


def _memory() -> IO[bytes]:
    """Open a file that is nowhere; on Linux no folder has to be writable for it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pymux-stack"), "w+b")
    return tempfile.TemporaryFile()


def how_it_ended(status: int) -> str:
    """Say in words how a process has ended."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return str(signal.Signals(-status).name)
    except ValueError:
        return f"signal {-status}"


def tell_end(process: Process) -> None:
    """Log what has become of the connections that have stayed in an old worker."""
    _, stayed, _ = process.gave or (0, None, None)
    if process.reset is not None and stayed != 0:
        count = "its" if stayed is None else f"the {stayed}"
        text = "%s has ended: of %s connections that stayed %d were reset"
        tell("worker", text, process, count, process.reset)


def tell_death(process: Process, then: str) -> None:
    """Log how a worker has ended, its stack if it has crashed, and what is done."""
    assert process.status is not None
    stack = process.stack()
    text = "%s has ended after %.1f s: %s%s%s"
    then = then and "; " + then
    how = how_it_ended(process.status)
    tell("worker_died", text, process, process.age, how, then, stack and "\n" + stack)
