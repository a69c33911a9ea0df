"""What handlers raise inside asyncio and uvloop."""

import asyncio
import errno

import pytest

import pymux

from . import inside, util
from .loops import at_rest, until
from .util import Panic

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


def failing(form, error):
    """A handler of the named form that raises for `boom`, and answers otherwise."""

    def answer(data):
        if data == b"boom":
            raise error("of the handler")
        return data

    return util.in_form(form, answer)


def answer_of(sock):
    """The line that a socket gets, or what its end was."""
    try:
        return sock.recv(100) or b"end"
    except ConnectionError:
        return b"reset"


async def five_at_once(server):
    """What each of five clients gets whose lines come in one turn; the second's is
    the one that raises. And the clients."""
    socks = [await asyncio.to_thread(util.connect, server.address) for _ in range(5)]
    await until(lambda: server.stats().connections == 5)
    for k, sock in enumerate(socks):  # no turn comes between
        sock.sendall(b"boom\n" if k == 1 else b"hello\n")
    return socks


async def answers(socks):
    got = [await asyncio.to_thread(answer_of, sock) for sock in socks]
    for sock in socks:
        sock.close()
    return got


# A batch handler's error is that of every connection in its batch.
ONE_EACH = [form for form in util.FORMS if "batch" not in form]


@pytest.mark.parametrize("error", [Panic, GeneratorExit, Exception])
@pytest.mark.parametrize("form", ONE_EACH)
def test_whatever_a_handler_raises_ends_its_own_connection(loop, form, error):
    async def main():
        async with pymux.aio.serve(
            failing(form, error),
            LOCAL,
            framing=LINES,
            on_error=lambda conn, error: told.append(type(error)),
        ) as server:
            return await answers(await five_at_once(server))

    told = []
    got = loop.run(main())
    assert got == [b"hello\n", b"end", b"hello\n", b"hello\n", b"hello\n"]
    assert told == [error]


@pytest.mark.parametrize("form", ["batch", "batched object"])
def test_whatever_a_batch_handler_raises_is_its_own_error(loop, form):
    async def main():
        async with pymux.aio.serve(
            failing(form, Panic),
            LOCAL,
            framing=LINES,
            on_error=lambda conn, error: told.append((conn, type(error))),
        ) as server:
            with await asyncio.to_thread(util.connect, server.address) as other:
                assert await asyncio.to_thread(
                    util.everything, server.address, b"boom\n"
                ) in (b"", b"boom\n")
                other.sendall(b"on\n")
                assert await asyncio.to_thread(answer_of, other) == b"on\n"

    told = []
    loop.run(main())
    assert told == [(None, Panic)]


def test_a_task_that_panics_is_reported_once(loop):
    async def main():
        async with pymux.aio.serve(
            failing("coroutine", Panic), LOCAL, framing=LINES
        ) as server:
            return await answers(await five_at_once(server))

    got = loop.run(main())
    assert got.count(b"hello\n") == 4
    assert [type(error) for error in loop.errors] == [Panic]
    loop.errors.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("form", ONE_EACH)
def test_what_leaves_the_loop_loses_no_other_connections_messages(loop, form, error):
    ends = []

    class Object:
        def received(self, conn, data):
            if data == b"boom":
                raise error
            return data

        def closed(self, conn, end):
            ends.append(end)

    handler = Object() if form == "object" else failing(form, error)
    running = loop.new()
    running.set_exception_handler(loop.note)

    async def begin():
        return await pymux.aio.serve(handler, LOCAL, framing=LINES)

    try:
        server = running.run_until_complete(begin())
        socks = [util.connect(server.address) for _ in range(5)]
        everyone = until(lambda: server.stats().connections == 5)
        running.run_until_complete(everyone)
        for k, sock in enumerate(socks):
            sock.sendall(b"boom\n" if k == 1 else b"hello\n")
        with pytest.raises(error):
            running.run_forever()
        # What stood behind it in the batch, and what comes when the loop goes on.
        for k, sock in enumerate(socks):
            if k != 1:
                sock.sendall(b"again\n")
        wanted = until(lambda: server.stats().messages_in == 9)
        running.run_until_complete(wanted)
        running.run_until_complete(at_rest(server))
        for k, sock in enumerate(socks):
            with sock:
                if k == 1:
                    assert answer_of(sock) == b"end"
                else:
                    assert util.recv_exactly(sock, 12) == b"hello\nagain\n"
        running.run_until_complete(server.stop())
    finally:
        running.close()
    if form == "object":
        (end,) = [one for one in ends if one]
        assert end.errno == errno.ECONNABORTED
        assert type(end.__cause__) is error


