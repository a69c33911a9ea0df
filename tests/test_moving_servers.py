"""Connections that move from a server to its heir in another process, under load."""

import contextlib
import socket
import sys
import threading

import pytest

import pymux

from . import heirs, inside
from .util import recv_all, recv_exactly, reset, wait_until

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="descriptors do not move between processes there"
)
PATIENCE = 30


@contextlib.contextmanager
def giving(form="function", framing="lines", count=20):
    """(a server, `count` sockets whose connections it has)."""
    server = heirs.server(form, framing)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop, 0)
        socks = [
            stack.enter_context(socket.create_connection(server.address, timeout=60))
            for _ in range(count)
        ]
        wait_until(lambda: server.stats().connections == count)
        yield server, socks


def give(server, heir, **options):
    """A giver that is done."""
    giver = inside.Giver(server, heir.sock, **options)
    assert giver.wait(60)
    return giver


def ask(sock, text=b"hello"):
    sock.sendall(text + b"\n")
    assert recv_exactly(sock, len(text) + 1) == text.upper() + b"\n"


class Asking:
    """Asks on each socket in turn until the block ends, and checks each answer."""

    def __init__(self, socks, answer=lambda k, n: b"ASK %d %d\n" % (k, n)):
        self._socks = socks
        self._answer = answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0
        self.wrong = []

    def _run(self):
        n = 0
        try:
            while not self._stop.is_set():
                n += 1
                for k, sock in enumerate(self._socks):
                    sock.sendall(b"ask %d %d\n" % (k, n))
                for k, sock in enumerate(self._socks):
                    wanted = self._answer(k, n)
                    got = recv_exactly(sock, len(wanted))
                    self.count += 1
                    if got != wanted:
                        self.wrong.append((got, wanted))
        except (OSError, AssertionError) as error:
            self.wrong.append(error)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.count or self.wrong)
        return self

    def __exit__(self, *exc):
        before = self.count
        wait_until(lambda: self.wrong or self.count > before + 2 * len(self._socks))
        self._stop.set()
        self._thread.join()
        assert self.wrong == []


@pytest.mark.parametrize("form", ["function", "batch"])
def test_every_answer_comes_while_connections_move(form):
    with giving(form, count=50) as (server, socks), heirs.heir(form) as heir:
        with Asking(socks):
            giver = give(server, heir)
        assert (giver.moved, giver.remain, giver.error) == (50, 0, None)
        assert heir.says() == "50 0 True"
        assert server.stats().moved_out == 50
        assert server.stats().closed == server.stats().discarded == 0


def test_the_state_of_objects_moves_along():
    def number(k, n):
        return b"%d\n" % n

    with giving("object", count=10) as (server, socks), heirs.heir("object") as heir:
        with Asking(socks, number):
            giver = give(server, heir)
        assert giver.moved == 10


def test_more_than_a_batch_moves_in_several():
    count = 450
    with giving(count=count) as (server, socks), heirs.heir() as heir:
        giver = give(server, heir)
        assert giver.moved == count
        for sock in socks:
            ask(sock)


