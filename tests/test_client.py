"""The blocking client, against pymux servers and against plain sockets."""

import contextlib
import errno
import gc
import socket
import threading

import pytest

import pymux
from pymux import Fixed, LengthPrefix, Lines

from . import inside, util
from .clients import plain_peer

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("client_backend")


def echo(conn, data):
    return data


@contextlib.contextmanager
def served(handler, backend, address=("127.0.0.1", 0), framing=None):
    """A client of a pymux server that runs the handler."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            util.serving(handler, backend, address, framing=framing)
        )
        yield stack.enter_context(
            pymux.connect(server.address, framing=framing, timeout=30)
        )


@contextlib.contextmanager
def running(target):
    """A thread beside the test, joined afterwards; what it raises is raised."""
    failures = []

    def run():
        try:
            target()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def drain(client):
    """Every message until the peer's end, joined."""
    return b"".join(client)


# Messages


def test_a_message_comes_back(backend):
    with served(lambda conn, data: data.upper(), backend) as client:
        client.send(b"hello")
        assert client.recv() == b"HELLO"


@pytest.mark.parametrize(
    "framing",
    [Lines(), Lines(b"\r\n"), LengthPrefix(), LengthPrefix(2, "little"), Fixed(5)],
    ids=repr,
)
def test_messages_keep_their_boundaries(backend, framing):
    with served(echo, backend, framing=framing) as client:
        client.send(b"first")
        client.send(b"other")
        assert [client.recv(), client.recv()] == [b"first", b"other"]


def test_many_messages_come_in_order_one_by_one():
    with plain_peer(framing=Lines()) as (client, peer):
        sent = [b"%d" % k for k in range(10_000)]
        with running(lambda: peer.sendall(b"\n".join(sent) + b"\n")):
            assert [client.recv() for _ in sent] == sent


def test_an_empty_message_is_not_the_end():
    with plain_peer(framing=LengthPrefix(1)) as (client, peer):
        peer.sendall(b"\0\1x\0")
        peer.shutdown(socket.SHUT_WR)
        assert [client.recv() for _ in range(4)] == [b"", b"x", b"", None]


def test_an_empty_message_can_be_sent():
    with plain_peer(framing=LengthPrefix(1)) as (client, peer):
        client.send(b"")
        assert util.recv_exactly(peer, 1) == b"\0"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_can_be_sent(kind):
    with plain_peer() as (client, peer):
        client.send(kind(b"data"))
        assert util.recv_exactly(peer, 4) == b"data"


def test_a_unix_socket_works_as_well(backend, tmp_path):
    path = str(tmp_path / "socket")
    with served(echo, backend, address=path) as client:
        client.send(b"hello")
        assert client.recv() == b"hello"
        assert client.peer == path
        assert client.local == ""


# Sending


def test_send_returns_when_a_slow_reader_has_let_the_kernel_take_it():
    data = bytes(range(256)) * (64 * 1024)
    with plain_peer() as (client, peer):
        received = []
        with running(lambda: received.append(util.recv_exactly(peer, len(data)))):
            client.send(data)
        assert received == [data]


def test_send_takes_in_an_echo_that_would_deadlock_it(backend):
    data = bytes(range(256)) * (32 * 1024)
    with served(echo, backend) as client:
        client.send(data)
        client.send_eof()
        assert drain(client) == data


def test_send_takes_in_a_bounded_amount_and_loses_none_of_it():
    flood = bytes(range(256)) * (96 * 1024)  # 24 MiB
    with plain_peer() as (client, peer), running(lambda: flooding(peer, flood)):
        with pytest.raises(TimeoutError):
            client.send(bytes(32 * MIB), timeout=1)
        assert inside.held_bytes(client) < 17 * MIB
        got = 0
        while got < len(flood):
            piece = client.recv()
            assert piece == flood[got : got + len(piece)]
            got += len(piece)


def flooding(peer, data):
    peer.settimeout(30)
    peer.sendall(data)


