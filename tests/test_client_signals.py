"""A signal's handler that raises inside a client: no message is lost, it lives on."""

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time

import pytest

import pymux
from pymux import LengthPrefix, Lines

from . import inside, util
from .alarms import needs_alarms, on_alarm
from .clients import connected
from .interrupts import Interrupted, at_each_place, interrupted, needs_tracing

LINES = Lines()


pytestmark = pytest.mark.usefixtures("client_backend")


@contextlib.contextmanager
def ending(peer):
    """A peer that reads to the end of the client's stream and then ends its own, so
    that no close waits for it: a list, in the end of what it got."""
    got = []

    def read():
        got.append(util.recv_all(peer))
        peer.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield got
    finally:
        thread.join()


def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def rest(client, came, count):
    """`came` and what a client has to give besides, up to so many messages."""
    came = [message for message in came if message is not None]
    while len(came) < count:
        came.append(client.recv(10))
    with pytest.raises(TimeoutError):
        client.recv(0)
    return came


# An exception at each place


@needs_tracing
def test_no_place_in_recv_loses_a_message(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):
            peer.sendall(b"1\n2\n")
            where, got = interrupted(client.recv, nth)
            peer.sendall(b"3\n")
            assert rest(client, [got], 3) == [b"1", b"2", b"3"], where
            return where

    assert at_each_place(scene) > 20


@needs_tracing
def test_no_place_in_a_recv_that_waits_loses_a_message(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):
            timer = threading.Timer(0.002, peer.sendall, [b"1\n2\n"])
            timer.start()
            where, got = interrupted(client.recv, nth)
            timer.join()
            assert rest(client, [got], 2) == [b"1", b"2"], where
            return where

    assert at_each_place(scene) > 20


@needs_tracing
def test_no_place_in_iteration_loses_a_message(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):
            peer.sendall(b"1\n2\n3\n")
            peer.shutdown(socket.SHUT_WR)
            came = []

            def take():
                for message in client:
                    came.append(message)
                return True

            where, _ = interrupted(take, nth)
            came += list(client)
            assert came == [b"1", b"2", b"3"], where
            return where

    assert at_each_place(scene) > 40


@needs_tracing
def test_no_place_in_recv_loses_a_message_between_two_batches(listener):
    big = b"x" * 100_000

    def scene(nth):
        with connected(listener, framing=LengthPrefix()) as (client, peer):
            peer.sendall(b"\0\0\0\1a" + len(big).to_bytes(4, "big"))
            assert client.recv() == b"a"
            peer.sendall(big + b"\0\0\0\1b")
            where, got = interrupted(client.recv, nth)
            assert rest(client, [got], 2) == [big, b"b"], where
            return where

    assert at_each_place(scene) > 20


@needs_tracing
def test_no_place_in_recv_loses_the_end_or_its_cause(listener):
    def scene(nth):
        with connected(listener, framing=Lines(max_size=10)) as (client, peer):
            peer.sendall(b"fine\n" + b"x" * 100)
            where, got = interrupted(client.recv, nth)
            assert (got or client.recv()) == b"fine"
            with pytest.raises(pymux.ConnectionClosed, match="long"):
                client.recv()
            return where

    assert at_each_place(scene) > 20


@needs_tracing
@pytest.mark.parametrize("size", [5, 20_000, 5_000_000])
def test_a_send_that_is_interrupted_is_sent_whole_or_not_at_all(listener, size):
    """What was begun goes on with the next call; and nothing is sent twice."""
    message = b"m" * size
    step = 1 if size == 5 else 7  # of the many places, some

    def scene(n):
        got = []
        with connected(listener, framing=LINES) as (client, peer):
            reader = threading.Thread(target=lambda: got.append(util.recv_all(peer)))
            reader.start()
            where, _ = interrupted(
                lambda: client.send(message) or True, 1 + step * (n - 1)
            )
            client.send(b"next")
            client.close()
            reader.join(20)
        assert got[0] in (message + b"\nnext\n", b"next\n"), where
        if where is None:
            assert got[0].startswith(message)
        return where

    assert at_each_place(scene) > 5


@needs_tracing
def test_what_arrives_during_an_interrupted_send_is_kept(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):
            peer.sendall(b"1\n2\n")
            where, _ = interrupted(lambda: client.send(b"x") or True, nth)
            assert rest(client, [], 2) == [b"1", b"2"], where
            return where

    assert at_each_place(scene) > 10


