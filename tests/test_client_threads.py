"""Several threads at one client: one is inside, any may close it."""

import contextlib
import functools
import gc
import os
import sys
import threading

import pytest

import pymux
from pymux import Lines

from . import clients, inside, util
from .processes import in_child, python

LINES = Lines()
plain_peer = functools.partial(clients.plain_peer, framing=LINES)


pytestmark = pytest.mark.usefixtures("client_backend")


class Call(threading.Thread):
    """A call in a thread of its own, and what came of it."""

    def __init__(self, client, call):
        super().__init__(daemon=True)
        self.outcome = None
        self._call = call
        self.start()
        util.wait_until(lambda: inside.is_entered(client) or not self.is_alive())

    def run(self):
        try:
            self.outcome = self._call()
        except BaseException as error:
            self.outcome = error

    def result(self):
        self.join(20)
        assert not self.is_alive()
        return self.outcome


CALLS = {
    "send": lambda client: client.send(b"never"),
    "recv": lambda client: client.recv(0),
    "recv of the default": lambda client: client.recv(),
    "iteration": lambda client: next(iter(client)),
    "send_eof": lambda client: client.send_eof(),
}


# One at a time


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_beside_a_waiting_recv_raises_and_does_nothing(call):
    with plain_peer() as (client, peer):
        waiting = Call(client, client.recv)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="in use"):
                call(client)
        peer.sendall(b"answer\n")
        assert waiting.result() == b"answer"
        client.send(b"only this")
        client.send_eof()
        assert util.recv_all(peer) == b"only this\n"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_beside_a_waiting_send_raises_and_does_nothing(call):
    big = b"b" * (32 << 20)
    with plain_peer() as (client, peer):
        peer.sendall(b"held\n")
        waiting = Call(client, lambda: client.send(big))
        util.wait_until(lambda: inside.has_queued(client))
        with pytest.raises(RuntimeError, match="in use"):
            call(client)
        assert util.recv_exactly(peer, len(big) + 1) == big + b"\n"
        assert waiting.result() is None
        assert client.recv() == b"held"
        client.send_eof()
        assert util.recv_all(peer) == b""


def test_what_raised_because_another_was_inside_may_be_called_again():
    with plain_peer() as (client, peer):
        waiting = Call(client, client.recv)
        with pytest.raises(RuntimeError):
            client.recv(0)
        peer.sendall(b"one\ntwo\n")
        assert waiting.result() == b"one"
        assert client.recv() == b"two"


def test_threads_that_crowd_in_send_and_receive_each_message_once(backend):
    """Whatever is refused has done nothing, whatever is not has done all."""
    sent, came, refused = [0] * 3, [[] for _ in range(3)], [0] * 3
    over = threading.Event()

    def crowd(at):
        while not over.is_set():
            try:
                client.send(b"%d %d" % (at, sent[at]))
                sent[at] += 1
                came[at].append(client.recv(10))
            except RuntimeError as error:
                assert "in use" in str(error)
                refused[at] += 1

    with (
        util.serving(lambda conn, data: data, backend, framing=LINES) as server,
        pymux.connect(server.address, framing=LINES, timeout=20) as client,
    ):
        threads = [threading.Thread(target=crowd, args=(at,)) for at in range(3)]
        for thread in threads:
            thread.start()
        util.wait_until(lambda: sum(sent) >= 100 and any(refused), 20)
        over.set()
        for thread in threads:
            thread.join(20)
        got = [message for each in came for message in each]
        while len(got) < sum(sent):
            got.append(client.recv(10))
        wanted = [b"%d %d" % (at, k) for at in range(3) for k in range(sent[at])]
        assert sorted(got) == sorted(wanted)
        with pytest.raises(TimeoutError):
            client.recv(0)


def test_addresses_can_be_read_in_any_thread():
    with plain_peer() as (client, peer):
        waiting = Call(client, client.recv)
        assert client.peer == peer.getsockname()
        assert client.local == peer.getpeername()
        assert "open" in repr(client)
        peer.sendall(b"x\n")
        waiting.result()


# Closing from elsewhere


