"""What the select() server of the lesson gets wrong, a test for each failure.

And its client, which works as it is: it reads a line from the user, sends it, and
prints the answer.
"""

import array
import contextlib
import signal
import socket

import pytest

import pymux

from . import util
from .processes import descriptors_allowed, descriptors_taken, python

# More than any pair of socket buffers takes, and no two places of it are alike.
LONG = array.array("I", range(1 << 21)).tobytes()

CLIENT = """
import socket, sys

client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    try:
        line = input(">>: ")
    except EOFError:
        break
    if not line:
        continue
    client.sendall(line.encode())
    print(client.recv(1024).decode())
"""

SERVER = """
import sys, pymux

pymux.serve(lambda conn, data: data.upper(), ("127.0.0.1", int(sys.argv[1])))
"""


def answer(data):
    """The lesson's answer, and a long one to `long`."""
    return LONG if data == b"long" else data.upper()


@contextlib.contextmanager
def stuck(server):
    """A client that asked for the long answer and does not read it."""
    with util.connect(server.address) as sock:
        sock.sendall(b"long")
        util.wait_until(lambda: server.stats().bytes_out > 0)
        yield sock


@pytest.fixture(params=util.FORMS)
def server(request, backend):
    """A server that upper-cases, in each form on each backend."""
    with util.serving(util.in_form(request.param, answer), backend) as server:
        yield server


def test_a_client_that_reads_nothing_holds_up_nobody(server):
    with stuck(server):
        assert util.exchange(server.address, b"hello", 5) == b"HELLO"


def test_a_client_that_sends_nothing_holds_up_nobody(server):
    with util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        assert util.exchange(server.address, b"hello", 5) == b"HELLO"


def test_a_message_before_the_last_was_answered_overwrites_nothing(server):
    with stuck(server) as sock:
        sock.sendall(b"again")
        util.settle(server)
        assert util.recv_exactly(sock, len(LONG) + 5) == LONG + b"AGAIN"


def test_many_messages_before_the_first_answer_are_each_answered(backend):
    with (
        util.serving(
            lambda conn, data: data.upper(), backend, framing=pymux.Lines()
        ) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"a\nb\nc\n")
        sock.sendall(b"d\n")
        assert util.recv_exactly(sock, 8) == b"A\nB\nC\nD\n"


def test_a_send_that_takes_a_part_loses_nothing(server):
    with stuck(server) as sock:
        assert util.recv_exactly(sock, len(LONG)) == LONG


@pytest.mark.parametrize(
    "leave",
    [util.reset, socket.socket.close],
    ids=["resets", "closes"],
)
def test_a_peer_that_leaves_while_its_answer_is_pending_harms_nobody(server, leave):
    with util.connect(server.address) as other:
        with stuck(server) as sock:
            leave(sock)
        util.wait_until(lambda: server.stats().connections == 1)
        other.sendall(b"still")
        assert util.recv_exactly(other, 5) == b"STILL"
        assert util.exchange(server.address, b"new", 3) == b"NEW"


def test_an_end_of_stream_before_the_answer_was_read_loses_none_of_it(server):
    with stuck(server) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert util.recv_all(sock) == LONG


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_more_than_1024_descriptors_are_served(name):
    if name not in pymux.backends():
        pytest.skip(f"{name} does not work on this machine")
    with contextlib.ExitStack() as stack:
        stack.enter_context(descriptors_taken(1100))
        server = stack.enter_context(
            util.serving(lambda conn, data: data.upper(), name)
        )
        clients = [stack.enter_context(util.connect(server.address)) for _ in range(50)]
        for sock in clients:
            sock.sendall(b"hello")
        for sock in clients:
            assert util.recv_exactly(sock, 5) == b"HELLO"


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_more_than_1024_connections_are_served(name):
    if name not in pymux.backends():
        pytest.skip(f"{name} does not work on this machine")
    with contextlib.ExitStack() as stack:
        stack.enter_context(descriptors_allowed(2600))
        server = stack.enter_context(
            util.serving(lambda conn, data: data.upper(), name)
        )
        clients = [
            stack.enter_context(util.connect(server.address)) for _ in range(1100)
        ]
        for sock in clients:
            sock.sendall(b"x")
        for sock in clients:
            assert sock.recv(1) == b"X"
        assert server.stats().connections == 1100


@pytest.mark.skipif("select" not in pymux.backends(), reason="no select here")
@pytest.mark.usefixtures("logged")
def test_select_turns_away_what_it_cannot_hold_and_serves_the_rest():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            util.serving(lambda conn, data: data.upper(), "select")
        )
        inside = stack.enter_context(util.connect(server.address))
        inside.sendall(b"in")
        assert util.recv_exactly(inside, 2) == b"IN"
        with descriptors_taken(1024), util.connect(server.address) as outside:
            assert util.until_end(outside)[0] == b""
            util.wait_until(lambda: server.stats().refused > 0)
            inside.sendall(b"still")
            assert util.recv_exactly(inside, 5) == b"STILL"
        assert util.exchange(server.address, b"later", 5) == b"LATER"


def test_the_client_of_the_lesson_gets_its_answers():
    port = util.free_port()
    with python("-c", SERVER, port) as server:
        util.connect_when_up(("127.0.0.1", port)).close()
        with python("-c", CLIENT, port) as client:
            out, err = client.communicate("hello\n\nsecond line\n", timeout=20)
        assert (out, err) == (">>: HELLO\n>>: >>: SECOND LINE\n>>: ", "")
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=20) == ("", "")
        assert server.returncode == 0
