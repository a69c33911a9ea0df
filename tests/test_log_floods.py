"""Much that is the same is few lines in the log, and a number."""

import logging
import traceback

import pytest

import pymux

from . import inside, util
from .logs import at_debug

LINES = pymux.Lines()


def ruin(data):
    raise util.Boom(data)


def handler(conn, data):
    if data == b"other":
        raise util.Boom("of another line")
    return ruin(data)


def fail(server, data=b"x", times=1):
    """Let the handler raise for some connections."""
    for _ in range(times):
        assert util.everything(server.address, data) == b""


def messages(records):
    return [record.getMessage() for record in records]


def test_the_same_error_is_told_whole_once_and_then_counted(backend, clock, logged):
    with util.serving(handler, backend) as server:
        fail(server, times=4)
        assert len(logged) == 1
        clock.advance(11, server)
        util.wait_until(lambda: len(logged) == 2)
        whole, count = logged
        assert whole.exc_info[0] is util.Boom
        assert count.exc_info is None
        assert (count.levelno, count.event) == (logging.ERROR, "raised")
        assert count.handler == whole.handler == f"{__name__}.handler"
        assert "3 times more" in count.getMessage()
        for part in ("Boom", "handler (test_log_floods.py, line "):
            assert part in count.getMessage()
        fail(server)  # after a pause it is told whole again
    assert [bool(one.exc_info) for one in logged] == [True, False, True]


def test_errors_that_are_some_time_apart_are_all_told_whole(backend, clock, logged):
    with util.serving(handler, backend) as server:
        for _ in range(3):
            fail(server)
            clock.advance(2, server)
    assert [bool(one.exc_info) for one in logged] == [True, True, True]


def test_a_flood_that_goes_on_is_a_number_now_and_then(backend, clock, logged):
    """However long it lasts, its errors never being a second apart."""
    with util.serving(handler, backend) as server:
        for _ in range(50):
            fail(server)
            clock.advance(0.5, server)
    assert [bool(one.exc_info) for one in logged] == [True, False, False, False]
    assert "more in " in messages(logged)[-1]


def test_what_is_not_told_yet_is_told_when_the_server_ends(backend, logged):
    with util.serving(handler, backend) as server:
        fail(server, times=3)
        assert len(logged) == 1
    assert "2 times more" in messages(logged)[1]


def test_errors_after_a_mux_has_closed_are_counted_too(backend, logged):
    class Handler:
        def received(self, conn, data):
            conn.mux.close()

        def closed(self, conn, error):
            raise util.Boom("of the end")

    with util.serving(Handler(), backend) as server:
        socks = [util.connect(server.address) for _ in range(3)]
        util.wait_until(lambda: server.stats().accepted == 3)
        socks[0].sendall(b"x")
        server.wait()
        for sock in socks:
            sock.close()
    assert [bool(one.exc_info) for one in logged] == [True, False]
    assert "2 times more" in messages(logged)[1]


def test_another_error_is_another_line(backend, logged):
    with util.serving(handler, backend) as server:
        fail(server, b"x")
        fail(server, b"other")
    assert [str(one.exc_info[1]) for one in logged] == ["b'x'", "of another line"]


def test_each_connection_has_its_line_at_debug_all_the_same(backend, logged):
    with at_debug() as records, util.serving(handler, backend) as server:
        fail(server, times=3)
        util.wait_until(lambda: server.stats().closed == 3)
    ends = [one for one in records if one.event == "closed"]
    assert ["Boom" in text for text in messages(ends)] == [True] * 3


def test_on_error_gets_every_error(backend):
    told = []
    with util.serving(
        handler, backend, on_error=lambda conn, error: told.append(error)
    ) as server:
        fail(server, times=3)
    assert len(told) == 3


@pytest.mark.parametrize("form", util.FORMS)
def test_a_traceback_begins_in_the_users_code(backend, form, logged):
    with util.serving(util.in_form(form, ruin), backend) as server:
        fail(server)
    (record,) = logged
    frames = traceback.extract_tb(record.exc_info[2])
    assert frames[-1].name == "ruin"
    assert all("pymux/handlers" not in frame.filename for frame in frames)
    assert frames[0].filename.endswith("util.py")


def test_an_error_without_the_users_code_keeps_its_traceback(backend, logged):
    with util.serving(lambda conn, data: "text", backend) as server:
        fail(server)
    (record,) = logged
    assert record.exc_info[0] is TypeError
    assert record.exc_info[2] is not None
    assert "<lambda>" in record.handler


def test_connections_over_a_limit_are_one_warning_and_a_number(backend, clock, logged):
    framing = pymux.Lines(max_size=10)
    with util.serving(lambda conn, data: data, backend, framing=framing) as server:
        for count in range(1, 4):
            with util.connect(server.address) as sock:
                sock.sendall(b"x" * 100)
                util.until_end(sock)
            util.wait_until(lambda count=count: server.stats().closed == count)
        assert len(logged) == 1
        clock.advance(11, server)
        util.wait_until(lambda: len(logged) == 2)
    assert {one.event for one in logged} == {"limit"}
    assert "2 times more" in messages(logged)[1]
    assert logged[1].local == server.address


def test_refused_connections_are_one_warning_and_their_number(backend, clock, logged):
    limits = pymux.Limits(max_per_peer=1)
    with (
        util.serving(handler, backend, limits=limits) as server,
        util.connect(server.address),
    ):
        util.wait_until(lambda: server.stats().connections)
        for told in (1, 3):
            for _ in range(50):
                assert util.everything(server.address, b"") == b""
            assert len(logged) == told
            clock.advance(11, server)
            util.wait_until(lambda told=told: len(logged) == told + 1)
            assert "49 times more" in logged[-1].getMessage()
        assert server.stats().refused_per_peer == 100
    assert len(logged) == 4


def test_kinds_without_end_take_no_memory_without_end(backend, logged):
    """A handler may raise at ever new places, as code that is made anew does."""
    kinds = []

    def handler(conn, data):
        name = f"Error{data.decode()}"
        kinds.append(type(name, (Exception,), {}))
        raise kinds[-1]

    with util.serving(handler, backend) as server:
        for number in range(300):
            fail(server, b"%d" % number)
        assert inside.kinds_told(server) <= 256
        assert len(logged) == 300


def test_a_counted_error_is_told_when_its_mux_closes(mux, logged):
    listener = mux.listen(("127.0.0.1", 0), handler=handler)
    for count in (1, 2):
        with util.connect(listener.address) as sock:
            sock.sendall(b"x")
        util.harvest_until(mux, lambda acc, count=count: mux.stats().closed == count)
    assert mux.next_timeout() <= 10
    mux.close()
    assert "once more" in messages(logged)[1]
