"""What an operator sees: ends by an error, and pauses of accepting."""

import asyncio
import contextlib
import copy
import dataclasses
import errno
import logging
import pickle
import re
import socket
import time

import pytest

import pymux

from . import inside, util
from .logs import at_debug
from .loops import until
from .processes import no_descriptor_left

HERE = ("127.0.0.1", 0)
guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
SHORT = pymux.Lines(max_size=10)


def echo(conn, data):
    return data


def too_long(sock):
    sock.sendall(b"x" * 100)


def cut_off(sock):
    sock.sendall(b"abc")
    sock.shutdown(socket.SHUT_WR)


def ends_in(records):
    return [one for one in records if one.event == "closed"]


def says_nothing(sock):
    pass


def resets(sock):
    util.reset(sock)


def wants_much(sock):
    sock.sendall(b"much")


ENDS = {
    too_long: (errno.EMSGSIZE, {"framing": SHORT}, "max_size"),
    cut_off: (errno.EPROTO, {"framing": pymux.Fixed(4)}, "inside a message"),
    says_nothing: (
        errno.ETIMEDOUT,
        {"limits": pymux.Limits(idle_timeout=60)},
        "timeout",
    ),
    resets: (errno.ECONNRESET, {}, ""),
}


@pytest.mark.parametrize("form", util.FORMS)
@pytest.mark.parametrize("end", ENDS)
def test_an_end_by_an_error_is_a_line_at_debug_and_counted(backend, clock, form, end):
    number, options, why = ENDS[end]
    handler = util.in_form(form, bytes)
    with (
        at_debug() as records,
        util.serving(handler, backend, **options) as server,
        util.connect(server.address) as sock,
    ):
        peer = "{}:{}".format(*sock.getsockname())
        util.wait_until(lambda: server.stats().connections)
        end(sock)
        if end is says_nothing:
            clock.advance(61, server)
        util.wait_until(lambda: server.stats().ends)
        assert server.stats().ends == {number: 1}
    assert server.stats().ends == {number: 1}
    (record,) = ends_in(records)
    assert record.levelno == logging.DEBUG
    for part in (peer, f"Errno {number}", why):
        assert part in record.getMessage()


def test_output_over_its_limit_is_a_line_too(mux):
    limits = pymux.Limits(max_output=1000)
    conn, peer = util.pair(mux, limits=limits)
    with peer, at_debug() as records:
        for _ in range(200):
            conn.send(bytes(1 << 16))
        util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    (record,) = ends_in(records)
    assert "max_output" in record.getMessage()
    assert mux.stats().ends == {errno.ENOBUFS: 1}


def test_what_a_handler_raised_stands_in_the_line_of_its_end(backend, logged):
    def handler(conn, data):
        raise LookupError("of the handler")

    with at_debug() as records, util.serving(handler, backend) as server:
        assert util.everything(server.address, b"x") == b""
        util.wait_until(lambda: server.stats().ends)
        assert server.stats().ends == {errno.ECONNABORTED: 1}
    (record,) = ends_in(records)
    assert "LookupError('of the handler')" in record.getMessage()
    assert len(logged) == 1


def peer_ends(server):
    assert util.everything(server.address, b"x") == b"x"


def server_closes(server):
    with util.connect(server.address) as sock:
        sock.sendall(b"close")
        assert util.recv_all(sock) == b""


def server_stops(server):
    with util.connect(server.address) as sock:
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"
        server.stop()


@pytest.mark.parametrize(
    "end, why",
    [
        (peer_ends, "its peer ended it"),
        (server_closes, "this side closed"),
        (server_stops, "the server stops"),
    ],
)
def test_an_ordinary_end_is_a_line_that_says_who_ended_the_stream(backend, end, why):
    def handler(conn, data):
        if data == b"close":
            conn.close()
            return None
        return data

    with at_debug() as records, util.serving(handler, backend) as server:
        end(server)
        util.wait_until(lambda: ends_in(records))
    (record,) = ends_in(records)
    assert record.levelno == logging.DEBUG
    assert record.getMessage().endswith(why) or why in record.getMessage()
    assert server.stats().ends == {}


def test_nothing_is_made_for_a_level_that_is_off(mux, monkeypatch):
    conn, peer = util.pair(mux)
    monkeypatch.setattr(pymux.Connection, "__repr__", lambda self: 1 / 0)
    util.reset(peer)
    util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert mux.stats().ends == {errno.ECONNRESET: 1}


def test_a_copy_of_the_counts_is_the_callers(mux):
    mux.stats().ends[1] = 2
    assert mux.stats().ends == {}


