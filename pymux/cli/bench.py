"""`pymux bench`: how many messages a server answers, how fast, and whether rightly."""

from __future__ import annotations

import argparse
import random
import string
import sys
from collections.abc import Callable
from contextlib import suppress

from ..client.connect import connect
from ..engine import clock
from ..engine.load import Load
from ..engine.os_errors import meaning
from ..values.errors import ConnectionClosed
from ..values.framing import Fixed, Framing, LengthPrefix, Lines, Raw
from .console import say
from .descriptors import raise_limit
from .words import Address, Failure, describe, explain, one_line

__all__ = ["ANSWERS", "run_bench"]

PATIENCE = 10.0  # seconds to connect, and for an answer at most
AT_LEAST = 2.0  # seconds for an answer, however short --duration is
FRAMED = "the server may have another framing, which --framing names"
TICK = 0.1  # seconds between two looks at the figures
WARM_UP = 0.2  # seconds that do not count
BAR = 24  # characters
MOST_IN_FLIGHT = 2**24
MOST_BYTES = 2**28  # of different messages
RING = 65536  # bytes of different messages, or more
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
ANSWERS: dict[str, Callable[[bytes], bytes]] = {"upper": bytes.upper, "echo": bytes}


def run_bench(args: argparse.Namespace) -> int:
    """Put a load on a server, and print what it did.

    Raises:
        Failure: an answer was wrong or missing, or the server cannot be reached.
    """
    address: Address = args.address
    size = size_for(args.framing, args.size)
    if args.connections * args.depth > MOST_IN_FLIGHT:
        raise Failure(
            f"--connections times --depth is {args.connections * args.depth}; "
            f"it may be {MOST_IN_FLIGHT}"
        )
    if size * (2 * args.depth + 1) > MOST_BYTES:
        raise Failure(
            f"--size times --depth is {size * args.depth} bytes; it may be about "
            f"{MOST_BYTES // 2}"
        )
    questions = ring(size, args.depth)
    with suppress(OSError):
        raise_limit()
    try:
        answer = ANSWERS.get(args.answer) or find_answer(args, questions)
        load = Load(
            address.value,
            args.framing,
            questions,
            [answer(question) for question in questions],
            conns=args.connections,
            depth=args.depth,
            backend=args.backend,
            timeout=PATIENCE,
        )
        try:
            return measure(load, args, size)
        finally:
            load.close()
    except OSError as error:
        raise Failure(describe(error, address)) from None
    except ValueError as error:
        raise Failure(explain(error, address)) from None


def size_for(framing: Framing, size: int | None) -> int:
    """Return the size of messages: the user's, or the framing's, or 64.

    Raises:
        Failure: the framing does not carry that size.
    """
    if isinstance(framing, Fixed):
        if size not in (None, framing.size):
            raise Failure(
                f"--size is {size}, but --framing fixed:{framing.size} has "
                f"messages of {framing.size} bytes"
            )
        return framing.size
    size = 64 if size is None else size
    if isinstance(framing, (Lines, LengthPrefix)) and size > framing.max_size:
        raise Failure(
            f"--size is {size}; this framing has {framing.max_size} bytes at most"
        )
    return size


