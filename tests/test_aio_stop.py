"""How a server in an asyncio loop stops."""

import asyncio
import contextlib
import errno
import socket
import threading

import pytest

import pymux

from . import inside, util
from .loops import ask, at_rest, until
from .serving import echo, upper
from .util import FORMS, in_form

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


@pytest.mark.parametrize("form", FORMS)
def test_stop_answers_what_has_arrived_and_closes(loop, form):
    async def main():
        handler = in_form(form, bytes.upper)
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES)
        with util.connect(server.address) as sock:
            sock.sendall(b"one\ntwo\n")
            await until(lambda: server.stats().accepted)
            await server.stop()
            assert await asyncio.to_thread(util.recv_all, sock) == b"ONE\nTWO\n"
        assert server.stats().connections == 0

    loop.run(main())


@pytest.mark.parametrize("form", FORMS)
def test_stop_destroys_no_answer_of_a_client_that_goes_on_sending(loop, form):
    def talk_and_read(sock, over):
        """All that a client gets that reads slowly, and another thread of which
        goes on sending."""

        def talk():
            with contextlib.suppress(OSError):
                while not over.is_set():
                    sock.sendall(b"more of it\n" * 1000)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            return util.until_end(sock)
        finally:
            over.set()
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            thread.join()

    async def main():
        handler = in_form(form, lambda data: data * 100)
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES, drain_timeout=20)
        over = threading.Event()
        with util.connect_narrow(server.address) as sock:
            client = asyncio.create_task(asyncio.to_thread(talk_and_read, sock, over))
            await until(lambda: server.stats().bytes_out > 1_000_000)
            await server.stop()
            data, error = await client
        assert (len(data), error) == (server.stats().bytes_out, None)
        assert server.stats().reset == 0

    loop.run(main())


@pytest.mark.parametrize("ended", [False, True])
def test_a_handler_is_told_whether_a_stop_has_cut_its_input(loop, ended):
    seen = []

    async def handler(conn):
        got = [data async for data in conn]
        seen.append((got, conn.stopping, conn))

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES)
        with util.connect(server.address) as sock:
            sock.sendall(b"a\nhalf of")
            if ended:
                sock.shutdown(socket.SHUT_WR)
            await until(lambda: server.stats().messages_in)
            await server.stop()
        ((got, stopping, conn),) = seen
        assert got == [b"a", b"half of"]
        assert stopping is conn.stopping is not ended

    loop.run(main())


def test_a_handler_answers_what_it_has_though_a_frame_was_cut(loop):
    seen = []

    async def main():
        gate = asyncio.Event()

        async def handler(conn):
            data = await conn.recv()
            await gate.wait()
            conn.send(data.upper())
            seen.append((await conn.recv(), conn.stopping))

        framing = pymux.LengthPrefix(1)
        server = await pymux.aio.serve(handler, LOCAL, framing=framing)
        with util.connect(server.address) as sock:
            sock.sendall(b"\1a\5unf")
            await until(lambda: server.stats().messages_in)
            stopping = asyncio.create_task(server.stop())
            await until(lambda: not server.stats().listeners)
            gate.set()
            assert await asyncio.to_thread(util.until_end, sock) == (b"\1A", None)
            await stopping
        assert seen == [(None, True)]

    loop.run(main())


def test_a_function_is_told_whether_a_stop_has_cut_its_input(loop):
    seen = []

    def handler(conn, data):
        seen.append((data, conn.stopping))

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, framing=LINES)
        with util.connect(server.address) as sock:
            sock.sendall(b"a\nhalf of")
            await until(lambda: server.stats().messages_in)
            await server.stop()
        assert seen == [(b"a", False), (b"half of", True)]

    loop.run(main())


def test_a_connection_made_elsewhere_in_the_loop_is_not_stopping(loop):
    async def main():
        async with pymux.aio.serve(echo, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            conn.send(b"hello")
            assert await conn.recv() == b"hello"
        assert await conn.recv() is None
        assert not conn.stopping
        conn.close()
        await conn.wait_closed()
        assert not conn.stopping

    loop.run(main())


def test_stop_cancels_handlers_when_its_time_is_over(loop):
    seen = []

    async def handler(conn):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0.01)
            seen.append("cleaned up")
            raise

    async def main():
        server = await pymux.aio.serve(handler, LOCAL, drain_timeout=30)
        with util.connect(server.address) as sock:
            await until(lambda: server.stats().connections)
            await at_rest(server)
            await server.stop(0.02)
            assert seen == ["cancelled", "cleaned up"]
            assert server.stats().reset == 1
            assert util.until_end(sock) == (b"", errno.ECONNRESET)

    loop.run(main())


