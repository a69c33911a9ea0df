"""The servers in examples/ do what they say, as their users meet them."""

import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import struct
import sys

import pytest

import pymux

from . import util
from .processes import python

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
LINES = pymux.Lines()

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="stopped by a signal"),
]


@contextlib.contextmanager
def running(name, ports, *args):
    """The ports that an example prints, while it runs."""
    with python(EXAMPLES / f"{name}.py", *args) as child:
        yield [int(child.stdout.readline().split()[-1]) for _ in range(ports)]
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30) == ("", "")
        assert child.returncode == 0


@contextlib.contextmanager
def client(port, framing=LINES):
    """A blocking client of 127.0.0.1."""
    with pymux.connect(("127.0.0.1", port), framing=framing, timeout=20) as one:
        yield one


def said(one, *lines):
    """Whether the next messages are these."""
    return [one.recv() for _ in lines] == list(lines)


# -- wrong arguments -----------------------------------------------------------------


NEEDS = {"model": "numpy", "raw": "h11", "telemetry": "aiohttp"}
NEEDS["telemetry_parquet"] = "pyarrow"


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_with_wrong_arguments_ends_with_one_line(name):
    pytest.importorskip(NEEDS.get(name, "sys"))
    with python(EXAMPLES / f"{name}.py", *["wrong"] * 3) as child:
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (1, "")
    assert re.fullmatch(rf"usage: python examples/{name}\.py [^\n]*\n", err)


@pytest.mark.parametrize(
    "name, args",
    [
        ("balancer", ["{}", "1"]),
        ("chat", ["{}"]),
        ("fanout", ["0", "{}"]),
        ("pipes", ["{}", sys.executable, "-c", "import sys; sys.stdin.read()"]),
        ("rpc", ["{}"]),
    ],
)
def test_an_example_whose_port_is_taken_or_is_none_ends_with_one_line(name, args):
    with util.listening() as taken:
        for port in taken.getsockname()[1], 99999:
            given = [one.format(port) for one in args]
            with python(EXAMPLES / f"{name}.py", *given) as child:
                out, err = child.communicate(timeout=30)
            assert (child.returncode, out) == (1, "")
            assert err.count("\n") == 1
            assert str(port) in err


# -- the chat ------------------------------------------------------------------------


@contextlib.contextmanager
def member(port, name):
    """A client that is in the chat's hall."""
    with client(port) as one:
        assert one.recv() == b"what is your name?"
        one.send(name)
        assert one.recv() == name + b" has come to hall"
        yield one


@contextlib.contextmanager
def chat():
    """Two members of the example's hall, and its port."""
    with (
        running("chat", 1, 0) as (port,),
        member(port, b"Ann") as ann,
        member(port, b"Bob") as bob,
    ):
        assert ann.recv() == b"Bob has come to hall"
        yield ann, bob, port


def test_everybody_in_a_room_hears_what_is_said_there():
    with chat() as (ann, bob, _):
        ann.send(b"good morning")
        assert said(ann, b"Ann: good morning")
        assert said(bob, b"Ann: good morning")
        bob.send(b"/who")
        assert said(bob, b"Ann, Bob")


def test_who_moves_to_another_room_hears_that_one():
    with chat() as (ann, bob, _):
        bob.send(b"/join attic")
        assert said(ann, b"Bob has left hall")
        assert said(bob, b"Bob has come to attic")
        ann.send(b"alone")
        ann.send(b"/join attic")
        assert said(ann, b"Ann: alone", b"Ann has come to attic")
        assert said(bob, b"Ann has come to attic")


def test_a_name_is_free_again_when_its_member_has_quit():
    with chat() as (ann, bob, port), client(port) as other:
        assert said(other, b"what is your name?")
        other.send(b"Bob")
        assert said(other, b"another name, please")
        bob.send(b"/quit")
        assert said(ann, b"Bob has left hall")
        assert bob.recv() is None
        other.send(b"Bob")
        assert said(other, b"Bob has come to hall")


# -- the fan-out ---------------------------------------------------------------------


@contextlib.contextmanager
def fanout():
    """(a feed, the subscribers' port) of the example."""
    with running("fanout", 2, 0, 0) as (feeds, subscribers), client(feeds) as feed:
        yield feed, subscribers


def test_a_subscriber_gets_the_last_price_and_then_each_new_one():
    with fanout() as (feed, port), client(port) as one:
        one.send(b"ACME")
        one.send(b"NONE")
        feed.send(b"ACME 17.2")
        assert said(one, b"ACME 17.2")
        feed.send(b"OTHER 1")
        feed.send(b"ACME 17.3")
        assert said(one, b"ACME 17.3")
        with client(port) as late:
            late.send(b"ACME")
            assert said(late, b"ACME 17.3")