def test_a_send_that_timed_out_goes_on_with_the_next_call():
    data = bytes(range(256)) * (64 * 1024)
    with plain_peer() as (client, peer):
        with pytest.raises(TimeoutError):
            client.send(data, timeout=0.05)
        received = []
        with running(lambda: received.append(util.recv_all(peer))):
            client.send(b"the end")
            client.send_eof()
        assert received == [data + b"the end"]


def test_closing_after_a_send_that_timed_out_resets():
    with plain_peer() as (client, peer):
        with pytest.raises(TimeoutError):
            client.send(bytes(64 * MIB), timeout=0.05)
        client.close(0.1)
        with pytest.raises(ConnectionResetError):
            util.recv_all(peer)


def test_what_the_framing_cannot_carry_is_refused_and_harms_nothing():
    with plain_peer(framing=Fixed(3)) as (client, peer):
        with pytest.raises(ValueError):
            client.send(b"four")
        with pytest.raises(TypeError):
            client.send("str")
        client.send(b"yes")
        assert util.recv_exactly(peer, 3) == b"yes"


# Receiving


def test_recv_that_times_out_leaves_the_client_as_it_was():
    with plain_peer() as (client, peer):
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.01)
        with pytest.raises(TimeoutError):
            client.recv(timeout=0)
        peer.sendall(b"late")
        assert client.recv() == b"late"


def test_recv_with_timeout_0_takes_what_is_there():
    with plain_peer(framing=Lines()) as (client, peer):
        peer.sendall(b"one\ntwo\n")
        assert client.recv() == b"one"
        assert client.recv(timeout=0) == b"two"


def test_the_client_has_a_timeout_of_its_own():
    with plain_peer(timeout=0.05) as (client, _), pytest.raises(TimeoutError):
        client.recv()


def test_recv_without_a_timeout_waits_longer_than_the_client_would():
    with plain_peer(timeout=0.01) as (client, peer):
        with pytest.raises(TimeoutError):
            client.recv()
        timer = threading.Timer(0.1, peer.sendall, [b"late"])
        timer.start()
        assert client.recv(timeout=None) == b"late"
        timer.join()


def test_recv_returns_none_at_the_end_and_again():
    with plain_peer() as (client, peer):
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert [client.recv(), client.recv(), client.recv()] == [b"last", None, None]


def test_iteration_ends_at_the_end_of_the_stream():
    with plain_peer(framing=Lines()) as (client, peer):
        peer.sendall(b"a\nb\nc")
        peer.shutdown(socket.SHUT_WR)
        assert list(client) == [b"a", b"b", b"c"]


def test_one_may_send_after_the_peer_has_ended_its_stream():
    with plain_peer() as (client, peer):
        peer.shutdown(socket.SHUT_WR)
        assert client.recv() is None
        client.send(b"still here")
        assert util.recv_exactly(peer, 10) == b"still here"


def test_send_eof_ends_one_direction_alone():
    with plain_peer() as (client, peer):
        client.send(b"question")
        client.send_eof()
        assert util.recv_all(peer) == b"question"
        peer.sendall(b"answer")
        assert client.recv() == b"answer"
        with pytest.raises(pymux.ConnectionClosed):
            client.send(b"more")


# Lost connections


def test_a_reset_is_raised_behind_the_messages_that_came_before():
    with plain_peer(framing=Lines()) as (client, peer):
        peer.sendall(b"one\ntwo\n")
        assert client.recv() == b"one"
        util.reset(peer)
        assert client.recv() == b"two"
        for _ in range(2):
            with pytest.raises(pymux.ConnectionClosed) as caught:
                client.recv()
            assert caught.value.errno == errno.ECONNRESET
            assert isinstance(caught.value.__cause__, OSError)


def test_sending_to_a_peer_that_reset_raises():
    with plain_peer() as (client, peer):
        util.reset(peer)
        with pytest.raises(pymux.ConnectionClosed) as caught:
            for _ in range(1000):
                client.send(b"anybody?")
        assert caught.value.errno == errno.ECONNRESET