def test_counts_by_errno_go_where_the_figures_go_but_are_no_figure(mux):
    conn, peer = util.pair(mux)
    util.reset(peer)
    util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    stats = mux.stats()
    for again in (copy.copy(stats), pickle.loads(pickle.dumps(stats))):
        assert again.ends == {errno.ECONNRESET: 1}
        assert again == stats
    assert all(type(one) is int for one in dataclasses.astuple(stats)[1:])


def test_an_outgoing_connection_that_is_refused_is_a_line(mux):
    port = util.free_port()
    with at_debug() as records:
        conn = mux.connect(("127.0.0.1", port))
        util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    (record,) = ends_in(records)
    assert f"127.0.0.1:{port}" in record.getMessage()
    assert mux.stats().ends == {errno.ECONNREFUSED: 1}


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_ends_in_a_loop_are_lines_too():
    async def main():
        async with pymux.aio.serve(echo, HERE, framing=SHORT) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"x" * 100)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            while not server.stats().ends:
                await asyncio.sleep(0.001)
            return server.stats().ends

    with at_debug() as records:
        assert asyncio.run(main()) == {errno.EMSGSIZE: 1}
    (record,) = ends_in(records)
    assert "max_size" in record.getMessage()


@guests
def test_the_end_of_a_dialled_connection_is_a_line_and_no_other_ends(loop):
    """A task holds its connection, or has let go of it; the mux has a seat for both."""
    seen = []

    async def main():
        async with pymux.aio.serve(lambda c, d: b"x" * 9 + d, HERE) as server:
            other = await pymux.aio.connect(server.address, framing=SHORT)
            long = await pymux.aio.connect(server.address, framing=SHORT)
            seen.append((long.peer, long.local))
            long.send(b"x" * 9)
            with pytest.raises(pymux.ConnectionClosed) as caught:
                await long.recv(10)
            assert caught.value.errno == errno.EMSGSIZE
            async with await pymux.aio.connect(server.address, framing=SHORT) as gone:
                seen.append((gone.peer, gone.local))
            del gone
            await until(lambda: len(ends_in(records)) >= 4)  # of both sides
            other.send(b"")
            assert await other.recv(10) == b"x" * 9
            other.close()

    with at_debug() as records:
        loop.run(main())
    told = {(one.peer, one.local): one.getMessage() for one in ends_in(records)}
    assert "max_size" in told[seen[0]]
    assert told[seen[1]].endswith("ended: this side closed")
    (warning,) = limits_in(records)
    assert (warning.peer, warning.local) == seen[0]


# --- limits ---------------------------------------------------------------------


def limits_in(records):
    return [one for one in records if one.event == "limit"]


def test_a_message_over_its_limit_is_a_warning_for_those_with_a_handler(backend):
    with at_debug() as records, util.serving(echo, backend, framing=SHORT) as server:
        with util.connect(server.address) as sock:
            peer = sock.getsockname()
            too_long(sock)
            util.until_end(sock)
        util.wait_until(lambda: limits_in(records))
    (record,) = limits_in(records)
    assert record.levelno == logging.WARNING
    assert "max_size" in record.getMessage()
    assert (record.peer, record.local) == (peer, server.address)


def test_who_harvests_is_not_warned_of_what_the_batch_says(mux):
    conn, peer = util.pair(mux, limits=pymux.Limits(max_output=1000))
    with peer, at_debug() as records:
        for _ in range(200):
            conn.send(bytes(1 << 16))
        util.harvest_until(mux, lambda acc: acc.is_closed(conn))
    assert limits_in(records) == []


def test_a_full_listener_is_a_warning_that_names_it(backend):
    limits = pymux.Limits(max_connections=1)
    with (
        at_debug() as records,
        util.serving(echo, backend, limits=limits) as server,
        util.connect(server.address),
        util.connect(server.address),
    ):
        util.wait_until(lambda: limits_in(records))
        assert server.stats().accept_pauses
    record = limits_in(records)[0]
    assert record.levelno == logging.WARNING
    assert "max_connections, 1," in record.getMessage()
    assert record.local == server.address
    assert record.handler.endswith("echo")


def test_a_full_listener_beside_others_is_named_while_nothing_else_happens(mux):
    full = mux.listen(HERE, limits=pymux.Limits(max_connections=1))
    mux.listen(HERE, limits=pymux.Limits(max_connections=7))
    with at_debug() as records, util.connect(full.address):
        util.harvest_until(mux, lambda acc: acc.opened)
        with util.connect(full.address):
            util.harvest_until(mux, lambda acc: limits_in(records))
    (record,) = limits_in(records)
    assert (record.local, record.handler) == (full.address, None)


