"""The console: lines for the user, and the prompt of `pymux connect`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TextIO

PROMPT = ">>: "

_ERASE_LINE = b"\r\x1b[K"

# How long the next prompt gives an answer that is on its way.
_ANSWER_PATIENCE = 0.25


class Failure(Exception):
    """What the user is told in one line before exit code 1."""


def as_typed(text: str) -> str:
    """An argument, or a path, as the user typed it.

    Where the locale's encoding is not UTF-8, Python has decoded the bytes as something
    else, or byte by byte. Files are found by that text; people read this one.
    """
    return os.fsencode(text).decode(errors="surrogateescape")


def quoted(text: str) -> str:
    """An argument in quotes, for an error."""
    return repr(as_typed(text))


def one_line(error: BaseException) -> str:
    """The message of an exception as one line, never an empty one."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def _put(stream: TextIO, data: bytes) -> None:
    """Write bytes to a stream at once; one in memory has nothing below its text."""
    if hasattr(stream, "buffer"):
        stream.buffer.write(data)
        stream.buffer.flush()
    else:
        stream.write(data.decode(errors="backslashreplace"))


def write(data: bytes) -> None:
    """Write to standard output at once.

    Raises:
        Failure: nobody takes it.
    """
    if sys.stdout is None:
        return
    try:
        _put(sys.stdout, data)
    except (OSError, ValueError) as error:
        # What is still buffered would fail again, loudly, when Python exits.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.close(silence)
        reason = getattr(error, "strerror", None) or one_line(error)
        raise Failure(f"cannot write to standard output: {reason}") from None


def _encoded(text: str) -> bytes:
    """Text for either stream: UTF-8, and bytes that are none as they were given."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character, from a Windows console
        return text.encode(errors="backslashreplace")


def _line(text: str) -> bytes:
    """One line, whatever a path has in it: control characters are escaped."""
    return _encoded(
        "".join(
            f"\\x{ord(c):02x}" if c < " " or "\x7f" <= c < "\xa0" else c for c in text
        )
        + "\n"
    )


def say(line: str) -> None:
    """Write one line to standard output at once.

    Raises:
        Failure: nobody takes it.
    """
    write(_line(line))


def complain(line: str, before: str = "") -> None:
    """Write one line to standard error at once, behind lines of our own.

    Where standard error is closed, or nobody reads it, there is nobody to tell.
    """
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        _put(sys.stderr, _encoded(before) + _line(line))


def on_terminal() -> bool:
    """Whether a person types here and reads the answers here."""
    try:
        return os.isatty(0) and os.isatty(1)
    except OSError:
        return False


class Terminal:
    """A prompt with line editing, and answers printed around it."""

    def __init__(self) -> None:
        self._line_buffer: Callable[[], str | bytes] = str
        self._answered: SimpleQueue[None] = SimpleQueue()  # see _talk._Reader
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
        """Print a last line, in place of the prompt where one stands."""
        self._erase_prompt()
        say(line)

    def restore(self) -> None:
        """Undo what an interrupted line editor left behind."""
        self._erase_prompt()
        if sys.platform != "win32" and self._attributes is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._attributes)

    def _erase_prompt(self) -> None:
        if self._prompting:
            self._prompting = False
            write(_ERASE_LINE)

    def _is_raw(self) -> bool:
        """Whether a line's end only goes down, as under PyPy's line editor."""
        if sys.platform == "win32" or self._attributes is None:
            return False
        import termios

        return not termios.tcgetattr(1)[1] & termios.OPOST

    def lines(self) -> Iterator[bytes]:
        """What is typed, line by line, without empty ones; for the reader's thread."""
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
                # Most answers are here at once, and then stand before the prompt.
                with contextlib.suppress(Empty):
                    self._answered.get(timeout=_ANSWER_PATIENCE)

    def show(self, data: bytes) -> None:
        """Print an answer; where a prompt stands, above it."""
        self._midline = not data.endswith(b"\n")
        if self._prompting:
            typed = self._line_buffer()  # PyPy's are bytes
            if isinstance(typed, str):
                typed = typed.encode(errors="surrogateescape")
            end = b"\n" if self._midline else b""
            self._midline = False
            data = _ERASE_LINE + data + end + PROMPT.encode() + typed
            if self._is_raw():
                data = data.replace(b"\n", b"\r\n")
        write(data)
        self._answered.put(None)