def test_a_slow_subscriber_gets_fewer_prices_and_the_last_one_of_each():
    symbols = [b"S%d" % k for k in range(500)]
    rounds = 150  # 6 MB in all, more than the kernel keeps for a reader
    with fanout() as (feed, port), socket.socket() as slow, client(port, None) as fast:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", port))
        wanted = b"".join(symbol + b"\n" for symbol in symbols)
        for one in (slow.sendall, fast.send):
            one(wanted + b"READY\n")
        feed.send(b"READY 1")
        assert util.recv_exactly(slow, 8) == b"READY 1\n"
        read_until(fast.recv, b"READY 1\n")
        for k in range(rounds):
            feed.send(b"\n".join(b"%s %d %s" % (one, k, b"x" * 75) for one in symbols))
            read_until(fast.recv, b"S499 %d x" % k)
        read, last = bytearray(), b" %d x" % (rounds - 1)
        while read[-300_000:].count(last) < len(symbols) or not read.endswith(b"\n"):
            read += slow.recv(1 << 20)
    prices = {symbol: [] for symbol in symbols}
    for line in bytes(read).splitlines():
        symbol, price = line.split()[:2]
        prices[symbol].append(int(price))
    assert all(one == sorted(set(one)) for one in prices.values())
    assert {one[-1] for one in prices.values()} == {rounds - 1}
    assert sum(map(len, prices.values())) < rounds * len(symbols)


def read_until(recv, wanted):
    """All that is read up to some bytes, and with them."""
    got = bytearray()
    while wanted not in got[-1_000_000:]:
        piece = recv()
        assert piece, "the stream has ended"
        got += piece
    return bytes(got)


# -- the balancer --------------------------------------------------------------------


@contextlib.contextmanager
def balancer(*ports):
    """The port of the example, in front of backends."""
    with running("balancer", 1, 0, *ports) as (port,):
        yield port


def named(name):
    """A backend that answers with its name."""
    return pymux.Server(
        lambda conn, line: name + b" " + line, ("127.0.0.1", 0), framing=LINES
    )


def test_connections_are_spread_over_the_backends():
    with (
        named(b"a") as a,
        named(b"b") as b,
        balancer(a.address[1], b.address[1]) as port,
        client(port) as one,
        client(port) as two,
    ):
        one.send(b"x")
        first = one.recv()
        two.send(b"x")
        assert {first, two.recv()} == {b"a x", b"b x"}


def test_a_backend_that_is_down_is_passed_over():
    with named(b"a") as a, balancer(util.free_port(), a.address[1]) as port:
        for _ in range(3):
            with client(port) as one:
                one.send(b"x")
                assert said(one, b"a x")


def test_the_end_of_a_stream_is_passed_on_and_the_answer_behind_it_too():
    async def count(conn):
        size = 0
        async for data in conn:
            size += len(data)
        conn.send(b"%d" % size)

    with (
        pymux.Server(count, ("127.0.0.1", 0)) as backend,
        balancer(backend.address[1]) as port,
        client(port, None) as one,
    ):
        one.send(b"x" * 3_000_000)
        one.send_eof()
        assert b"".join(one) == b"3000000"


def test_without_a_backend_a_connection_is_reset():
    port = util.free_port()
    with balancer(port) as front, pytest.raises(ConnectionError), client(front) as one:
        one.recv()


# -- the model -----------------------------------------------------------------------


@contextlib.contextmanager
def model():
    """The port of the example."""
    pytest.importorskip("numpy")
    with running("model", 1, 0) as (port,):
        yield port


def test_each_question_gets_its_answer_whoever_else_asks():
    questions = [struct.pack("<64f", *[k] * 64) for k in (0.0, 0.01, 0.02)]
    with model() as port, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(port, None)) for _ in questions]
        for one, question in zip(clients, questions):
            one.send(question)
        answers = [struct.unpack("<8f", exactly(one, 32)) for one in clients]
        assert answers[0] == (0.0,) * 8
        assert all(abs(a) < abs(b) for a, b in zip(answers[1], answers[2]))
        clients[0].send(questions[2] + questions[1])
        again = struct.unpack("<16f", exactly(clients[0], 64))
        # Rows of another product: rounded otherwise, perhaps.
        assert again == pytest.approx(answers[2] + answers[1])


