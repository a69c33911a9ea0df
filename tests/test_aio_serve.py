"""`pymux.aio.serve`: a server as a guest of asyncio and of uvloop."""

import asyncio
import errno
import socket

import pytest

import pymux

from . import util
from .loops import ask, until
from .serving import upper
from .util import FORMS, in_form

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


# --- serving ---------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_handler_serves_many_clients(loop, form):
    async def main():
        handler = in_form(form, bytes.upper)
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            sent = [b"client %d\n" % k * 50 for k in range(20)]
            got = await asyncio.gather(
                *(ask(server.address, data, len(data)) for data in sent)
            )
            assert got == [data.upper() for data in sent]
            await until(lambda: server.stats().connections == 0)
            assert server.stats().accepted == 20
            assert server.stats().messages_in == 1000

    loop.run(main())


def test_awaiting_gives_a_server_that_accepts_already(loop):
    async def main():
        server = await pymux.aio.serve(upper, LOCAL)
        try:
            assert await ask(server.address, b"hello", 5) == b"HELLO"
        finally:
            await server.stop()
        with pytest.raises(ConnectionRefusedError):
            util.connect(server.address)

    loop.run(main())


def test_an_awaited_server_is_a_context_manager_too(loop):
    async def main():
        async with await pymux.aio.serve(upper, LOCAL) as server:
            assert await ask(server.address, b"hello", 5) == b"HELLO"

    loop.run(main())


def test_a_server_has_one_life(loop):
    async def main():
        server = pymux.aio.serve(upper, LOCAL)
        with pytest.raises(RuntimeError, match="not started"):
            server.address  # noqa: B018 (reading it raises)
        await server.stop()  # does nothing yet
        async with server:
            with pytest.raises(RuntimeError, match="one life"):
                await server
        with pytest.raises(RuntimeError, match="one life"):
            await server

    loop.run(main())


def test_arguments_are_checked_before_anything_is_awaited():
    with pytest.raises(TypeError, match="handler"):
        pymux.aio.serve(None)
    with pytest.raises(ValueError, match="epolll"):
        pymux.aio.serve(upper, backend="epolll")
    with pytest.raises(ValueError, match="drain_timeout"):
        pymux.aio.serve(upper, drain_timeout=-1)


def test_an_address_in_use_is_raised_where_it_is_awaited(loop):
    async def main():
        async with pymux.aio.serve(upper, LOCAL) as server:
            with pytest.raises(OSError) as caught:
                await pymux.aio.serve(upper, server.address)
            assert caught.value.errno == errno.EADDRINUSE

    loop.run(main())


@pytest.mark.parametrize("name", ["poll", "select"])
def test_a_backend_without_a_descriptor_is_refused_by_name(loop, name, monkeypatch):
    if name not in pymux.backends():
        pytest.skip(f"no {name} here")

    async def main(backend):
        with pytest.raises(pymux.BackendUnavailable, match=f"{name}.*epoll|kqueue"):
            await pymux.aio.serve(upper, LOCAL, backend=backend)
        with pytest.raises(pymux.BackendUnavailable, match=f"{name}.*epoll|kqueue"):
            await pymux.aio.connect(("127.0.0.1", 1), backend=backend)

    loop.run(main(name))
    monkeypatch.setenv("PYMUX_BACKEND", name)
    loop.run(main(None))


def test_two_servers_share_a_loop(loop):
    async def main():
        async with (
            pymux.aio.serve(upper, LOCAL) as one,
            pymux.aio.serve(lambda conn, data: data[::-1], LOCAL) as two,
        ):
            got = await asyncio.gather(
                ask(one.address, b"abc", 3), ask(two.address, b"abc", 3)
            )
        assert got == [b"ABC", b"cba"]

    loop.run(main())


@pytest.mark.parametrize("form", ["function", "coroutine"])
def test_eight_megabytes_come_back_to_a_slow_reader(loop, form):
    data = bytes(range(256)) * 32768

    def slow_exchange(address):
        with util.connect(address) as sock:
            sent = util.fill(sock, len(data), data)
            got = bytearray()
            sock.settimeout(20)
            while len(got) < len(data):
                got += sock.recv(50_000)
                if sent < len(data):
                    more = data[sent : sent + 50_000]
                    sent += util.fill(sock, len(more), more)
            return bytes(got)

    async def main():
        async with pymux.aio.serve(in_form(form, bytes), LOCAL) as server:
            assert await asyncio.to_thread(slow_exchange, server.address) == data

    loop.run(main())


# --- the end --------------------------------------------------------------------


def test_a_unix_socket_is_served(loop, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        async with pymux.aio.serve(upper, path) as server:
            assert server.address == path
            assert await ask(path, b"hello", 5) == b"HELLO"
        assert not (tmp_path / "socket").exists()

    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    loop.run(main())


def test_a_stopped_server_is_not_entered_again(loop):
    async def main():
        server = await pymux.aio.serve(lambda conn, data: data, LOCAL)
        await server.stop()
        with pytest.raises(RuntimeError, match="one life"):
            async with server:
                pass

    loop.run(main())