WAITS = {
    "recv": lambda client: client.recv(),
    "recv for ever": lambda client: client.recv(None),
    "iteration": lambda client: list(client),
    "send": lambda client: client.send(b"s" * (64 << 20)),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_close_in_another_thread_ends_what_waits(wait):
    with plain_peer() as (client, peer):
        waiting = Call(client, lambda: wait(client))
        client.close(0.5)
        error = waiting.result()
        assert isinstance(error, pymux.ConnectionClosed), error
        assert inside.is_closed(client)
        with contextlib.suppress(ConnectionResetError):  # of half a message
            util.recv_all(peer)


def test_send_eof_that_waits_is_ended_too():
    with plain_peer() as (client, peer):
        with pytest.raises(TimeoutError):
            client.send(b"s" * (64 << 20), 0)
        waiting = Call(client, client.send_eof)
        client.close(0.2)
        assert isinstance(waiting.result(), pymux.ConnectionClosed)
        with contextlib.suppress(ConnectionResetError):
            util.recv_all(peer)


def test_close_returns_when_the_thread_inside_has_closed():
    with plain_peer() as (client, peer):
        client.send(b"sent")
        waiting = Call(client, client.recv)
        client.close()
        assert inside.is_closed(client)
        assert inside.is_freed(client)
        assert util.recv_all(peer) == b"sent\n"
        assert isinstance(waiting.result(), pymux.ConnectionClosed)


def test_many_threads_may_close_at_once():
    for _ in range(5):
        with plain_peer() as (client, peer):
            waiting = Call(client, client.recv)
            closers = [Call(client, client.close) for _ in range(4)]
            assert [closer.result() for closer in closers] == [None] * 4
            assert isinstance(waiting.result(), pymux.ConnectionClosed)
            assert util.recv_all(peer) == b""


def test_a_close_beside_a_close_waits_for_it():
    with plain_peer() as (client, peer):
        client.send(b"s" * 100_000)
        peer.sendall(b"unread\n" * 10)
        first = Call(client, client.close)
        client.close()
        assert inside.is_closed(client)
        assert util.recv_all(peer) == b"s" * 100_000 + b"\n"
        assert first.result() is None


def test_close_before_the_first_wait_is_noticed():
    """Between what a wait has to make and its begin, too."""
    for _ in range(30):
        with plain_peer() as (client, _peer):
            barrier = threading.Barrier(2)

            def wait(client=client, barrier=barrier):
                barrier.wait(10)
                client.recv()

            waiting = threading.Thread(target=lambda wait=wait: _swallow(wait))
            waiting.start()
            barrier.wait(10)
            client.close()
            waiting.join(20)
            assert not waiting.is_alive()


def _swallow(call):
    with contextlib.suppress(pymux.ConnectionClosed, RuntimeError):
        call()


@pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="references are not counted here"
)
def test_a_dropped_client_leaves_no_descriptor_to_the_collector():
    gc.collect()
    gc.disable()
    try:
        with util.listening() as listener:
            client = pymux.connect(listener.getsockname(), timeout=10)
            peer, _ = listener.accept()
            with peer:
                client.send(b"sent")
                with pytest.warns(ResourceWarning, match="unclosed"):
                    del client
                assert util.recv_all(peer) == b"sent"
    finally:
        gc.enable()


# Forks, and the end of the program


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_closing_in_a_forked_child_leaves_the_parents_connection():
    with plain_peer() as (client, peer):

        def close_there():
            with pytest.raises(RuntimeError, match="fork"):
                client.recv(0)
            client.close()
            client.close()

        in_child(close_there)
        client.send(b"still here")
        assert util.recv_exactly(peer, 11) == b"still here\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_may_close_what_a_thread_of_its_parent_waits_in():
    with plain_peer() as (client, peer):
        waiting = Call(client, client.recv)
        in_child(client.close)
        peer.sendall(b"answer\n")
        assert waiting.result() == b"answer"


def test_a_client_may_be_closed_at_exit_while_a_thread_waits(backend):
    program = """
import atexit, threading
import pymux
from tests import inside
server = pymux.Server(lambda conn, data: data, ("127.0.0.1", 0)).start()
client = pymux.connect(server.address)
atexit.register(server.stop)
atexit.register(lambda: thread.join(20))
atexit.register(client.close)
def wait():
    try:
        client.recv()
    except pymux.ConnectionClosed:
        print("closed", flush=True)
thread = threading.Thread(target=wait, daemon=True)
thread.start()
while not inside.is_entered(client):
    pass
"""
    with python("-W", "error", "-c", program) as child:
        out, err = child.communicate(timeout=50)
    assert (child.returncode, out, err) == (0, "closed\n", "")