def test_the_smaller_of_two_drain_timeouts_holds(loop):
    async def handler(conn):
        await asyncio.sleep(60)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        with util.connect(server.address):
            await until(lambda: server.stats().connections)
            first = asyncio.ensure_future(server.stop(50))
            await until(lambda: not server.stats().listeners)
            await server.stop(0)
            await first

    loop.run(main())


def test_a_cancelled_stop_goes_on(loop):
    begun = []

    async def handler(conn):
        begun.append(conn)
        await asyncio.sleep(60)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        with util.connect(server.address):
            await until(lambda: begun)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(server.stop(0.1), 0.01)
            await server.stop()

    loop.run(main())


def test_stop_called_by_a_handler_returns_at_once(loop):
    async def handler(conn):
        await conn.recv()
        await servers[0].stop()
        conn.send(b"bye")

    async def main():
        servers.append(await pymux.aio.serve(handler, LOCAL))
        assert await ask(servers[0].address, b"stop", 3) == b"bye"
        await servers[0].stop()

    servers = []
    loop.run(main())


def test_closing_the_mux_in_a_handler_ends_the_server(loop):
    waiting = []

    async def bystander(conn):
        if waiting:
            conn.mux.close()
        else:
            waiting.append(conn)
            await asyncio.sleep(60)

    async def main():
        server = await pymux.aio.serve(bystander, LOCAL)
        with util.connect(server.address):
            await until(lambda: waiting)
            with util.connect(server.address):
                await asyncio.wait([inside.end_of(server)])
        await server.stop()
        assert waiting[0].closed

    loop.run(main())


def test_a_mux_that_fails_is_reported_and_raised_by_stop(loop):
    async def main():
        server = await pymux.aio.serve(upper, LOCAL)

        error = OSError(errno.EBADF, "what the kernel says")
        inside.fail_in_harvest(server, error)
        with util.connect(server.address):
            await asyncio.wait([inside.end_of(server)])
        assert loop.errors == [error]
        loop.errors.clear()
        with pytest.raises(OSError, match="what the kernel says") as caught:
            await server.stop()
        assert caught.value is error
        await server.stop()

    loop.run(main())


def test_the_loop_may_end_before_the_server_has_stopped(loop):
    async def main():
        servers.append(await pymux.aio.serve(echo, LOCAL))
        socks.append(util.connect(servers[0].address))
        await until(lambda: servers[0].stats().connections)

    servers, socks = [], []
    loop.run(main())
    with socks.pop() as sock:
        assert util.until_end(sock) == (b"", None)
    with pytest.warns(ResourceWarning, match="unclosed"):
        servers.clear()
        util.collect()


def test_ctrl_c_in_a_handler_leaves_run(loop):
    def handler(conn, data):
        raise KeyboardInterrupt

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            try:
                sock.sendall(b"x")
                await asyncio.sleep(20)
            finally:
                sock.close()

    with pytest.raises(KeyboardInterrupt):
        loop.run(main())


def test_handlers_are_cancelled_once_and_clean_up_in_peace(loop):
    seen = []

    async def handler(conn):
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                await asyncio.sleep(0.005)
            seen.append("clean")

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        socks = [util.connect(server.address) for _ in range(3)]
        await until(lambda: server.stats().connections == 3)
        await at_rest(server)
        await server.stop(0)
        assert seen == ["clean"] * 3
        for sock in socks:
            sock.close()

    loop.run(main())


def test_handlers_that_are_reset_in_the_end_see_closed_connections(loop):
    seen = []

    async def handler(conn):
        async with conn:
            try:
                if not seen:
                    seen.append(None)
                    await asyncio.sleep(60)
                await conn.recv()
            except BaseException as error:
                seen.append(type(error))
                raise

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        socks = []
        for _ in range(2):
            socks.append(util.connect(server.address))
            await until(lambda: server.stats().connections == len(socks))
            await at_rest(server)
        socks[1].sendall(b"")
        await server.stop(0)
        kinds = set(seen[1:])
        assert kinds <= {asyncio.CancelledError, pymux.ConnectionClosed}
        for sock in socks:
            sock.close()

    loop.run(main())
