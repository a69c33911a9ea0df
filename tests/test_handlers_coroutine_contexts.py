"""Context variables of coroutine handlers: which of them sees what."""

import contextvars
import decimal
import time

import pytest

import pymux

from . import util

LINES = pymux.Lines()
user = contextvars.ContextVar("user", default=b"nobody")


def test_what_one_coroutine_sets_no_other_sees(backend):
    async def handler(conn):
        with decimal.localcontext() as context:
            async for data in conn:
                if data != b"ask":
                    user.set(data)
                    context.prec = len(data)
                conn.send(b"%s %s" % (user.get(), str(decimal.Decimal(1) / 3).encode()))

    names = [b"x" * n for n in range(1, 9)]
    with util.serving(handler, backend, framing=LINES) as server:
        socks = [util.connect(server.address) for _ in names]
        for asked in (None, b"ask"):
            for sock, name in zip(socks, names):
                sock.sendall((asked or name) + b"\n")
            for sock, name in zip(socks, names):
                wanted = name + b" 0." + b"3" * len(name) + b"\n"
                assert util.recv_exactly(sock, len(wanted)) == wanted
        for sock in socks:
            sock.close()
        # Nor do later connections, the server's thread, and its calls.
        assert util.everything(server.address, b"ask\n").startswith(b"nobody 0.33333")
        assert util.in_server(server, lambda mux: user.get()) == b"nobody"


@pytest.mark.parametrize("wait", ["recv", "sleep", "drain", "to_thread", "error"])
def test_a_context_lives_through_every_kind_of_step(backend, wait):
    async def handler(conn):
        user.set(await conn.recv())
        if wait == "recv":
            await conn.recv(timeout=10)
        elif wait == "sleep":
            await pymux.sleep(0.001)
        elif wait == "drain":
            conn.send(b"x" * (1 << 20))
            await conn.drain()
        elif wait == "to_thread":
            await pymux.to_thread(time.sleep, 0.001)
        else:
            with pytest.raises(TimeoutError):
                await conn.recv(timeout=0)
        try:
            conn.send(user.get())
            await pymux.sleep(0)
        finally:
            conn.send(user.get())

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as a,
        util.connect(server.address) as b,
    ):
        for name, sock in ((b"a", a), (b"b", b)):
            sock.sendall(name + b"\n")
        if wait == "recv":
            for sock in (b, a):
                sock.sendall(b"on\n")
        for name, sock in ((b"a", a), (b"b", b)):
            assert util.recv_all(sock)[-4:] == (name + b"\n") * 2


def test_a_coroutines_context_does_not_reach_its_timers(backend):
    seen = []

    async def handler(conn):
        user.set(b"somebody")
        conn.mux.call_later(0, lambda: seen.append(user.get()))
        conn.mux.call_threadsafe(lambda: seen.append(user.get()))
        await pymux.sleep(0.001)
        await pymux.sleep(0)

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"") == b""
        util.wait_until(lambda: len(seen) == 2)
    assert seen == [b"nobody", b"nobody"]


def test_what_a_call_of_the_server_sets_no_coroutine_sees(backend):
    """Nor does it share what is not set but changed, as decimal's context is."""

    async def handler(conn):
        precision = int(await conn.recv())
        decimal.getcontext().prec = precision
        await pymux.sleep(0)
        await conn.recv()
        assert decimal.getcontext().prec == precision
        conn.send(user.get())

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as a,
        util.connect(server.address) as b,
    ):
        util.in_server(server, lambda mux: user.set(b"server"))
        util.in_server(server, lambda mux: decimal.getcontext())
        for sock, precision in ((a, b"3\n"), (b, b"12\n")):
            sock.sendall(precision)
        util.wait_until(lambda: server.stats().messages_in == 2)
        with util.connect(server.address) as c:
            for sock in (c, a, b):
                sock.sendall(b"5\n5\n" if sock is c else b"go\n")
                assert util.recv_all(sock) == b"nobody\n"


def test_to_thread_takes_the_context_along_and_brings_nothing_back(backend):
    def work():
        before = user.get()
        user.set(b"thread")
        return before

    async def handler(conn):
        user.set(b"coroutine")
        first = await pymux.to_thread(work)
        second = await pymux.to_thread(work)
        conn.send(b"%s %s %s" % (first, second, user.get()))

    with util.serving(handler, backend) as server:
        got = util.everything(server.address, b"")
    assert got == b"coroutine coroutine coroutine"
