"""What a client takes before it waits, and when a wait is over."""

import contextlib
import errno
import os
import socket
import struct
import sys
import threading

import pytest

import pymux
from pymux import LengthPrefix, Lines

from . import inside, util
from .clients import connected
from .processes import no_descriptor_left

pytestmark = pytest.mark.usefixtures("client_backend")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="it looks into /proc"
)


@needs_proc
def test_a_client_that_does_not_wait_takes_one_descriptor(listener):
    before = descriptors()
    with connected(listener) as (client, peer):
        client.send(b"question")
        assert descriptors() == before + 2  # the other is the peer's
        with pytest.raises(TimeoutError):
            client.recv(0)
        assert descriptors() == before + 2
        with pytest.raises(TimeoutError):
            client.recv(0.01)
        assert descriptors() <= before + 4  # and what can end its wait
        peer.sendall(b"answer")
        assert client.recv() == b"answer"
    assert descriptors() == before


@needs_proc
def test_a_hundred_clients_weigh_little(listener):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(pymux.connect(listener.getsockname(), timeout=10))
        before = resident()
        for _ in range(200):
            stack.enter_context(pymux.connect(listener.getsockname(), timeout=10))
        assert (resident() - before) / 200 < 64 * 1024


def test_a_wait_needs_no_descriptor_that_cannot_be_had(listener):
    with connected(listener) as (client, peer), no_descriptor_left():
        timer = threading.Timer(0.1, peer.sendall, [b"late"])
        timer.start()
        assert client.recv() == b"late"
        timer.join()


@pytest.mark.parametrize("size", [1, 9_000, 70_000, 1_000_000])
def test_what_comes_in_any_size_is_received_whole(listener, size):
    """Also where the memory of the first harvests has no room for it."""
    message = (bytes(range(256)) * (size // 256 + 1))[:size]
    framed = size.to_bytes(4, "big") + message
    with connected(listener, framing=LengthPrefix()) as (client, peer):
        sender = threading.Thread(target=peer.sendall, args=(framed * 5,))
        sender.start()
        assert [client.recv() for _ in range(5)] == [message] * 5
        sender.join()
        client.send(message[:1000])
        assert util.recv_exactly(peer, 4 + len(message[:1000]))


@pytest.mark.skipif(sys.platform != "linux", reason="it asks what has arrived")
def test_a_message_that_takes_many_receives_has_arrived_in_time(listener):
    import fcntl
    import termios

    def unread():
        return struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, b"\0" * 4))[0]

    message = bytes(range(256)) * 250
    with connected(listener, framing=LengthPrefix()) as (client, peer):
        peer.sendall(len(message).to_bytes(4, "big") + message)
        if listener.family == socket.AF_INET:
            util.wait_until(lambda: unread() == 0)
        assert client.recv(timeout=0) == message


def test_a_message_that_came_while_nobody_looked_is_no_timeout(listener, clock):
    """The time may be over when a wait returns: then there is one look more."""
    with connected(listener, framing=Lines()) as (client, peer):
        engine = inside.engine_of(client)
        assert engine.can_be_woken()  # else a wait begins with a look
        harvest, late = engine.harvest, []

        def slow(*args):
            batch = harvest(0.0, 1, 0)
            if not late:  # as where this thread is kept from running for a while
                late.append(peer.sendall(b"in time\n"))
                clock.advance(61)
            return batch

        engine.harvest = slow
        assert client.recv(timeout=60) == b"in time"


def test_next_takes_one_message(listener):
    with connected(listener, framing=Lines()) as (client, peer):
        peer.sendall(b"a\nb\n")
        assert next(client) == b"a"
        assert next(client) == b"b"
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(StopIteration):
            next(client)


# --- limits ------------------------------------------------------------------------


@pytest.mark.parametrize("of_endpoint", [False, True])
def test_a_client_whose_peer_is_silent_for_too_long_is_lost(
    listener, clock, of_endpoint
):
    where, limits = listener.getsockname(), pymux.Limits(idle_timeout=60)
    options = {} if of_endpoint else {"limits": limits}
    if of_endpoint:
        where = pymux.Endpoint(where, limits=limits)
    with pymux.connect(where, timeout=10, **options) as client:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"x")
            assert client.recv() == b"x"
            clock.advance(100)  # the client's own time, for its message
            for span in (50, 11):
                with pytest.raises(TimeoutError):
                    client.recv(0)
                clock.advance(span)
            with pytest.raises(pymux.ConnectionClosed) as caught:
                client.recv()
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_client_whose_peer_does_not_end_its_message_is_lost(listener, clock):
    where, limits = listener.getsockname(), pymux.Limits(message_timeout=60)
    with pymux.connect(where, framing=pymux.Lines(), limits=limits) as client:
        peer, _ = listener.accept()
        with peer:
            for begin in b"in ", b"wo":
                peer.sendall(begin)
                with pytest.raises(TimeoutError):
                    client.recv(0.001)
                clock.advance(50)
                peer.sendall(b"time\n")  # it has arrived before the client looks
                clock.advance(50)
                assert client.recv(10) == begin + b"time"
            peer.sendall(b"too ")
            with pytest.raises(TimeoutError):
                client.recv(0.001)
            clock.advance(61)
            with pytest.raises(pymux.ConnectionClosed) as caught:
                client.recv(10)
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_client_sets_the_sizes_of_its_socket(listener):
    limits = pymux.Limits(send_buffer=20_000, notsent_lowat=16_384)
    with pymux.connect(listener.getsockname(), limits=limits) as client:
        peer, _ = listener.accept()
        with peer, socket.socket(fileno=os.dup(client.fileno())) as sock:
            size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            assert 20_000 <= size <= 40_000  # Linux doubles it
            if sock.family != socket.AF_UNIX and sys.platform in ("linux", "darwin"):
                option = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # since 3.12
                assert sock.getsockopt(socket.IPPROTO_TCP, option) == 16_384
            client.send(b"hello")
            assert util.recv_exactly(peer, 5) == b"hello"


@pytest.mark.parametrize(
    "name, value", [("max_output", 5), ("high_water", 1 << 20), ("close_timeout", 1.0)]
)
def test_a_client_refuses_limits_that_it_does_not_take(listener, name, value):
    limits = pymux.Limits(**{name: value})
    with pytest.raises(ValueError, match=f"limits has {name}={value}; a client takes"):
        pymux.connect(listener.getsockname(), limits=limits)
    with pytest.raises(TypeError, match="limits is 7"):
        pymux.connect(listener.getsockname(), limits=7)
