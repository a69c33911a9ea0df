"""`dial`: a connection that a coroutine handler awaits and that ends with it."""

import asyncio
import errno
import socket
import threading

import pytest

import pymux

from . import inside, util
from .hosts import know

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


def upper(conn, data):
    return data.upper()


@pytest.fixture
def behind(backend):
    """A server that upper-cases lines."""
    with pymux.Server(upper, LOCAL, framing=LINES, backend=backend) as server:
        yield server


def proxy_to(address, **options):
    async def proxy(conn):
        upstream = await pymux.dial(address, framing=LINES, timeout=10, **options)
        async for line in conn:
            upstream.send(line)
            answer = await upstream.recv()
            if answer is None:
                break
            conn.send(answer)

    return proxy


def serve(handler, backend, **options):
    options.setdefault("framing", LINES)
    return pymux.Server(handler, LOCAL, backend=backend, **options)


def test_a_proxy_is_a_coroutine(behind, backend):
    with serve(proxy_to(behind.address), backend) as server:
        socks = [util.connect(server.address) for _ in range(10)]
        for k, sock in enumerate(socks):
            sock.sendall(b"a%d\nb\n" % k)
        for k, sock in enumerate(socks):
            assert util.recv_exactly(sock, 5) == b"A%d\nB\n" % k
            sock.close()
        util.wait_until(lambda: behind.stats().connections == 0)
    assert server.stats().connected == 10


def test_one_handler_runs_on_both_loops(behind):
    """It leaves the connection open, on asyncio too."""

    async def main():
        async with pymux.aio.serve(
            proxy_to(behind.address), LOCAL, framing=LINES
        ) as server:
            conn = await pymux.aio.connect(server.address, framing=LINES)
            conn.send(b"hello")
            assert await conn.recv(10) == b"HELLO"
            conn.close()

    if pymux.backends()[0] not in ("epoll", "kqueue"):
        pytest.skip("no backend that asyncio can watch")
    asyncio.run(main())
    util.wait_until(lambda: behind.stats().connections == 0)