@needs_tracing
def test_send_eof_may_be_called_again_where_it_was_interrupted(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):
            client.send(b"last")
            where, _ = interrupted(lambda: client.send_eof() or True, nth)
            client.send_eof()
            assert util.recv_all(peer) == b"last\n", where
            peer.sendall(b"answer\n")
            assert client.recv() == b"answer"
            return where

    assert at_each_place(scene) > 10


@needs_tracing
def test_connecting_that_is_interrupted_leaves_nothing(listener):
    def scene(nth):
        before = descriptors()
        where, client = interrupted(
            lambda: pymux.connect(listener.getsockname(), timeout=10), nth
        )
        if client is not None:
            client.close()
        assert descriptors() == before, where
        with contextlib.suppress(BlockingIOError):
            listener.accept()[0].close()
        return where

    listener.setblocking(False)
    assert at_each_place(scene) > 50


@needs_tracing
def test_close_may_be_called_again_where_it_was_interrupted(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):
            peer.sendall(b"unread\n")
            client.send(b"sent")
            before = descriptors()
            with ending(peer) as got:
                where, _ = interrupted(lambda: client.close() or True, nth)
                client.close()
            assert got == [b"sent\n"], where
            assert not before or descriptors() < before, where
            with pytest.raises(pymux.ConnectionClosed):
                client.recv()
            return where

    assert at_each_place(scene) > 30


@needs_tracing
def test_a_block_whose_leaving_is_interrupted_can_be_cleaned_up(listener):
    def scene(nth):
        with connected(listener, framing=LINES) as (client, peer):

            def leave():
                with client:
                    client.send(b"sent")
                return True

            with ending(peer) as got:
                where, _ = interrupted(leave, nth)
                client.close(10)
            assert got in ([b"sent\n"], [b""]), where
            return where

    assert at_each_place(scene) > 30


# Real signals


@pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="a handler may run between any two instructions here, `return` included",
)
@needs_alarms
def test_alarms_that_raise_lose_nothing_of_a_conversation(backend):
    def raise_inside(number, frame):
        if inside.is_in_client(frame, "recv"):
            raise Interrupted

    def handler(conn, data):
        return b"\n".join([b"%d" % n for n in range(int(data))])

    with (
        util.serving(handler, backend, framing=LINES) as server,
        pymux.connect(server.address, framing=LINES, timeout=20) as client,
        on_alarm(raise_inside),
    ):
        struck = rounds = 0
        while rounds < 40 or not struck:
            rounds += 1
            client.send(b"500")
            wanted = 0
            while wanted < 500:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
                try:
                    while wanted < 500:
                        assert client.recv() == b"%d" % wanted
                        wanted += 1
                except Interrupted:
                    struck += 1
            signal.setitimer(signal.ITIMER_REAL, 0)


@needs_alarms
def test_a_signal_that_raises_ends_a_wait_at_once(listener):
    def raise_it(number, frame):
        raise Interrupted

    with connected(listener, framing=LINES) as (client, peer), on_alarm(raise_it):
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            start = time.monotonic()
            with pytest.raises(Interrupted):
                client.recv(30)
            assert time.monotonic() - start < 15
        peer.sendall(b"fine\n")
        assert client.recv() == b"fine"


@needs_alarms
def test_a_handler_may_close_the_client_that_it_has_interrupted(listener):
    with connected(listener, framing=LINES) as (client, peer):
        client.send(b"sent")
        with on_alarm(lambda *args: client.close()):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(pymux.ConnectionClosed):
                client.recv(30)
        assert util.recv_all(peer) == b"sent\n"
        client.close()


@needs_alarms
def test_a_handler_may_close_a_client_that_sends(listener):
    with connected(listener, framing=LINES) as (client, peer):
        with on_alarm(lambda *args: client.close(0.1)):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(pymux.ConnectionClosed):
                client.send(bytes(64 << 20), 30)
        with contextlib.suppress(ConnectionResetError):
            assert len(util.recv_all(peer)) < 64 << 20


@needs_alarms
def test_a_handler_cannot_use_the_client_that_it_has_interrupted(listener):
    errors = []

    def use(number, frame):
        for call in (client.recv, client.send_eof, lambda: client.send(b"never")):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    with connected(listener, framing=LINES) as (client, peer), on_alarm(use):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(TimeoutError):
            client.recv(0.5)
        assert len(errors) == 3
        assert all("in use" in error for error in errors)
        client.send(b"only this")
        client.close()
        assert util.recv_all(peer) == b"only this\n"