def test_frames_partly_received_and_queued_output_move_whole():
    size, most = 16 << 20, 30 << 20
    with (
        giving(framing="prefix", count=4) as (server, socks),
        heirs.heir(framing="prefix") as heir,
    ):
        large = b"x" * size
        frame = size.to_bytes(4, "big") + large
        slow, *others = socks
        slow.sendall(most.to_bytes(4, "big") + b"y" * most)  # its answer is not read
        for sock in others:
            sock.sendall(frame[: size // 2])
        arrived = 4 + most + 3 * (size // 2)
        wait_until(lambda: server.stats().bytes_in == arrived, PATIENCE)
        wait_until(lambda: server.stats().queued > most // 2, PATIENCE)
        giver = give(server, heir)
        assert (giver.moved, giver.remain) == (4, 0)
        for sock in others:
            sock.sendall(frame[size // 2 :])
            assert recv_exactly(sock, len(frame))[4:] == large.upper()
        assert recv_exactly(slow, 4 + most)[4:] == b"Y" * most


def test_paused_and_half_read_connections_move():
    with giving(count=3) as (server, socks), heirs.heir() as heir:
        paused = []

        def pause(mux, sock):
            name = sock.getsockname()
            (conn,) = [one for one in inside.connections(mux) if one.peer == name]
            conn.pause()
            paused.append(name)

        server.call_threadsafe(pause, socks[0])
        wait_until(lambda: paused)
        socks[0].sendall(b"never answered\n")
        socks[1].sendall(b"part of a li")
        wait_until(lambda: server.stats().bytes_in == 12)
        assert give(server, heir).moved == 3
        socks[1].sendall(b"ne\n")
        assert recv_exactly(socks[1], 15) == b"PART OF A LINE\n"
        ask(socks[2])
        socks[0].settimeout(0.2)
        with pytest.raises(TimeoutError):
            socks[0].recv(1)


def test_peers_that_go_on_the_way_harm_nobody():
    with giving(count=30) as (server, socks), heirs.heir() as heir:
        heir.stop()
        giver = inside.Giver(server, heir.sock)
        for sock in socks[:5]:
            sock.close()
        for sock in socks[5:10]:
            reset(sock)
        heir.go_on()
        assert giver.wait(60)
        for sock in socks[10:]:
            ask(sock)


# --- what goes wrong ----------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_an_heir_without_descriptors_sends_back_what_it_cannot_take(logged):
    with giving(count=50) as (server, socks), heirs.heir(descriptors=15) as heir:
        with Asking(socks):
            giver = give(server, heir)
        assert 0 < giver.moved < 50
        assert giver.refused == giver.remain == 50 - giver.moved
        assert heir.says() == f"{giver.moved} {giver.refused} True"
        assert server.stats().closed == 0
    assert [record.event for record in logged if record.event != "moved"] == []


class Greets:
    def opened(self, conn):
        conn.send(b"welcome\n")

    def received(self, conn, data):
        return data.upper()


def two_endpoints(second):
    """A server whose second address has another handler."""
    ends = [
        pymux.Endpoint(("127.0.0.1", 0), handler=one, framing=pymux.Lines())
        for one in (heirs.upper, second)
    ]
    return pymux.Server(None, ends)


def test_an_endpoint_whose_connections_are_refused_holds_up_no_other(logged):
    ours, theirs = socket.socketpair()
    with (
        two_endpoints(heirs.upper) as old,
        two_endpoints(Greets()) as new,
        contextlib.ExitStack() as stack,
    ):
        taker = inside.Taker(new, theirs)
        socks = []
        for address, count in zip(old.addresses, (3, 210)):  # the last ones go first
            for _ in range(count):
                sock = socket.create_connection(address, timeout=60)
                socks.append(stack.enter_context(sock))
            wait_until(lambda: old.stats().connections == len(socks))
        giver = inside.Giver(old, ours)
        assert giver.wait(60) and taker.wait(60)
        assert (giver.moved, giver.remain, giver.error) == (3, 210, None)
        assert giver.refused == 200  # a batch, and then no other one
        for sock in socks:
            ask(sock)


def test_all_of_a_dead_heir_s_batch_goes_on_here(logged):
    with giving(count=50) as (server, socks), heirs.heir() as heir:
        asking = Asking(socks)
        heir.stop()
        giver = inside.Giver(server, heir.sock)
        wait_until(lambda: server.stats().moved_out or giver.done, PATIENCE)
        heir.kill()
        assert giver.wait(60)
        with asking:
            pass
        assert (giver.moved, giver.remain) == (0, 50)
        assert giver.error is not None
        assert server.stats().closed == 0
    assert {record.event for record in logged} <= {"moved"}


def test_what_a_dead_heir_has_not_taken_another_one_takes(logged):
    with (
        giving(count=50) as (server, socks),
        heirs.heir() as dead,
        heirs.heir() as heir,
    ):
        server.retire()  # their listener closes while they are on the way
        dead.stop()
        giver = inside.Giver(server, dead.sock)
        wait_until(lambda: server.stats().moved_out or giver.done, PATIENCE)
        dead.kill()
        assert giver.wait(60)
        assert (giver.moved, giver.remain) == (0, 50)
        giver = give(server, heir)
        assert (giver.moved, giver.remain, giver.error) == (50, 0, None)
        for sock in socks:
            ask(sock)


@pytest.mark.filterwarnings("error")
def test_a_stop_waits_for_connections_that_may_come_back(logged):
    with giving(count=5) as (server, socks), heirs.heir() as heir:
        heir.stop()
        giver = inside.Giver(server, heir.sock)
        wait_until(lambda: server.stats().moved_out, PATIENCE)
        for sock in socks:
            sock.sendall(b"last\n")
        stops = threading.Thread(target=server.stop, args=(60,))
        stops.start()
        stops.join(0.5)  # by then a stop that does not wait has ended
        heir.kill()
        stops.join()
        assert (giver.moved, giver.remain) == (0, 5)
        for sock in socks:
            assert recv_exactly(sock, 5) == b"LAST\n"


@pytest.mark.filterwarnings("error")
def test_a_stop_without_time_leaves_a_batch_to_the_heir(logged):
    with giving(count=5) as (server, socks), heirs.heir() as heir:
        heir.stop()
        giver = inside.Giver(server, heir.sock)
        wait_until(lambda: server.stats().moved_out, PATIENCE)
        server.stop(0.2)
        assert giver.done and "not acknowledged" in giver.error
        heir.go_on()
        for sock in socks:
            ask(sock)


@pytest.mark.filterwarnings("error")
def test_a_stop_before_the_heir_has_said_hello_ends_the_gift():
    with giving(count=5) as (server, socks):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            giver = inside.Giver(server, ours)
            socks[0].sendall(b"last\n")
            server.stop(5)
            assert giver.done
            assert (giver.moved, giver.error) == (0, None)
            assert recv_exactly(socks[0], 5) == b"LAST\n"
            assert recv_all(theirs)[:1] == b"E"  # there is no more, and the end


@pytest.mark.filterwarnings("error")
def test_a_server_that_ends_closes_the_channels_of_those_that_say_nothing():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, giving(count=0) as (server, _):
        taker = inside.Taker(server, ours)
        server.stop(5)
        assert taker.done and not taker.complete
        assert recv_all(theirs)[:1] == b"H"


def test_what_a_dying_heir_has_not_taken_goes_on_here(logged):
    count = 600
    with giving(count=count) as (server, socks), heirs.heir() as heir:
        giver = inside.Giver(server, heir.sock)
        wait_until(lambda: giver.moved or giver.done, PATIENCE)
        heir.kill()
        assert giver.wait(60)
        assert giver.moved + giver.remain == count
        answered = 0
        for sock in socks:
            with contextlib.suppress(OSError, EOFError, AssertionError):
                ask(sock)
                answered += 1
        assert answered == giver.remain
    assert {record.event for record in logged} <= {"moved"}


def test_a_channel_that_is_full_holds_nothing_up(logged):
    size = 8 << 20
    with (
        giving(framing="prefix", count=3) as (server, socks),
        heirs.heir(framing="prefix") as heir,
    ):
        frame = size.to_bytes(4, "big") + b"x" * size
        for sock in socks[:2]:
            sock.sendall(frame[:-1])
        wait_until(lambda: server.stats().bytes_in == 2 * len(frame) - 2, PATIENCE)
        heir.stop()
        giver = inside.Giver(server, heir.sock)
        wait_until(lambda: server.stats().moved_out, PATIENCE)
        assert not giver.wait(0.2)  # a batch of 16 MiB waits for the heir
        with socket.create_connection(server.address, timeout=60) as late:
            late.sendall(b"\0\0\0\2hi")
            assert recv_exactly(late, 6) == b"\0\0\0\2HI"
        heir.go_on()
        assert giver.wait(60)
        assert giver.moved == 3
        for sock in socks[:2]:
            sock.sendall(frame[-1:])
            assert recv_exactly(sock, len(frame))[4:] == b"X" * size


def test_a_channel_of_another_kind_is_refused(logged):
    ours, theirs = socket.socketpair()
    with ours, theirs, giving(count=0) as (server, _):
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with datagrams, pytest.raises(ValueError, match="SOCK_STREAM"):
            inside.Giver(server, datagrams)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            pytest.raises(ValueError, match="Unix stream socket"),
        ):
            inside.Taker(server, tcp)
        giver = inside.Giver(server, ours)
        theirs.sendall(b"not a word of the protocol")
        assert giver.wait(20)
        assert "unknown frame" in giver.error
        assert [record.event for record in logged] == ["moved"]


def test_an_heir_of_another_version_gets_nothing(logged):
    ours, theirs = socket.socketpair()
    with ours, theirs, giving(count=1) as (server, (sock,)):
        giver = inside.Giver(server, ours)
        theirs.sendall(inside.hello(9, 7))
        assert giver.wait(20)
        assert "versions 7 to 9" in giver.error and giver.remain == 1
        ask(sock)
    assert [record.event for record in logged] == ["moved"]


def test_connections_of_coroutines_remain():
    async def handler(conn):
        async for data in conn:
            conn.send(data.upper())

    server = pymux.Server(handler, ("127.0.0.1", 0), framing=pymux.Lines())
    with (
        server,
        heirs.heir() as heir,
        socket.create_connection(server.address, timeout=20) as sock,
    ):
        ask(sock)
        giver = give(server, heir)
        assert (giver.moved, giver.remain, giver.error) == (0, 1, None)
        ask(sock)