def ring(size: int, depth: int) -> list[bytes]:
    """Return different messages: more than are in flight on one connection, so that an
    answer that is late, doubled or another connection's is not the one that is due."""
    count = max(RING // size, 2 * depth + 1, 17)
    letters = (string.ascii_lowercase + string.digits).encode()
    source = random.Random(8093)
    return [bytes(source.choices(letters, k=size)) for _ in range(count)]


def find_answer(
    args: argparse.Namespace, questions: list[bytes]
) -> Callable[[bytes], bytes]:
    """Ask once, and return which of ANSWERS the server gives.

    Raises:
        Failure: the server gives none of them.
    """
    question, got = questions[0], b""
    wait, asked = patience(args), False
    try:
        with connect(
            args.address.value, framing=args.framing, timeout=PATIENCE
        ) as client:
            asked = True
            client.send(question, timeout=wait)
            while len(got) < len(question):
                part = client.recv(timeout=wait)
                if part is None:
                    break
                got += part
                if not isinstance(args.framing, Raw):
                    break
    except TimeoutError as error:
        if not asked:
            raise Failure(describe(error, args.address)) from None
        raise Failure(
            f"no answer within {wait:g} s: {args.address.text}; {FRAMED}"
        ) from None
    except ConnectionClosed as error:
        text = f"{one_line(error)}: {args.address.text}; {FRAMED}"
        raise Failure(text) from None
    for answer in ANSWERS.values():
        if answer(question) == got:
            return answer
    raise Failure(
        f"the answer to {len(question)} bytes is neither the same bytes nor their "
        f"upper case, but {len(got)} other bytes: {args.address.text}; {FRAMED}"
    )


def patience(args: argparse.Namespace) -> float:
    """Return the seconds to wait for an answer: as long as the bench takes, between
    two bounds."""
    return float(min(PATIENCE, max(args.duration, AT_LEAST)))


def measure(load: Load, args: argparse.Namespace, size: int) -> int:
    """Connect, warm up, measure, wait for the last answers, and print the figures."""
    figures, progress = load.figures, Progress(args.duration)
    try:
        load_until(load.connect, PATIENCE, lambda: opened(load) >= args.connections)
        if figures.opened < args.connections:
            raise Failure(
                f"{figures.opened} of {args.connections} connections were made"
                f"{because(figures.error)}: {args.address.text}"
            )
        load.send(WARM_UP)
        load.clear()
        began = clock.now()
        while (past := clock.now() - began) < args.duration and is_well(load):
            progress.show(past, figures.answered)
            load.send(min(TICK, args.duration - past))
        seconds, answered = clock.now() - began, figures.answered
        shares = {name: load.latency(share) for name, share in SHARES.items()}
        shares["max"] = figures.max_ns / 1e9
        load_until(load.finish, patience(args), lambda: not figures.in_flight)
    finally:
        progress.erase()
    check(load, patience(args))
    say(
        f"{args.address.text}: {some(args.connections, 'connection')}, "
        f"{some(args.depth, 'message')} of {some(size, 'byte')} in flight on each"
    )
    say(f"{answered / seconds:.0f} messages/s for {seconds:.1f} s")
    say("latency " + ", ".join(f"{name} {in_words(t)}" for name, t in shares.items()))
    say("every answer was right")
    return 0


def opened(load: Load) -> int:
    """Return how many connections are no longer being made."""
    return int(load.figures.opened + load.figures.lost)


def load_until(
    step: Callable[[float], None], seconds: float, done: Callable[[], bool]
) -> None:
    """Repeat a step, which a signal may end early, until it is done or time is over."""
    end = clock.now() + seconds
    while not done() and (left := end - clock.now()) > 0:
        step(min(TICK, left))


def is_well(load: Load) -> bool:
    """True if no answer was wrong, and no connection was lost."""
    return not (load.figures.wrong or load.figures.lost)


def check(load: Load, seconds: float) -> None:
    """Raise Failure if an answer was wrong or missing, or a connection was lost.

    Args:
        seconds: how long the last answers were waited for.
    """
    figures = load.figures
    wrong = []
    if figures.wrong:
        wrong.append(f"{some(figures.wrong, 'connection')} got a wrong answer")
    if figures.lost:
        lost = some(figures.lost, "connection")
        wrong.append(f"the server has ended {lost}{because(figures.error)}")
    if figures.in_flight:
        waiting = some(figures.in_flight, "message")
        wrong.append(f"{waiting} had no answer within {seconds:g} s")
        if not figures.answered:
            wrong.append(FRAMED)
    if wrong:
        raise Failure("; ".join(wrong))


def some(count: int, thing: str) -> str:
    """Write a number of things, as "1 byte" or "2 bytes"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def because(number: int) -> str:
    """Say what an errno means, in brackets; "" for an end of the stream."""
    return f" ({meaning(number)})" if number else ""


def in_words(seconds: float) -> str:
    """Write a latency with three digits or so."""
    us = seconds * 1e6
    if us < 1e4:
        return f"{us:.0f} us"
    return f"{us / 1e3:.1f} ms" if us < 1e6 else f"{seconds:.2f} s"


class Progress:
    """A bar on standard error, if that is a terminal.

    Args:
        duration: seconds until the bar is full.
    """

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    def show(self, past: float, answered: int) -> None:
        """Draw the bar anew.

        Args:
            past: seconds since the beginning.
            answered: messages that were answered since then.
        """
        if not self._shown:
            return
        full = round(BAR * past / self._duration)
        rate = answered / past if past > 0 else 0.0
        bar = "#" * full + "." * (BAR - full)
        draw(
            f"\r[{bar}] {past:.1f} of {self._duration:g} s, {rate:.0f} messages/s\x1b[K"
        )

    def erase(self) -> None:
        """Take the bar away."""
        if self._shown:
            draw("\r\x1b[K")


def draw(text: str) -> None:
    """Write to the terminal at once; nothing happens if it is gone."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
