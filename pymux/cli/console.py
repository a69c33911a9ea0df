"""The console: lines for the user, and the prompt of `pymux connect`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TextIO

from .words import Failure, one_line

PROMPT = ">>: "

_ERASE_LINE = b"\r\x1b[K"

# Seconds that the next prompt waits for an answer.
_ANSWER_PATIENCE = 0.25


def _put(stream: TextIO, data: bytes) -> None:
    """Write bytes to a stream at once. A `StringIO` takes text only."""
    if hasattr(stream, "buffer"):
        stream.buffer.write(data)
        stream.buffer.flush()
    else:
        stream.write(data.decode(errors="backslashreplace"))


def write(data: bytes) -> None:
    """Write to standard output at once.

    Raises:
        Failure: standard output cannot be written to.
    """
    if sys.stdout is None:
        return
    try:
        _put(sys.stdout, data)
    except (OSError, ValueError) as error:
        # Python flushes the stream at exit, and would report the failure again.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.close(silence)
        reason = getattr(error, "strerror", None) or one_line(error)
        raise Failure(f"cannot write to standard output: {reason}") from None


def _encoded(text: str) -> bytes:
    """Text in UTF-8. Bytes of an argument that were no UTF-8 are written unchanged."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character, from a Windows console
        return text.encode(errors="backslashreplace")


def _line(text: str) -> bytes:
    """A text as one line: control characters, as in a path, are escaped."""
    return _encoded(
        "".join(
            f"\\x{ord(c):02x}" if c < " " or "\x7f" <= c < "\xa0" else c for c in text
        )
        + "\n"
    )


def say(line: str) -> None:
    """Write one line to standard output at once.

    Raises:
        Failure: standard output cannot be written to.
    """
    write(_line(line))


def complain(line: str, before: str = "") -> None:
    """Write one line to standard error at once.

    Nothing happens if standard error is closed, or if its reader is gone.

    Args:
        line: the line.
        before: whole lines to write before it.
    """
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        _put(sys.stderr, _encoded(before) + _line(line))


def on_terminal() -> bool:
    """True if standard input and standard output are a terminal."""
    try:
        return os.isatty(0) and os.isatty(1)
    except OSError:
        return False


class Terminal:
    """A prompt with line editing, and answers above the prompt."""

    def __init__(self) -> None:
        self._line_buffer: Callable[[], str | bytes] = str
        self._answered: SimpleQueue[None] = SimpleQueue()  # an answer was printed
        self._prompting = False
        self._midline = False
        self._attributes: Any = None
        if sys.platform == "win32":  # the console edits lines itself
            return
        try:
            import readline
            import termios
        except ImportError:
            return
        self._attributes = termios.tcgetattr(0)
        self._line_buffer = readline.get_line_buffer
        readline.parse_and_bind("set enable-bracketed-paste off")

    def leave(self, line: str) -> None:
        """Print a last line, in place of a prompt."""
        self._erase_prompt()
        say(line)

    def restore(self) -> None:
        """Restore the terminal, which an interrupted line editor leaves changed."""
        self._erase_prompt()
        if sys.platform != "win32" and self._attributes is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._attributes)

    def _erase_prompt(self) -> None:
        if self._prompting:
            self._prompting = False
            write(_ERASE_LINE)

    def _is_raw(self) -> bool:
        """True if a line feed does not return the carriage, as in PyPy's editor."""
        if sys.platform == "win32" or self._attributes is None:
            return False
        import termios

        return not termios.tcgetattr(1)[1] & termios.OPOST

    def lines(self) -> Iterator[bytes]:
        """The lines that the user types, but for empty ones.

        The thread that reads standard input iterates over them.
        """
        encoding = sys.stdin.encoding or "utf-8"
        while True:
            if self._midline:
                say("")
                self._midline = False
            self._prompting = True
            try:
                line = input(PROMPT)
            except EOFError:
                say("")
                return
            except (OSError, ValueError) as error:
                raise Failure(f"cannot read standard input: {error}") from None
            finally:
                self._prompting = False
            if line:
                with contextlib.suppress(Empty):
                    while True:
                        self._answered.get_nowait()
                yield line.encode(encoding, "surrogateescape")
                # Most answers arrive at once: print them before the next prompt.
                with contextlib.suppress(Empty):
                    self._answered.get(timeout=_ANSWER_PATIENCE)

    def show(self, data: bytes) -> None:
        """Print an answer, above a prompt."""
        self._midline = not data.endswith(b"\n")
        if self._prompting:
            typed = self._line_buffer()  # bytes under PyPy
            if isinstance(typed, str):
                typed = typed.encode(errors="surrogateescape")
            end = b"\n" if self._midline else b""
            self._midline = False
            data = _ERASE_LINE + data + end + PROMPT.encode() + typed
            if self._is_raw():
                data = data.replace(b"\n", b"\r\n")
        write(data)
        self._answered.put(None)
