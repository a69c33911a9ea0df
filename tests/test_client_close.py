"""What a client's close leaves behind: the peer has all that `send` accepted."""

import contextlib
import socket
import threading
import time

import pytest

import pymux
from pymux import Fixed, LengthPrefix, Lines

from . import inside, util
from .clients import plain_peer
from .peers import Reader

MIB = 1 << 20
LONG = 20.0  # a close that waits takes 60; one that does not, far less

# Where the peer has all of it, what it is framed with does not matter.
FRAMINGS = [None, Lines(), LengthPrefix(), Fixed(900)]


pytestmark = pytest.mark.usefixtures("client_backend")


class Counting:
    """An object handler that counts what it gets; and what else, its heirs say."""

    def __init__(self):
        self.got = 0
        self.error = None
        self.over = threading.Event()

    def received(self, conn, data):
        self.got += len(data)

    def closed(self, conn, error):
        self.error = error
        self.over.set()


class Acknowledging(Counting):
    """Takes its time, and answers each message while more of them wait."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    @pymux.batched
    def received(self, batch):
        self.got += len(batch.data)
        time.sleep(0.003)
        batch.reply([self.answer] * len(batch))


class Greeting(Counting):
    """Sends much before it reads, as a snapshot of a market is sent."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def opened(self, conn):
        for _ in range(self.size // 900):
            conn.send(b"g" * 900)


def sent_and_left(handler, backend, place, framing, count, timeout=20):
    """Send `count` messages of 900 bytes and leave; what the handler has got."""
    with util.serving(handler, backend, place, framing=framing) as server:
        with pymux.connect(server.address, framing=framing, timeout=timeout) as client:
            for _ in range(count):
                client.send(b"m" * 900)
        assert handler.over.wait(30)
    return handler.got


# All of it arrives


@pytest.mark.parametrize("framing", FRAMINGS, ids=repr)
def test_what_was_sent_arrives_though_answers_are_not_read(backend, place, framing):
    handler = Acknowledging(b"a" * 900)
    assert sent_and_left(handler, backend, place, framing, 3000) == 3000 * 900


@pytest.mark.parametrize("framing", FRAMINGS, ids=repr)
def test_what_was_sent_arrives_though_much_comes_meanwhile(backend, place, framing):
    handler = Greeting(9_000_000)
    assert sent_and_left(handler, backend, place, framing, 300) == 300 * 900


def test_what_was_sent_arrives_at_a_coroutine_that_reads_slowly(backend, place):
    got, over = [], threading.Event()

    async def slow(conn):
        try:
            async for data in conn:
                got.append(len(data))
                if len(got) % 100 == 0:
                    await pymux.sleep(0.005)
                    conn.send(b"so far")
        finally:
            over.set()

    limits = pymux.Limits(high_water=2000, low_water=1000)
    with util.serving(
        slow, backend, place, framing=Lines(), limits=limits, drain_timeout=20
    ) as server:
        with pymux.connect(server.address, framing=Lines(), timeout=20) as client:
            for _ in range(1000):
                client.send(b"m" * 900)
        assert over.wait(30)
    assert sum(got) == 1000 * 900


def test_a_close_reads_until_the_peer_has_ended_too(place):
    """A peer that answers before it ends is not reset by what it answers."""
    with plain_peer(place) as (client, peer):
        failed = []

        def answer():
            try:
                assert util.recv_all(peer) == b"question"
                for _ in range(50):
                    peer.sendall(b"answer" * 10_000)
                    time.sleep(0.001)
            except BaseException as error:
                failed.append(error)
            peer.close()

        client.send(b"question")
        peer.sendall(b"not read" * 1000)
        thread = threading.Thread(target=answer)
        thread.start()
        client.close()
        thread.join(20)
        assert not failed


def test_a_peer_that_has_ended_its_stream_gets_the_rest(place):
    with plain_peer(place) as (client, peer):
        peer.sendall(b"unread")
        peer.shutdown(socket.SHUT_WR)
        client.send(b"m" * 100_000)
        client.close()
        assert util.recv_all(peer) == b"m" * 100_000


def test_after_send_eof_a_close_adds_nothing(place):
    with plain_peer(place) as (client, peer):
        client.send(b"m" * 50_000)
        client.send_eof()
        peer.sendall(b"unread" * 100)
        client.close()
        assert util.recv_all(peer) == b"m" * 50_000


def test_a_message_whose_send_timed_out_leaves_while_the_peer_reads(place):
    with plain_peer(place) as (client, peer):
        with pytest.raises(TimeoutError):
            client.send(b"m" * 16 * MIB, timeout=0)
        got = []
        reader = threading.Thread(target=lambda: got.append(util.recv_all(peer)))
        reader.start()
        client.close(20)
        reader.join(20)
        assert got == [b"m" * 16 * MIB]


# It does not wait for more than that


def test_a_peer_that_keeps_its_side_open_does_not_delay_a_close(place):
    with plain_peer(place) as (client, peer):
        client.send(b"all")
        start = time.monotonic()
        client.close(60)
        assert time.monotonic() - start < LONG
        assert util.recv_all(peer) == b"all"


def test_many_idle_clients_close_at_once(place):
    with contextlib.ExitStack() as stack:
        kept = [
            stack.enter_context(plain_peer(place if not n else _other(place, n)))
            for n in range(50)
        ]
        start = time.monotonic()
        for client, _ in kept:
            client.close(60)
        assert time.monotonic() - start < LONG


def _other(place, n):
    return place if isinstance(place, tuple) else f"{place}{n}"


def test_a_peer_that_sends_for_ever_does_not_hold_a_close(place):
    with plain_peer(place) as (client, peer):
        stop = threading.Event()

        def flood():
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    peer.sendall(b"f" * 65536)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            client.recv()
            client.send(b"sent")
            start = time.monotonic()
            client.close(60)
            assert time.monotonic() - start < 20
        finally:
            stop.set()
            thread.join(20)
        peer.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(100) == b"sent"


# It is bounded, and what is lost is told


def test_a_close_takes_no_longer_than_its_timeout():
    with plain_peer() as (client, _peer):
        fill(client)
        start = time.monotonic()
        with contextlib.suppress(TimeoutError):
            client.close(0.2)
        assert time.monotonic() - start < LONG
        assert inside.is_closed(client)


def fill(client):
    """A message that the peer's kernel does not take whole, and part of another."""
    client.send(b"f" * 500_000)
    with pytest.raises(TimeoutError):
        client.send(bytes(64 * MIB), timeout=0.05)


def test_what_send_had_accepted_and_a_reset_destroys_is_told():
    with plain_peer() as (client, peer):
        fill(client)
        with pytest.raises(TimeoutError, match=r"bytes .* not acknowledged"):
            client.close(0.1)
        client.close()  # told once
        with pytest.raises(ConnectionResetError):
            util.recv_all(peer)


def test_a_send_that_had_timed_out_is_not_told_again():
    with plain_peer() as (client, peer):
        with pytest.raises(TimeoutError):
            client.send(bytes(64 * MIB), timeout=0.05)
        client.close(0.1)
        with pytest.raises(ConnectionResetError):
            util.recv_all(peer)


def test_a_connection_that_is_lost_with_what_was_accepted_is_told():
    with plain_peer() as (client, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(b"m" * 200_000)
        if inside.all_is_acknowledged(client):
            pytest.skip("the peer's kernel has taken all")
        util.reset(peer)
        with pytest.raises(pymux.ConnectionClosed):
            client.close()
        assert inside.is_closed(client)


def test_a_connection_that_is_lost_when_all_had_arrived_is_not_told():
    with plain_peer() as (client, peer):
        client.send(b"all")
        assert util.recv_exactly(peer, 3) == b"all"
        util.wait_until(lambda: inside.all_is_acknowledged(client))
        util.reset(peer)
        client.close()


def test_what_the_block_raises_is_not_hidden_by_what_is_lost():
    with plain_peer() as (client, peer):
        fill(client)
        peer.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )  # a reset, so that the close need not wait
        peer.close()
        with pytest.raises(KeyError), client:
            raise KeyError("the block's own")
        assert inside.is_closed(client)


def test_a_peer_that_does_not_read_gets_it_from_the_kernel_later():
    """As behind any close of a socket, so nothing is raised."""
    with plain_peer() as (client, peer):
        data = b"m" * 200_000
        client.send(data)
        client.close(0.05)
        assert util.recv_all(peer) == data


@pytest.mark.parametrize("timeout", [0, 0.5, None])
def test_any_duration_will_do(place, timeout):
    with plain_peer(place) as (client, peer):
        peer.sendall(b"unread")
        client.send(b"sent")
        client.close(timeout)
        assert inside.is_closed(client)
        with contextlib.suppress(ConnectionResetError):
            assert util.recv_all(peer) in (b"sent", b"")


def test_close_without_waiting_drops_what_is_unread_first(place):
    with plain_peer(place) as (client, peer):
        peer.sendall(b"u" * 50_000)
        client.send(b"sent")
        client.close(timeout=0)
        assert util.recv_all(peer) == b"sent"


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (float("nan"), ValueError), ("5", TypeError), (True, TypeError)],
)
def test_a_timeout_that_is_none_is_refused_and_closes_nothing(timeout, error):
    with plain_peer() as (client, peer):
        with pytest.raises(error):
            client.close(timeout)
        client.send(b"open")
        assert util.recv_exactly(peer, 4) == b"open"


def test_a_client_that_closes_on_much_unread_input_destroys_nothing_it_sent():
    data = b"d" * 200_000
    with util.listening() as listener:
        listener.settimeout(10)
        with pymux.connect(listener.getsockname(), timeout=10) as client:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(10)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                util.fill(peer, 400_000)
                client.send(data)
                reader = Reader(peer)
                client.close()
                assert reader.join() == (data, None)