def test_a_name_is_resolved_without_blocking_others(behind, backend, monkeypatch):
    host = know(monkeypatch, "a-name", "127.0.0.1")
    port = behind.address[1]
    with (
        serve(proxy_to((host, port)), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x\n")
        assert util.recv_exactly(sock, 2) == b"X\n"


@pytest.mark.parametrize("name", ["no.such.name.invalid", "a" * 300])
def test_a_name_that_does_not_resolve_is_raised_in_the_coroutine(name, backend):
    errors = []

    async def handler(conn):
        try:
            await pymux.dial((name, 1), timeout=30)
        except (OSError, ValueError) as error:
            errors.append(error)

    with serve(handler, backend) as server, util.connect(server.address) as sock:
        assert util.recv_all(sock) == b""
    assert len(errors) == 1


def test_a_refused_connection_names_the_address(backend, refusing):
    errors = []

    async def handler(conn):
        try:
            await pymux.dial(refusing)
        except ConnectionRefusedError as error:
            errors.append(str(error))

    with serve(handler, backend) as server, util.connect(server.address) as sock:
        assert util.recv_all(sock) == b""
    assert f"127.0.0.1:{refusing[1]}" in errors[0]


@pytest.mark.skipif(
    not hasattr(socket, "TCP_DEFER_ACCEPT"), reason="only Linux drops these SYNs"
)
def test_a_peer_that_does_not_answer_is_a_timeout(backend):
    errors = []

    async def handler(conn):
        with util.full_backlog() as address:
            try:
                await pymux.dial(address, timeout=0.2)
            except TimeoutError as error:
                errors.append(error.errno)

    with serve(handler, backend) as server, util.connect(server.address) as sock:
        assert util.recv_all(sock) == b""
    assert errors == [errno.ETIMEDOUT]


def test_the_end_of_the_upstream_is_none_and_its_loss_is_raised(backend):
    seen = []

    async def handler(conn):
        upstream = await pymux.dial(address)
        seen.append(await upstream.recv())
        upstream = await pymux.dial(address)
        upstream.send(b"open")
        try:
            await upstream.recv()
        except pymux.ConnectionClosed as error:
            seen.append(error.errno)

    with socket.create_server(LOCAL) as listener:
        address = listener.getsockname()
        with serve(handler, backend) as server, util.connect(server.address) as sock:
            listener.accept()[0].close()
            second = listener.accept()[0]
            assert second.recv(10) == b"open"
            util.reset(second)
            assert util.recv_all(sock) == b""
    assert seen == [None, errno.ECONNRESET]


def test_only_its_coroutine_may_wait_for_it(behind, backend):
    dialled, errors = [], []

    async def handler(conn):
        if not dialled:
            dialled.append(await pymux.dial(behind.address, framing=LINES))
            await conn.recv()
            return
        for wait in (dialled[0].recv, dialled[0].drain):
            try:
                await wait()
            except RuntimeError as error:
                errors.append(str(error))

    with serve(handler, backend) as server, util.connect(server.address) as first:
        util.wait_until(lambda: dialled)
        with util.connect(server.address) as second:
            assert util.recv_all(second) == b""
        first.sendall(b"\n")
        assert util.recv_all(first) == b""
    assert [text.split()[0] for text in errors] == ["recv()", "drain()"]


def test_it_ends_with_a_coroutine_that_raises(behind, backend):
    errors = []

    async def handler(conn):
        await pymux.dial(behind.address, framing=LINES)
        raise ValueError("mine")

    with (
        serve(handler, backend, on_error=lambda conn, e: errors.append(e)) as server,
        util.connect(server.address) as sock,
    ):
        assert util.recv_all(sock) == b""
        util.wait_until(lambda: behind.stats().closed == 1)
    assert [str(error) for error in errors] == ["mine"]


def test_an_upstreams_answer_comes_while_the_server_stops(backend):
    """A stop ends the input of accepted connections alone."""
    with (
        socket.create_server(LOCAL) as listener,
        serve(proxy_to(listener.getsockname()), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ask\n")
        upstream, _ = listener.accept()
        assert upstream.recv(10) == b"ask\n"
        server.call_threadsafe(lambda mux: server.stop())
        util.wait_until(lambda: server.stats().listeners == 0)
        upstream.sendall(b"answer\n")
        assert util.recv_all(sock) == b"answer\n"
        assert upstream.recv(10) == b""
        upstream.close()


def test_what_is_dialled_is_reset_with_the_rest_at_the_deadline(backend):
    with (
        socket.create_server(LOCAL) as listener,
        serve(proxy_to(listener.getsockname()), backend) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"ask\n")
        upstream, _ = listener.accept()
        assert upstream.recv(10) == b"ask\n"
        server.stop(0)
        with upstream, pytest.raises(ConnectionResetError):
            while upstream.recv(10):
                pass


@pytest.mark.parametrize("spawned", [False, True])
def test_a_coroutine_that_dials_is_told_of_the_deadline_and_not_of_the_dial(
    backend, spawned
):
    begun, ends, told = [], [], []

    async def dials(address):
        begun.append(True)
        try:
            await pymux.dial(address)
        except BaseException as error:
            ends.append(error)
            raise

    async def handler(conn):
        if spawned:
            pymux.spawn(dials(address))
        else:
            await dials(address)

    with (
        util.full_backlog() as address,
        util.serving(
            handler, backend, on_error=lambda *error: told.append(error)
        ) as server,
        util.connect(server.address),
    ):
        util.wait_until(lambda: begun)
        util.settle(server)
        server.stop(0.05)
    kind = pymux.Cancelled if spawned else pymux.ConnectionClosed
    assert [type(end) for end in ends] == [kind]
    assert told == []


def test_a_dial_that_fails_in_a_cleanup_behind_the_deadline_raises(backend):
    begun, ends = [], []

    async def handler(conn):
        begun.append(True)
        try:
            await pymux.sleep(3600)
        finally:
            try:
                await pymux.dial(("127.0.0.1", util.free_port()))
            except OSError as error:
                ends.append(error.errno)

    with (
        inside.grace(20),
        util.serving(handler, backend) as server,
        util.connect(server.address),
    ):
        util.wait_until(lambda: begun)
        server.stop(0.05)
    assert ends == [errno.ECONNREFUSED]


def test_arguments_that_cannot_be_are_refused_at_the_call():
    with pytest.raises(ValueError, match="port"):
        pymux.dial("tcp://host")
    with pytest.raises(TypeError):
        pymux.dial(LOCAL, framing="lines")


def test_two_dialled_connections_are_awaited_in_turn(behind, backend):
    async def handler(conn):
        one = await pymux.dial(behind.address, framing=LINES)
        two = await pymux.dial(behind.address, framing=LINES)
        two.send(b"two")
        one.send(b"one")
        conn.send(await one.recv(10))
        conn.send(await two.recv(10))
        with pytest.raises(TimeoutError):
            await two.recv(0)

    with serve(handler, backend) as server, util.connect(server.address) as sock:
        assert util.recv_all(sock) == b"ONE\nTWO\n"


def test_the_idle_clock_of_a_dialled_connection_runs_while_its_coroutine_waits(
    backend, clock
):
    """It stands while the coroutine has a message that it has not answered, and is not
    stopped for ever by messages that had to wait for the coroutine."""
    said, steps = [], []

    def twice(conn, data):
        conn.send(data)
        return data

    async def handler(conn):
        upstream = await pymux.dial(
            address, framing=LINES, limits=pymux.Limits(idle_timeout=60)
        )
        upstream.send(b"a")
        await upstream.recv()
        steps.append("is at work for longer")
        await pymux.sleep(100)
        said.append(await upstream.recv())
        upstream.send(b"b")  # in time
        said.append(await upstream.recv())
        steps.append("is at work for a while")
        await pymux.sleep(15)
        said.append(await upstream.recv())
        steps.append("waits")
        try:
            await upstream.recv()
        except pymux.ConnectionClosed as error:
            said.append(error.errno)
        conn.send(b"end")

    with serve(twice, backend) as behind, serve(handler, backend) as server:
        address = behind.address
        with util.connect(server.address) as sock:
            for number, seconds in enumerate((101, 16, 61), 1):
                util.wait_until(lambda number=number: len(steps) == number)
                clock.advance(seconds, server)
            assert util.recv_exactly(sock, 4) == b"end\n"
    assert said == [b"a", b"b", b"b", errno.ETIMEDOUT]


def test_a_dialled_connection_waits_for_a_coroutine_that_is_at_work(
    behind, backend, clock
):
    at_work = threading.Event()

    async def handler(conn):
        upstream = await pymux.dial(
            behind.address, framing=LINES, limits=pymux.Limits(idle_timeout=60)
        )
        upstream.send(b"a")
        await upstream.recv()
        at_work.set()
        await pymux.sleep(100)
        upstream.send(b"b")
        conn.send(await upstream.recv())

    with serve(handler, backend) as server, util.connect(server.address) as sock:
        assert at_work.wait(10)
        clock.advance(101, server)
        assert util.recv_exactly(sock, 2) == b"B\n"


def test_a_drain_to_a_dialled_connection_that_is_lost_raises(backend):
    errors = []

    async def handler(conn):
        upstream = await pymux.dial(listener.getsockname())
        upstream.send(bytes(16 << 20))
        try:
            await upstream.drain()
        except pymux.ConnectionClosed as error:
            errors.append(error.errno)

    with (
        socket.create_server(LOCAL) as listener,
        serve(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        peer, _ = listener.accept()
        util.wait_until(lambda: server.stats().bytes_out > 0)
        util.reset(peer)
        assert util.recv_all(sock) == b""
    assert errors == [errno.ECONNRESET]


def test_a_dialled_peer_that_does_not_read_is_idle(backend, clock):
    errors = []

    async def handler(conn):
        upstream = await pymux.dial(
            listener.getsockname(), limits=pymux.Limits(idle_timeout=60)
        )
        await upstream.recv()
        upstream.send(bytes(16 << 20))
        try:
            await upstream.drain()
        except pymux.ConnectionClosed as error:
            errors.append(error.errno)

    with (
        socket.create_server(LOCAL) as listener,
        serve(handler, backend) as server,
        util.connect(server.address) as sock,
    ):
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"x")
            util.wait_until(lambda: server.stats().queued > 0)
            clock.outlast(sock, 61, server)
    assert errors == [errno.ETIMEDOUT]