def exactly(one, size):
    """So many bytes from a client without a framing."""
    got = b""
    while len(got) < size:
        got += one.recv()
    return got


# -- HTTP and Redis ------------------------------------------------------------------


@contextlib.contextmanager
def raw():
    """(an HTTP connection, Redis' port) of the example."""
    pytest.importorskip("h11")
    pytest.importorskip("hiredis")
    with running("raw", 2, 0, 0) as (http_port, redis_port):
        web = http.client.HTTPConnection("127.0.0.1", http_port, timeout=20)
        with contextlib.closing(web):
            yield web, redis_port


def answer(web, *request):
    """(status, content) of a request."""
    web.request(*request)
    response = web.getresponse()
    return response.status, response.read()


def test_what_is_put_over_http_is_read_over_redis_and_back():
    with raw() as (web, redis_port):
        assert answer(web, "PUT", "/colour", b"green") == (204, b"")
        assert answer(web, "GET", "/colour") == (200, b"green")
        assert answer(web, "HEAD", "/colour") == (200, b"")
        assert answer(web, "GET", "/size")[0] == 404
        assert answer(web, "DELETE", "/colour")[0] == 405
        with client(redis_port, None) as redis:
            redis.send(
                b"*2\r\n$3\r\nget\r\n$6\r\ncolour\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"
            )
            got = b""
            while len(got) < 16:
                got += redis.recv()
            assert got == b"$5\r\ngreen\r\n$-1\r\n"
            redis.send(b"*3\r\n$3\r\nSET\r\n$4\r\nsize\r\n$1\r\n9\r\n")
            assert redis.recv() == b"+OK\r\n"
            redis.send(b"*1\r\n:7\r\n")
            assert redis.recv().startswith(b"-ERR ")
        assert answer(web, "GET", "/size") == (200, b"9")


def test_a_request_that_is_none_is_refused():
    with raw() as (web, _), client(web.port, None) as peer:
        peer.send(b"hello\r\n\r\n")
        assert peer.recv().startswith(b"HTTP/1.1 400 ")
        assert peer.recv() is None


# -- pipes ---------------------------------------------------------------------------


@contextlib.contextmanager
def pipes(*command):
    """The port of the example, which ends by itself."""
    with python(EXAMPLES / "pipes.py", "0", sys.executable, *command) as child:
        yield int(child.stdout.readline().split()[-1])
        assert child.communicate(timeout=30) == ("", "")
        assert child.returncode == 0


def test_what_is_sent_to_a_command_comes_back_to_everybody_and_its_end_is_the_servers():
    program = "for line in iter(input, 'end'): print(line.upper(), flush=True)"
    with pipes("-c", program) as port, client(port) as one, client(port) as two:
        two.send(b"two is here")
        assert said(two, b"TWO IS HERE")
        one.send(b"hello")
        while (line := one.recv()) != b"HELLO":
            assert line == b"TWO IS HERE"
        assert said(two, b"HELLO")
        two.send(b"end")
        assert said(two, None)
        assert said(one, None)


def test_a_peer_that_ends_its_stream_gets_what_the_command_says_then():
    program = "import sys; lines = sys.stdin.read(); print('all of', lines, end='')"
    with pipes("-c", program) as port, client(port) as one, client(port) as two:
        two.send(b"two")
        one.send(b"one")
        one.send_eof()
        two.send_eof()
        for peer in one, two:
            got = sorted(peer)
            assert got in ([b"all of one", b"two"], [b"all of two", b"one"])


def test_a_listener_that_goes_leaves_the_command_to_the_others(tmp_path):
    program = "for line in iter(input, 'end'): print(line.upper(), flush=True)"
    with pipes("-c", program) as port, client(port) as one:
        with client(port) as two:
            two.send(b"two is here")
            assert said(two, b"TWO IS HERE")
        one.send(b"hello")
        while (line := one.recv()) != b"HELLO":
            assert line == b"TWO IS HERE"
        one.send(b"end")
        assert said(one, None)


LATE_READER = """
import pathlib, sys, time
print(input(), flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print(sum(1 for line in iter(input, "end")), flush=True)
"""


def test_connections_wait_while_the_command_does_not_read_and_then_go_on(tmp_path):
    count = 5000  # 500 KB, more than the pipe keeps, and the mux queues
    go = tmp_path / "go"
    with pipes("-c", LATE_READER, go) as port, client(port) as one:
        one.send(b"started")
        assert said(one, b"started")
        for _ in range(count):
            one.send(b"x" * 99)
        one.send(b"end")
        go.touch()
        assert said(one, b"%d" % count, None)
