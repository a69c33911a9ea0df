"""A worker class for gunicorn: its arbiter starts, watches and replaces the processes.

    pip install gunicorn
    cd examples/gunicorn
    gunicorn -k pymux_worker.LinesWorker -w 2 -b 127.0.0.1:9000 app:Chat

`app:Chat` is a handler of pymux: a function, a coroutine function, a batch function, or
the class of an object, which each worker makes one of. A subclass chooses what gunicorn
has no option for: the framing, the limits.

SIGHUP starts workers with new code, and SIGTERM ends the old ones: they accept nothing
more, answer what has arrived within `--graceful-timeout`, and close. gunicorn cannot
hand connections over, so their clients connect again; `pymux serve --workers` moves
them. A worker whose handler runs for longer than `--timeout` seconds is killed.
"""

import inspect
import os
import select
from typing import Any

from gunicorn.workers.base import Worker  # type: ignore[import-untyped]

import pymux


class PymuxWorker(Worker):  # type: ignore[misc]
    """Serves a handler on the sockets of the arbiter."""

    framing: pymux.Framing | None = None
    limits: pymux.Limits | None = None

    def run(self) -> None:
        """Serve until a signal, or until the arbiter has gone."""
        handler: Any = self.wsgi() if inspect.isclass(self.wsgi) else self.wsgi
        self.drain_timeout = self.cfg.graceful_timeout
        server = pymux.Server(
            handler,
            [getattr(one, "sock", one) for one in self.sockets],
            framing=self.framing,
            limits=self.limits,
        )
        with server:
            server.call_threadsafe(self.beat)
            while self.alive and os.getppid() == self.ppid:
                # A signal writes to this pipe, once its handler has been called.
                select.select([self.PIPE[0]], [], [], 1.0)
            server.stop(self.drain_timeout)

    def beat(self, mux: pymux.Mux) -> None:
        """Tell the arbiter, from the mux's own thread, that no handler is stuck."""
        self.notify()
        mux.call_later(max(self.timeout / 2, 0.1), self.beat, mux)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGINT, SIGQUIT: end without waiting for anybody."""
        self.drain_timeout = 0
        self.alive = False


class LinesWorker(PymuxWorker):
    """The same, for lines."""

    framing = pymux.Lines()
