"""What an operator reads of a server: its start and end, slow handlers, and where."""

import asyncio
import functools
import logging
import re
import threading

import pytest

import pymux

from . import inside, util
from .hosts import needs_ipv6
from .logs import at_debug

HERE = ("127.0.0.1", 0)
ME = __name__
ATTRIBUTES = {"event", "peer", "local", "handler"}


def echo(conn, data):
    return data


def of(records, event):
    return [one for one in records if one.event == event]


def text_of(records, event):
    (record,) = of(records, event)
    return record.getMessage()


# --- listening and stopping -----------------------------------------------------


def test_a_server_says_at_info_where_it_listens_and_how_it_has_ended(backend):
    with at_debug() as records, util.serving(echo, backend) as server:
        port = server.address[1]
        assert util.everything(server.address, b"abc") == b"abc"
    events = [one.event for one in records if one.levelno == logging.INFO]
    assert events == ["listening", "stopping", "stopped"]
    assert text_of(records, "listening") == (
        f"listening on 127.0.0.1:{port} ({backend}) for the handler {ME}.echo"
    )
    said = re.search(r"have ([\d.]+) s to finish", text_of(records, "stopping"))
    assert float(said[1]) <= 5
    assert text_of(records, "stopped") == (
        f"the server at 127.0.0.1:{port} has stopped: 1 connections, 1 messages in, "
        "1 out, 3 bytes in, 3 out, 0 reset, 0 bytes discarded"
    )
    for record in records:
        assert (record.local, record.handler) == (server.address, f"{ME}.echo")


def test_a_server_that_retires_says_what_becomes_of_its_connections(backend):
    with at_debug() as records:
        with util.serving(echo, backend) as server:
            util.in_server(server, lambda mux: server.retire())
            util.wait_until(lambda: of(records, "retiring"))
            server.retire()
            port = server.address[1]
        with util.serving(echo, backend) as lingering:
            lingering.stop(linger=60)
    first, second = of(records, "retiring")
    assert first.getMessage() == (
        f"the server at 127.0.0.1:{port} accepts nobody more: "
        "0 connections are served on"
    )
    assert re.search("0 connections end one by one within 60 s", second.getMessage())
    assert (second.local, second.handler) == (lingering.address, f"{ME}.echo")


def test_each_address_of_a_server_is_a_line_with_its_handler(backend, tmp_path):
    def other(conn, data):
        return data

    path = str(tmp_path / "s")
    places = [HERE, pymux.Endpoint(path, handler=other)]
    with at_debug() as records, util.serving(echo, backend, places) as server:
        pass
    lines = of(records, "listening")
    assert [one.local for one in lines] == server.addresses
    names = [f"{ME}.echo", f"{ME}.{other.__qualname__}"]
    assert [one.handler for one in lines] == names
    (end,) = of(records, "stopped")
    assert (end.local, end.handler) == (server.addresses, names)


@needs_ipv6
def test_each_address_of_localhost_is_a_line(backend):
    with at_debug() as records, util.serving(echo, backend, ("localhost", 0)) as server:
        port = server.address[1]
    lines = of(records, "listening")
    assert [one.local for one in lines] == [("127.0.0.1", port), ("::1", port)]
    assert {one.handler for one in lines} == {f"{ME}.echo"}


