"""`pymux.aio.connect`: connections from tasks, in asyncio and in uvloop."""

import asyncio
import errno
import socket
import sys

import pytest

import pymux

from . import util
from .loops import until
from .processes import python

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LINES = pymux.Lines()


def test_messages_go_out_and_come_back_in_order(loop, echo_server):
    async def main():
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        assert isinstance(conn, pymux.Connection)
        assert conn.peer == echo_server.address
        for k in range(1000):
            conn.send(b"%d" % k)
        assert [await conn.recv() for _ in range(1000)] == [
            b"%d" % k for k in range(1000)
        ]
        conn.send_eof()
        assert await conn.recv() is None
        conn.close()
        await conn.wait_closed()
        await conn.wait_closed()  # at once
        assert conn.closed

    loop.run(main())


def test_iteration_ends_with_the_peers_stream(loop, echo_server):
    async def main():
        async with await pymux.aio.connect(echo_server.address, framing=LINES) as conn:
            conn.send(b"one")
            conn.send(b"two")
            conn.send_eof()
            assert [line async for line in conn] == [b"one", b"two"]
        assert conn.closed

    loop.run(main())


def test_a_hundred_connections_share_one_mux(loop, echo_server):
    async def talk(k):
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        conn.send(b"%d" % k)
        assert await conn.recv(20) == b"%d" % k
        conn.close()
        await conn.wait_closed()
        return conn.mux

    async def main():
        muxes = await asyncio.gather(*(talk(k) for k in range(100)))
        assert len(set(muxes)) == 1
        assert await talk(0) is muxes[0]

    loop.run(main())


def test_a_guests_handler_may_connect_to_a_guest(loop):
    async def main():
        async def relay(conn):
            there = await pymux.aio.connect(inner.address, framing=LINES)
            async with there:
                async for line in conn:
                    there.send(line)
                    conn.send(await there.recv())

        upper = pymux.aio.serve(
            lambda conn, data: data.upper(), ("127.0.0.1", 0), framing=LINES
        )
        async with (
            upper as inner,
            pymux.aio.serve(relay, ("127.0.0.1", 0), framing=LINES) as outer,
        ):
            conn = await pymux.aio.connect(outer.address, framing=LINES)
            conn.send(b"hello")
            assert await conn.recv() == b"HELLO"
            conn.close()

    loop.run(main())


def test_a_refused_connection_says_where(loop, listening):
    address = listening.getsockname()
    listening.close()

    async def main():
        with pytest.raises(ConnectionRefusedError) as caught:
            await pymux.aio.connect(address)
        assert f"127.0.0.1:{address[1]}" in str(caught.value)
        assert caught.value.errno == errno.ECONNREFUSED

    loop.run(main())


def test_a_name_is_resolved_in_another_thread(loop, listening, monkeypatch):
    import threading

    real, threads = socket.getaddrinfo, []

    def look_up(host, *args, **options):
        if host in ("somewhere", b"somewhere"):
            if options.get("flags") == socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "no number")
            threads.append(threading.current_thread())
            host = "127.0.0.1"
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main():
        port = listening.getsockname()[1]
        conn = await pymux.aio.connect(("somewhere", port), timeout=20)
        assert conn.peer == ("127.0.0.1", port)
        conn.abort()

    loop.run(main())
    assert threads
    assert threads[0] is not threading.main_thread()


