"""Signals while a mux waits: none is slept out, none loses anything."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import pymux

from .alarms import needs_alarms, on_alarm
from .interrupts import at_each_place, interrupted, needs_tracing
from .util import harvest_until, pair, recv_exactly, until_end

pytestmark = needs_alarms

LONG = 30.0  # a wait that must not be waited out


class Alarm(Exception):
    """What a signal handler of these tests raises."""


def raise_alarm(number, frame):
    raise Alarm


def test_a_signal_whose_handler_returns_does_not_end_a_harvest(mux):
    seen = []
    with on_alarm(lambda *args: seen.append(time.monotonic())):
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        mux.harvest(0.2)
        assert time.monotonic() - start >= 0.2
    assert len(seen) == 1


def test_the_handler_of_a_signal_runs_at_once(mux):
    seen = []

    def handler(number, frame):
        seen.append(time.monotonic())
        mux.wakeup()

    with on_alarm(handler):
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        mux.harvest(LONG)
    assert seen[0] - start < LONG / 2


def test_many_signals_do_not_shorten_a_harvest(mux):
    seen = []
    with on_alarm(lambda *args: seen.append(1)):
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        mux.harvest(0.15)
        assert time.monotonic() - start >= 0.15
    assert len(seen) > 1


def test_a_handler_that_raises_leaves_the_harvest(mux):
    with on_alarm(raise_alarm):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Alarm):
            mux.harvest(LONG)
    mux.harvest(0)  # the mux is as it was


def test_after_a_handler_has_raised_the_next_harvest_waits_again(mux):
    with on_alarm(raise_alarm):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Alarm):
            mux.harvest(LONG)
    start = time.monotonic()
    mux.harvest(0.05)
    assert time.monotonic() - start >= 0.05


def test_a_handler_that_raises_loses_no_message(mux):
    conn, peer = pair(mux, pymux.Lines())
    _other, quiet = pair(mux, pymux.Lines())  # so that the delay is not cut short
    with peer, quiet:
        peer.sendall(b"already received\n")
        with on_alarm(raise_alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                mux.harvest(LONG, min_messages=9, max_delay=LONG)
        assert list(mux.harvest(LONG)) == [(conn, b"already received")]


def test_a_handler_that_raises_loses_no_row_of_any_kind(mux):
    conn, peer = pair(mux)
    _other, quiet = pair(mux)
    peer.sendall(b"bye")
    peer.close()
    with quiet:
        listener = mux.listen(("127.0.0.1", 0))
        made = mux.connect(listener.address)
        with on_alarm(raise_alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                mux.harvest(LONG, min_messages=9, max_delay=LONG)
        acc = harvest_until(mux, lambda acc: acc.closed and len(acc.opened) == 2)
        assert acc.received(conn) == b"bye"
        assert acc.error(conn) is None
        assert made in acc.opened


def test_a_handler_that_raises_loses_no_output(mux):
    conn, peer = pair(mux)
    with peer:
        conn.send(b"queued before the signal")
        with on_alarm(raise_alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(Alarm):
                mux.harvest(LONG)
        mux.harvest(0)
        assert recv_exactly(peer, 24) == b"queued before the signal"


OURS = os.path.dirname(pymux.__file__)


def raise_in_harvest(number, frame):
    """A handler that raises only where a batch cannot be lost by the test itself."""
    while frame is not None:
        if frame.f_code is pymux.Mux.harvest.__code__:
            raise Alarm
        if (
            not frame.f_code.co_filename.startswith(OURS)
            or frame.f_code.co_name == "__del__"
        ):
            return  # a collector's callback: what it raises nobody can catch
        frame = frame.f_back


signals_between_calls = pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="a handler may run between any two instructions here, `return` included",
)


@signals_between_calls
def test_under_a_storm_of_raising_handlers_every_byte_arrives_once(mux):
    _conn, peer = pair(mux, pymux.Lines())
    lines = [b"%d" % k for k in range(3000)]
    sender = threading.Thread(
        target=lambda: [peer.sendall(line + b"\n") for line in lines]
    )
    got, alarms = [], 0
    with peer, on_alarm(raise_in_harvest):
        sender.start()
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        deadline = time.monotonic() + 20
        while len(got) < len(lines) or not alarms:
            assert time.monotonic() < deadline, (len(got), alarms)
            try:
                batch = mux.harvest(0.02)
            except Alarm:
                alarms += 1
                continue
            got += batch.messages
        signal.setitimer(signal.ITIMER_REAL, 0)
        sender.join()
    assert got == lines


@signals_between_calls
def test_under_a_storm_of_raising_handlers_output_leaves_once(mux):
    conn, peer = pair(mux)
    sent, alarms = [], 0
    with peer:
        with on_alarm(raise_in_harvest):
            signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
            deadline = time.monotonic() + 20
            for turn in range(5000):
                assert time.monotonic() < deadline, (turn, alarms)
                sent.append(b"%d," % turn)
                conn.send(sent[-1])
                try:
                    mux.harvest(0)
                except Alarm:
                    alarms += 1
        expected = b"".join(sent)
        conn.close()
        reader = threading.Thread(target=lambda: sent.append(until_end(peer)))
        reader.start()
        harvest_until(mux, lambda acc: not reader.is_alive())
        reader.join()
    assert sent[-1] == (expected, None)


def storm(mux, act, send, rounds=3000):
    """Call send() many times, with signals whose handler calls act() anywhere in it."""
    rng = random.Random(4)
    armed = []

    def handler(number, frame):
        if armed:
            armed.clear()
            act()

    with on_alarm(handler):
        for k in range(rounds):
            with contextlib.suppress(Alarm):
                armed.append(1)
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 20e-6))
                for _ in range(10):
                    send()
                armed.clear()
            if k % 100 == 0:
                mux.harvest(0)
    mux.harvest(0)


def test_a_handler_may_send_while_a_send_is_under_way(mux):
    main, main_peer = pair(mux)
    other, other_peer = pair(mux)
    with main_peer, other_peer:
        sent = []

        def act():
            other.send(b"o")
            sent.append(1)

        storm(mux, act, lambda: main.send(b"m"))
        assert recv_exactly(main_peer, 30_000) == b"m" * 30_000
        assert recv_exactly(other_peer, len(sent)) == b"o" * len(sent)


def test_a_handler_that_raises_in_a_send_mixes_no_streams(mux):
    ends = [pair(mux) for _ in range(2)]
    turn = itertools.cycle([(ends[0][0], b"0"), (ends[1][0], b"1")])

    def send():
        conn, data = next(turn)
        conn.send(data)

    def act():
        raise Alarm

    with ends[0][1], ends[1][1]:
        storm(mux, act, send)
        for k, (conn, peer) in enumerate(ends):
            conn.close()
            mux.harvest(0)
            data, error = until_end(peer)
            assert set(data) == {ord(str(k))}
            assert error is None


def test_a_signal_ends_a_delay_and_keeps_the_rows(mux):
    _conn, peer = pair(mux, pymux.Lines())
    _other, quiet = pair(mux, pymux.Lines())
    with peer, quiet, on_alarm(lambda *args: None):
        peer.sendall(b"1\n")
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        start = time.monotonic()
        batch = mux.harvest(LONG, min_messages=9, max_delay=LONG)
        assert time.monotonic() - start < LONG / 2
        assert batch.messages == [b"1"]


def test_a_handler_may_use_the_mux_to_wake_it(mux):
    ran = []
    with on_alarm(lambda *args: mux.call_threadsafe(ran.append, 1)):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        harvest_until(mux, lambda acc: ran)


def test_a_mux_leaves_the_wakeup_descriptor_of_others_alone(mux):
    import socket

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            with on_alarm(lambda *args: mux.wakeup()):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                mux.harvest(LONG)
            assert signal.set_wakeup_fd(before) == theirs.fileno()
            assert ours.recv(10)[:1] == bytes([signal.SIGALRM])
        finally:
            signal.set_wakeup_fd(before)


def test_close_gives_the_wakeup_descriptor_back(backend):
    before = signal.set_wakeup_fd(-1)
    try:
        with pymux.Mux(backend) as mux:
            mux.harvest(0.01)
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(before)


def run(program, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_peer_that_is_gone_raises_no_sigpipe(backend):
    done = run(
        """
        import signal, socket, sys
        import pymux
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        with pymux.Mux(sys.argv[1]) as mux:
            path = chr(0) + "pymux-test-%d" % __import__("os").getpid()
            if sys.platform != "linux":
                path = ("127.0.0.1", 0)
            listener = mux.listen(path)
            address = listener.address
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            peer = socket.socket(family)
            peer.connect(address)
            conn = mux.harvest(5).opened[0]
            peer.close()
            conn.send(b"x" * 100000)
            for _ in range(3):
                mux.harvest(0.01)
        print("alive")
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_ctrl_c_leaves_a_harvest(backend):
    done = run(
        """
        import os, signal, sys, threading
        import pymux
        with pymux.Mux(sys.argv[1]) as mux:
            mux.harvest(0)
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
            try:
                mux.harvest(None)
            except KeyboardInterrupt:
                print("interrupted")
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


# An exception at each place where a handler may run


@needs_tracing
@pytest.mark.parametrize("size", [3, 70_000, 300_000], ids=["small", "large", "huge"])
def test_no_place_in_a_harvest_loses_a_message(mux, size):
    """A large frame has memory of its own, which must be given up once."""
    conn, peer = pair(mux, pymux.LengthPrefix(), limits=pymux.Limits(high_water=2**30))
    message = b"m" * size
    framed = len(message).to_bytes(4, "big") + message
    with peer:

        def scene(nth):
            sender = threading.Thread(target=peer.sendall, args=(framed * 2,))
            sender.start()
            where, batch = interrupted(lambda: mux.harvest(10), nth)
            left = [message] * (2 - (0 if batch is None else len(batch)))
            acc = harvest_until(mux, lambda acc: len(acc.payloads) >= len(left))
            sender.join()
            assert acc.payloads == left, where
            conn.send(b"x")
            mux.harvest(0)
            assert recv_exactly(peer, 5) == b"\0\0\0\1x"
            return where

        assert at_each_place(scene) > 15


@needs_tracing
def test_no_place_in_a_send_loses_or_doubles_a_piece(mux):
    """What was begun is sent, whole, or was not taken at all."""
    conn, peer = pair(mux, pymux.Lines(), limits=pymux.Limits(max_output=2**30))
    with peer:

        def scene(nth):
            text = b"%d" % nth * 20_000
            where, _ = interrupted(lambda: conn.send(text) or True, nth)
            conn.send(b"next")
            mux.harvest(0)
            line = b""
            while not line.endswith(b"next\n"):
                mux.harvest(0)
                line += peer.recv(1 << 20)
            assert line in (text + b"\nnext\n", b"next\n"), where
            return where

        assert at_each_place(scene) > 3


@needs_tracing
def test_a_mux_that_is_interrupted_while_it_closes_can_be_closed_again(backend):
    def scene(nth):
        mux = pymux.Mux(backend)
        conn, peer = pair(mux)
        with peer:
            conn.send(b"last")
            where, _ = interrupted(lambda: mux.close() or True, nth)
            mux.close()
            assert until_end(peer) == (b"last", None), where
            with pytest.raises(RuntimeError, match="closed"):
                mux.harvest(0)
            assert conn.closed, where
        return where

    assert at_each_place(scene) > 5


@needs_tracing
def test_a_wakeup_that_an_interrupted_harvest_has_seen_is_not_lost(mux):
    mux.harvest(0)

    def scene(nth):
        mux.wakeup()
        where, _ = interrupted(lambda: mux.harvest(5) or True, nth)
        timer = threading.Timer(0.01, mux.wakeup)
        timer.start()
        start = time.monotonic()
        mux.harvest(20)
        timer.join()
        assert time.monotonic() - start < 10, where
        mux.harvest(0)
        return where

    assert at_each_place(scene) > 10
