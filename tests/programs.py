"""Programs of other projects, which talk to servers and clients of tests."""

import contextlib
import shutil
import subprocess
import threading

import pytest


class Program:
    """A child process of another program: one stream for its output and its errors.

    Attributes:
        said: what it has printed so far.
    """

    def __init__(self, child):
        self.said = b""
        self._child = child
        self._news = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while piece := self._child.stdout.read1():
            with self._news:
                self.said += piece
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def say(self, line):
        """Give it a line. It reads what it is given by one read: one line at a time."""
        self._child.stdin.write(line + b"\n")
        self._child.stdin.flush()

    def has_said(self, text, times=1, timeout=30):
        """Wait until it has printed some bytes so often; what it has printed."""

        def there():
            return self.said.count(text) >= times or self._over

        with self._news:
            self._news.wait_for(there, timeout)
            assert self.said.count(text) >= times, f"no {text}:\n{self.text}"
        return self.said

    @property
    def text(self):
        """What it has printed."""
        return self.said.decode(errors="replace")

    def finish(self, timeout=60):
        """(exit code, all that it has printed), once it ends by itself."""
        self._child.stdin.close()
        code = self._child.wait(timeout)
        self._reader.join()
        return code, self.text

    def end(self):
        """Kill it, if it runs."""
        self._child.kill()
        self._reader.join()
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()


@contextlib.contextmanager
def program(*args, **options):
    """A `Program`, killed at the end; the test is skipped where it is missing."""
    path = shutil.which(args[0])
    if path is None:
        pytest.skip(f"{args[0]} is not installed")
    child = subprocess.Popen(
        [path, *map(str, args[1:])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    running = Program(child)
    try:
        yield running
    finally:
        running.end()