def test_a_name_that_nobody_knows_is_said(loop, monkeypatch):
    def look_up(host, *args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main():
        with pytest.raises(socket.gaierror, match="nowhere"):
            await pymux.aio.connect(("nowhere", 1))

    loop.run(main())


def test_a_name_that_takes_too_long_is_a_timeout(loop, monkeypatch):
    import threading

    ended = threading.Event()

    def look_up(host, *args, **options):
        if options.get("flags") == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        ended.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def main():
        try:
            with pytest.raises(TimeoutError, match="nowhere"):
                await pymux.aio.connect(("nowhere", 1), timeout=0.02)
        finally:
            ended.set()

    loop.run(main())


def test_a_peer_that_does_not_answer_is_a_timeout(loop, tmp_path):
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    path = str(tmp_path / "full")

    async def main():
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            waiting = [await pymux.aio.connect(path)]
            with pytest.raises(TimeoutError):
                while True:  # until the backlog is full
                    waiting.append(await pymux.aio.connect(path, timeout=0.02))
            for conn in waiting:
                conn.abort()

    if sys.platform != "linux":
        pytest.skip("elsewhere a full backlog refuses")
    loop.run(main())


def test_cancelling_connect_leaves_nothing_behind(loop, tmp_path):
    if sys.platform != "linux":
        pytest.skip("elsewhere a full backlog refuses")
    path = str(tmp_path / "full")

    async def main():
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            open = [await pymux.aio.connect(path)]
            with pytest.raises(asyncio.TimeoutError):
                while True:
                    connecting = pymux.aio.connect(path)
                    open.append(await asyncio.wait_for(connecting, 0.02))
            await until(lambda: open[0].mux.stats().connections == len(open))
            for conn in open:
                conn.abort()

    loop.run(main())


def test_a_reset_raises_after_the_messages_before_it(loop, listening):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname(), framing=LINES)
        sock, _ = listening.accept()
        sock.sendall(b"one\n")
        assert await conn.recv() == b"one"
        util.reset(sock)
        with pytest.raises(pymux.ConnectionClosed) as caught:
            await conn.recv()
        assert caught.value.errno == errno.ECONNRESET
        await conn.wait_closed()
        with pytest.raises(pymux.ConnectionClosed):
            await until(lambda: conn.send(b"x"))

    loop.run(main())


def test_an_idle_timeout_ends_the_connection(loop, listening):
    async def main():
        conn = await pymux.aio.connect(
            listening.getsockname(), limits=pymux.Limits(idle_timeout=0.05)
        )
        sock, _ = listening.accept()
        with sock, pytest.raises(pymux.ConnectionClosed) as caught:
            await conn.recv()
        assert caught.value.errno == errno.ETIMEDOUT

    loop.run(main())


def test_arguments_are_checked(loop):
    async def main():
        with pytest.raises(ValueError, match="Unix socket"):
            await pymux.aio.connect("127.0.0.1:1")
        with pytest.raises(TypeError, match="framing"):
            await pymux.aio.connect(("127.0.0.1", 1), framing="lines")
        with pytest.raises(ValueError, match="timeout"):
            await pymux.aio.connect(("127.0.0.1", 1), timeout=-1)

    loop.run(main())


def test_a_connection_works_on_a_unix_socket(loop, tmp_path):
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    path = str(tmp_path / "socket")

    async def main():
        with util.serving(lambda conn, data: data.upper(), address=path):
            async with await pymux.aio.connect(path) as conn:
                conn.send(b"hello")
                assert await conn.recv() == b"HELLO"

    loop.run(main())


def test_another_thread_may_not_touch_a_connection(loop, listening):
    async def main():
        conn = await pymux.aio.connect(listening.getsockname())
        with pytest.raises(RuntimeError, match="thread"):
            await asyncio.to_thread(conn.send, b"x")
        conn.abort()

    loop.run(main())


LAST_WORDS = """
import asyncio, sys, pymux
async def main():
    conn = await pymux.aio.connect(("127.0.0.1", {port}))
    conn.send(b"x" * 100_000)
    conn.close()
run = asyncio.run if "{loop}" == "asyncio" else __import__("uvloop").run
run(main())
"""


def test_what_was_sent_before_close_leaves_though_the_loop_ends(loop, listening):
    code = LAST_WORDS.format(port=listening.getsockname()[1], loop=loop.name)
    with python("-W", "error", "-c", code) as child:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(20)
            assert util.until_end(sock) == (b"x" * 100_000, None)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 0


def test_a_connection_that_was_never_closed_is_warned_of(loop, listening):
    async def main():
        return await pymux.aio.connect(listening.getsockname())

    kept = [loop.run(main())]
    with pytest.warns(ResourceWarning, match="unclosed"):
        kept.clear()
        util.collect()