def test_a_second_stop_is_no_second_line(backend):
    with (
        at_debug() as records,
        util.serving(echo, backend) as server,
        util.connect(server.address),
    ):
        util.wait_until(lambda: server.stats().connections)
        threads = [
            threading.Thread(target=server.stop, args=(seconds,)) for seconds in (30, 0)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(of(records, "stopping")) == len(of(records, "stopped")) == 1


def test_a_server_that_cannot_listen_says_nothing(backend):
    with at_debug() as records, util.serving(echo, backend) as server:
        before = list(records)
        with pytest.raises(OSError, match="in use"):
            pymux.Server(echo, server.address, backend=backend).start()
        assert records == before


def test_what_has_ended_a_server_stands_in_its_last_line(backend, logged):
    def handler(conn, data):
        raise SystemExit("enough")

    with at_debug() as records:
        server = pymux.Server(handler, HERE, backend=backend).start()
        with util.connect(server.address) as sock:
            sock.sendall(b"x")
            util.until_end(sock)
        with pytest.raises(SystemExit):
            server.wait()
    assert "SystemExit('enough')" in text_of(records, "stopped")
    (died,) = of(records, "died")
    assert died.levelno == logging.CRITICAL
    assert died.local == server.address
    assert logged == [died]


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_server_in_a_loop_says_the_same():
    async def main():
        async with pymux.aio.serve(echo, HERE) as server:
            return server.address

    with at_debug() as records:
        address = asyncio.run(main())
    events = [one.event for one in records]
    assert events == ["listening", "stopping", "stopped"]
    assert all(one.local == address for one in records)


# --- attributes ------------------------------------------------------------------


def test_every_record_has_the_attributes(backend, logged):
    """One formatter does for all of them."""

    def handler(conn, data):
        if data == b"raise":
            raise util.Boom("x")
        conn.mux.connect(("127.0.0.1", port), handler=echo)
        return data

    port = util.free_port()
    with (
        at_debug() as records,
        util.serving(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"connect")
        assert util.recv_exactly(sock, 7) == b"connect"
        util.wait_until(lambda: of(records, "connect"))
        sock.sendall(b"raise")
        util.until_end(sock)
        peer = sock.getsockname()
    (raised,) = of(records, "raised")
    name = f"{ME}.{handler.__qualname__}"
    assert (raised.peer, raised.local) == (peer, server.address)
    assert raised.handler == name
    (connect,) = of(records, "connect")
    assert (connect.peer, connect.handler) == (("127.0.0.1", port), f"{ME}.echo")
    formatter = logging.Formatter("%(event)s %(peer)s %(local)s %(handler)s")
    for record in records:
        assert vars(record).keys() >= ATTRIBUTES
        assert formatter.format(record)
    assert {"listening", "stopping", "stopped", "closed"} <= {
        one.event for one in records
    }


class Chat:
    def received(self, conn, data):
        raise util.Boom("of the chat")


class Callable:
    def __call__(self, conn, data):
        raise util.Boom("of the callable")


@pytest.mark.parametrize(
    "handler, name",
    [
        (Chat(), f"{ME}.Chat"),
        (Callable(), f"{ME}.Callable"),
        (functools.partial(Chat.received, None), f"{ME}.Chat.received"),
        (Chat().received, f"{ME}.Chat.received"),
    ],
    ids=["object", "callable", "partial", "method"],
)
def test_a_handler_has_the_name_that_its_module_gives_it(logged, handler, name):
    with util.serving(handler) as server:
        util.everything(server.address, b"x")
    (record,) = logged
    assert record.handler == name
    assert f"the handler {name} of " in record.getMessage()


# --- slow handlers ----------------------------------------------------------------


@pytest.mark.parametrize("form", util.FORMS)
def test_a_slow_handler_is_a_warning(backend, clock, form, logged):
    def answer(data):
        if data == b"slow":
            clock.ahead += 3
            inside.shift_clock(clock.ahead)
        return data

    handler = util.in_form(form, answer)
    with util.serving(handler, backend, slow_handler=2.5) as server:
        assert util.everything(server.address, b"quick") == b"quick"
        util.settle(server)
        assert logged == []
        with util.connect(server.address) as sock:
            peer = sock.getsockname()
            sock.sendall(b"slow")
            assert util.recv_exactly(sock, 4) == b"slow"
            util.settle(server)
    (record,) = of(logged, "slow")
    assert record.levelno == logging.WARNING
    assert (record.peer, record.local) == (peer, server.address)
    assert record.handler.startswith(ME.rpartition(".")[0])
    for part in (record.handler, "1 messages", "slow_handler is 2.5 s"):
        assert part in record.getMessage()


def test_what_opens_and_closes_connections_may_be_slow_too(backend, clock, logged):
    class Slow:
        def opened(self, conn):
            clock.ahead += 3
            inside.shift_clock(clock.ahead)

    with util.serving(Slow(), backend, slow_handler=2.5) as server:
        util.everything(server.address, b"")
    (record,) = logged
    assert "a batch of 0 messages" in record.getMessage()


def test_a_slow_batch_with_a_new_connection_is_one_warning(
    backend, tmp_path, clock, logged
):
    def handler(conn, data):
        clock.ahead += 3
        inside.shift_clock(clock.ahead)

    with (
        util.serving(handler, backend, tmp_path / "s", slow_handler=2.5) as server,
        util.connect(server.address) as sock,
    ):
        util.wait_until(lambda: server.stats().accepted)
        with util.held(server):
            other = util.connect(server.address)
            sock.sendall(b"x")
        with other:
            util.wait_until(lambda: logged)
            util.settle(server)
    assert [one.event for one in logged] == ["slow"]


def test_a_slow_call_is_a_warning_too(backend, clock, logged):
    def slow(mux):
        clock.ahead += 3
        inside.shift_clock(clock.ahead)

    def timer(mux):
        mux.call_later(0, slow, mux)

    for call in (slow, timer):
        with util.serving(echo, backend, slow_handler=2.5) as server:
            util.in_server(server, call)
            util.settle(server)
    for record, what in zip(logged, ("a call by call_threadsafe ", "a timer ")):
        assert record.getMessage().startswith(what)
        for part in ("3.0", "slow_handler is 2.5 s"):
            assert part in record.getMessage()
    assert len(logged) == 2


def test_a_coroutine_that_is_slow_when_it_goes_on_is_a_warning(backend, clock, logged):
    async def handler(conn):
        await pymux.sleep(0)
        clock.ahead += 3
        inside.shift_clock(clock.ahead)

    with util.serving(handler, backend, slow_handler=2.5) as server:
        assert util.everything(server.address, b"") == b""
    (record,) = logged
    assert record.event == "slow"


def test_a_slow_handler_that_raises_is_both(backend, clock, logged):
    def handler(conn, data):
        clock.ahead += 3
        inside.shift_clock(clock.ahead)
        raise util.Boom("late")

    with util.serving(handler, backend, slow_handler=2.5) as server:
        util.everything(server.address, b"x")
    assert {one.event for one in logged} == {"slow", "raised"}


def test_nothing_is_measured_where_nobody_asks(backend, monkeypatch):
    with util.serving(echo, backend) as server:
        kind = type(inside.engine_of(server).services[0].dispatcher)
        assert kind.__name__ == "FunctionDispatcher"


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_slow_handler_in_a_loop_is_a_warning_too(clock, logged):
    def handler(conn, data):
        clock.ahead += 3
        inside.shift_clock(clock.ahead)
        return data

    async def main():
        async with pymux.aio.serve(handler, HERE, slow_handler=2.5) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()

    asyncio.run(main())
    (record,) = logged
    assert record.event == "slow"


@pytest.mark.parametrize("wrong, error", [(-1, ValueError), ("1", TypeError)])
def test_slow_handler_is_seconds(wrong, error):
    with pytest.raises(error, match="slow_handler"):
        pymux.Server(echo, HERE, slow_handler=wrong)