@pytest.mark.parametrize("where", ["on_error", "timer", "exception handler"])
def test_what_leaves_by_a_detour_loses_no_message_either(loop, where):
    def leave(*args):
        raise KeyboardInterrupt

    running = loop.new()
    if where == "exception handler":
        running.set_exception_handler(leave)
        form = "coroutine"
    else:
        form = "function"
    options = {"on_error": leave} if where == "on_error" else {}

    async def begin():
        return await pymux.aio.serve(
            failing(form, ValueError), LOCAL, framing=LINES, **options
        )

    try:
        server = running.run_until_complete(begin())
        socks = [util.connect(server.address) for _ in range(3)]
        running.run_until_complete(until(lambda: server.stats().connections == 3))
        if where == "timer":
            inside.engine_of(server).call_later(0, leave)
        for k, sock in enumerate(socks):
            raises = k == 1 and where != "timer"
            sock.sendall(b"boom\n" if raises else b"hello\n")
        with pytest.raises(KeyboardInterrupt):
            running.run_forever()
        running.run_until_complete(until(lambda: server.stats().messages_in == 3))
        running.run_until_complete(at_rest(server))
        for k, sock in enumerate(socks):
            with sock:
                raised = k == 1 and where != "timer"
                assert answer_of(sock) == (b"end" if raised else b"hello\n")
        running.run_until_complete(server.stop())
    finally:
        running.close()


def test_a_handler_that_is_cancelled_closes_its_connection_unreported(loop):
    async def handler(conn):
        asyncio.current_task().cancel()
        await conn.recv()

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            return await asyncio.to_thread(util.everything, server.address, b"")

    assert loop.run(main()) == b""


@pytest.mark.parametrize("depth", [1, 2])
def test_a_task_group_whose_peers_are_lost_is_nobodys_error(loop, depth):
    async def read(conn, depth):
        if not depth:
            return await conn.recv()
        async with asyncio.TaskGroup() as group:
            group.create_task(read(conn, depth - 1))
        return None

    async def handler(conn):
        conn.send(b"ready")
        await read(conn, depth)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = await asyncio.to_thread(util.connect, server.address)
            await asyncio.to_thread(util.recv_exactly, sock, 5)
            util.reset(sock)
            await until(lambda: server.stats().connections == 0)

    loop.run(main())


def test_a_task_group_with_another_error_is_reported_whole(loop):
    async def lost(conn):
        raise pymux.ConnectionClosed("lost", connection=conn)

    async def fails():
        raise LookupError

    async def handler(conn):
        async with asyncio.TaskGroup() as group:
            group.create_task(lost(conn))
            group.create_task(fails())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            await asyncio.to_thread(util.everything, server.address, b"")

    loop.run(main())
    (error,) = loop.errors
    assert isinstance(error, BaseExceptionGroup)
    assert len(error.exceptions) == 2
    loop.errors.clear()


def test_closed_is_called_for_every_connection_of_a_mux_that_is_closed(loop):
    class Closing:
        def opened(self, conn):
            opened.append(conn)

        def received(self, conn, data):
            conn.mux.close()

        def closed(self, conn, end):
            ended.append((conn, end))
            raise Panic("of closed, which keeps nobody from being told")

    async def main():
        async with pymux.aio.serve(
            Closing(), LOCAL, on_error=lambda conn, error: told.append(type(error))
        ) as server:
            socks = [
                await asyncio.to_thread(util.connect, server.address) for _ in range(3)
            ]
            await until(lambda: len(opened) == 3)
            socks[0].sendall(b"x")
            await server.wait()
            for sock in socks:
                sock.close()

    opened, ended, told = [], [], []
    loop.run(main())
    assert len({conn for conn, _ in ended}) == len(ended) == 3
    assert {end.errno for _, end in ended} == {errno.ECONNABORTED}
    assert told == [Panic] * 3


@pytest.mark.parametrize("form", ["function", "batch"])
def test_a_cancelled_error_of_a_handler_ends_its_connection_only(loop, logged, form):
    def function(conn, data):
        if data == b"bad":
            raise asyncio.CancelledError
        return data

    @pymux.batched
    def batch(batch):
        if b"bad" in batch.messages:
            raise asyncio.CancelledError
        batch.reply(batch.messages)

    async def main():
        handler = function if form == "function" else batch
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            assert (
                await asyncio.to_thread(util.everything, server.address, b"bad\n")
                == b""
            )
            got = await asyncio.to_thread(util.exchange, server.address, b"good\n", 5)
            assert got == b"good\n"
        assert len(logged) == 1

    loop.run(main())


def test_a_timer_that_raises_ends_no_outgoing_connection(loop):
    def fail():
        raise ValueError("the timer's")

    async def main():
        async with pymux.aio.serve(lambda conn, data: data, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            conn.mux.call_later(0, fail)
            await until(lambda: loop.errors)
            conn.send(b"still here")
            assert await conn.recv(10) == b"still here"
            other = await pymux.aio.connect(server.address)
            assert other.mux is conn.mux
            other.send(b"this one too")
            assert await other.recv(10) == b"this one too"
            conn.close()
            other.close()
        assert str(loop.errors.pop()) == "the timer's"

    loop.run(main())


def test_a_task_factory_that_raises_leaves_the_server_to_be_stopped(loop):
    async def handler(conn):
        pass

    def factory(loop, coroutine, **options):
        if getattr(coroutine, "__name__", "") == "handler":
            raise ValueError("no task today")
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        asyncio.get_running_loop().set_task_factory(factory)
        assert await asyncio.to_thread(util.everything, server.address, b"") == b""
        await server.stop()
        assert str(loop.errors.pop()) == "no task today"

    loop.run(main())