def test_sending_to_a_peer_that_closed_raises_in_the_end():
    with plain_peer() as (client, peer):
        peer.close()
        with pytest.raises(pymux.ConnectionClosed):
            for _ in range(1000):
                client.send(b"anybody?")


def test_a_frame_that_is_too_long_is_raised_with_its_cause():
    with plain_peer(framing=Lines(max_size=10)) as (client, peer):
        peer.sendall(b"fine\n" + b"x" * 100)
        assert client.recv() == b"fine"
        with pytest.raises(pymux.ConnectionClosed) as caught:
            client.recv()
        assert caught.value.errno == errno.EMSGSIZE


def test_a_stream_that_ends_inside_a_frame_is_raised_with_its_cause():
    with plain_peer(framing=LengthPrefix()) as (client, peer):
        peer.sendall(b"\0\0\0\5he")
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(pymux.ConnectionClosed) as caught:
            client.recv()
        assert caught.value.errno == errno.EPROTO


# Closing


def test_after_close_every_call_raises():
    with plain_peer() as (client, peer):
        peer.sendall(b"unread")
        client.close()
        client.close()
        for call in (client.recv, client.send_eof, lambda: client.send(b"x")):
            with pytest.raises(pymux.ConnectionClosed):
                call()


def test_leaving_the_block_ends_the_stream():
    with plain_peer() as (client, peer):
        with client:
            client.send(b"bye")
        assert util.recv_all(peer) == b"bye"


def test_close_with_unread_input_does_not_destroy_what_was_sent():
    with plain_peer() as (client, peer):
        peer.sendall(b"x" * 100_000)
        data = b"y" * 200_000
        client.send(data)
        client.close(0.1)  # the peer does not read before
        assert util.recv_all(peer) == data


def test_addresses_can_be_read_after_closing():
    with plain_peer() as (client, peer):
        client.close()
        assert client.peer == peer.getsockname()
        assert client.local == peer.getpeername()
        assert repr(peer.getsockname()) in repr(client)


def test_an_open_client_that_is_dropped_warns():
    with util.listening() as listener:
        client = pymux.connect(listener.getsockname(), timeout=10)
        with pytest.warns(ResourceWarning):
            del client
            gc.collect()


# Threads


def test_another_thread_may_take_over():
    with plain_peer() as (client, peer):
        client.send(b"one")

        def use():
            client.send(b"two")
            assert util.recv_exactly(peer, 6) == b"onetwo"
            peer.sendall(b"three")
            assert client.recv() == b"three"

        with running(use):
            pass
        client.send(b"four")
        assert util.recv_exactly(peer, 4) == b"four"


def test_another_thread_may_close():
    with plain_peer() as (client, peer):
        with running(client.close):
            pass
        assert util.recv_all(peer) == b""


# Connecting


def test_connecting_to_nobody_raises_connection_refused():
    with util.listening() as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        pymux.connect(address, timeout=10)


def test_connecting_to_a_path_that_is_not_there_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        pymux.connect(str(tmp_path / "nothing"), timeout=10)


@pytest.mark.skipif(
    not hasattr(socket, "TCP_DEFER_ACCEPT"), reason="only Linux drops these SYNs"
)
def test_connecting_takes_no_longer_than_its_timeout():
    with util.full_backlog() as address, pytest.raises(TimeoutError):
        pymux.connect(address, timeout=0.1)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_no_duration_is_refused(timeout):
    with pytest.raises(ValueError):
        pymux.connect(("127.0.0.1", 1), timeout=timeout)
    with plain_peer() as (client, _), pytest.raises(ValueError):
        client.recv(timeout=timeout)


def test_a_timeout_that_is_no_number_is_refused():
    with pytest.raises(TypeError):
        pymux.connect(("127.0.0.1", 1), timeout="5")


def test_an_address_in_one_string_is_refused_with_the_form_to_use():
    with pytest.raises(ValueError, match=r"\('127\.0\.0\.1', 8093\)"):
        pymux.connect("127.0.0.1:8093")