def test_a_peer_with_too_many_connections_is_a_warning_that_names_it(backend):
    limits = pymux.Limits(max_per_peer=1)
    with (
        at_debug() as records,
        util.serving(echo, backend, limits=limits) as server,
        util.connect(server.address) as one,
        util.connect(server.address) as two,
    ):
        assert util.until_end(two)[0] == b""
        util.wait_until(lambda: limits_in(records))
        (record,) = limits_in(records)
        assert record.levelno == logging.WARNING
        assert "max_per_peer, 1," in record.getMessage()
        assert "(127.0.0.1; refused so far: 1)" in record.getMessage()
        assert record.peer == two.getsockname()
        assert record.local == server.address
        assert record.handler.endswith("echo")
        for _ in range(3):
            assert util.everything(server.address, b"") == b""
        assert limits_in(records) == [record]
        one.sendall(b"x")
        assert util.recv_exactly(one, 1) == b"x"
    assert "3 times more" in limits_in(records)[1].getMessage()


def test_a_refused_peer_is_told_of_while_others_are_served(mux):
    at = mux.listen(HERE, limits=pymux.Limits(max_per_peer=1)).address
    with at_debug() as records, util.connect(at) as one:
        util.harvest_until(mux, lambda acc: acc.opened)
        with util.connect(at) as two:
            one.sendall(b"x")  # the turn that refuses has a row
            util.harvest_until(mux, lambda acc: limits_in(records))
            assert util.until_end(two)[0] == b""


@guests
def test_a_loop_is_told_of_limits_of_listeners_too(loop):
    limits = pymux.Limits(max_per_peer=1)

    async def main():
        async with pymux.aio.serve(echo, HERE, limits=limits) as server:
            with util.connect(server.address), util.connect(server.address):
                await until(lambda: limits_in(records))

    with at_debug() as records:
        loop.run(main())


# --- pauses of accepting --------------------------------------------------------


def pauses(records):
    return [one for one in records if "accepting pauses" in one.getMessage()]


def connect_without_descriptors(address, condition):
    """A peer of a process that has no descriptor left, until condition() holds."""
    with socket.socket() as sock:
        sock.settimeout(10)
        with no_descriptor_left():
            sock.connect(address)
            util.wait_until(condition)
        sock.sendall(b"x")
        assert util.recv_exactly(sock, 1) == b"x"


def test_a_pause_of_accepting_is_a_warning_while_it_lasts(backend, logged):
    with util.serving(echo, backend) as server:
        connect_without_descriptors(server.address, lambda: pauses(logged))
    (record,) = pauses(logged)
    assert record.levelno == logging.WARNING
    assert re.search(r"Too many open files|No file desc", record.getMessage())
    assert server.stats().accept_pauses >= 1


def test_many_pauses_are_few_warnings(backend, logged):
    with util.serving(echo, backend) as server:
        for _ in range(3):
            before = server.stats().accept_pauses
            connect_without_descriptors(
                server.address,
                lambda before=before: server.stats().accept_pauses > before,
            )
        util.wait_until(lambda: pauses(logged))
        assert len(pauses(logged)) == 1
        inside.forget_the_last_warning(server)
        connect_without_descriptors(server.address, lambda: len(pauses(logged)) == 2)


def test_a_busy_server_warns_of_a_pause_too(backend, logged):
    """One whose every turn has messages to report, and nothing else."""
    with (
        util.serving(echo, backend) as server,
        util.connect(server.address) as busy,
    ):

        def served_and_warned():
            busy.sendall(b"x")
            util.recv_exactly(busy, 1)
            return pauses(logged)

        assert not served_and_warned()
        connect_without_descriptors(server.address, served_and_warned)


def test_a_pause_does_not_end_the_wait_for_more_messages(mux, logged):
    listener = mux.listen(HERE)
    mux.listen(HERE)
    with util.connect(listener.address) as one, util.connect(listener.address):
        util.harvest_until(mux, lambda acc: len(acc.opened) == 2)
        with socket.socket() as more:
            with no_descriptor_left():
                one.sendall(b"x")
                more.connect(listener.address)
                start = time.monotonic()
                batch = mux.harvest(30, min_messages=5, max_delay=0.4)
                assert time.monotonic() - start >= 0.4
            assert batch.messages == [b"x"]


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_pause_in_a_loop_is_a_warning_too(logged):
    async def main():
        async with pymux.aio.serve(echo, HERE) as server:
            with socket.socket() as sock, no_descriptor_left():
                sock.connect(server.address)
                while not pauses(logged):
                    await asyncio.sleep(0.001)

    asyncio.run(main())
