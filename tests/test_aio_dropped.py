"""Outgoing connections that nobody holds any more, in asyncio and in uvloop."""

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import warnings
import weakref

import pytest

import pymux

from . import inside, util
from .loops import until

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()
COUNTED = sys.implementation.name == "cpython"


@pytest.fixture
def told():
    """The ResourceWarnings of a test, as texts."""
    texts = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
        texts += [str(one.message) for one in caught]


@contextlib.contextmanager
def warned(count, match="unclosed <Connection"):
    """So many ResourceWarnings, of connections, come in the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        texts = [str(w.message) for w in caught if w.category is ResourceWarning]
    assert len([text for text in texts if match in text]) == count, texts


def let_go():
    """What was dropped is found, where that takes a collector."""
    if not COUNTED:
        util.collect()


def test_a_dropped_connection_closes_at_once_and_warns(loop, echo_server):
    async def main():
        gc.disable()
        try:
            with warned(20):
                for _ in range(20):
                    conn = await pymux.aio.connect(echo_server.address)
                    del conn
                    let_go()
            await until(lambda: echo_server.stats().closed == 20)
        finally:
            gc.enable()

    loop.run(main())


def test_what_was_sent_to_a_dropped_connection_leaves_in_whole(loop, listening):
    async def main():
        with warned(1):
            conn = await pymux.aio.connect(listening.getsockname())
            sock, _ = listening.accept()
            conn.send(b"x" * 5_000_000)
            del conn
            let_go()
        with sock:
            sock.settimeout(20)
            got = await asyncio.to_thread(util.until_end, sock)
        assert got == (b"x" * 5_000_000, None)

    loop.run(main())


@pytest.mark.parametrize("end", ["close", "abort", "block"])
def test_a_connection_that_was_closed_is_dropped_in_silence(loop, echo_server, end):
    async def main():
        with warned(0):
            conn = await pymux.aio.connect(echo_server.address, framing=LINES)
            conn.send(b"x" * 50_000)
            if end == "block":
                async with conn:
                    pass
            else:
                getattr(conn, end)()
            del conn
            let_go()
            await until(lambda: echo_server.stats().closed == 1)
        if end != "abort":
            assert echo_server.stats().bytes_in == 50_001

    loop.run(main())


def test_a_connection_that_was_lost_is_dropped_in_silence(loop, listening):
    async def main():
        with warned(0):
            conn = await pymux.aio.connect(listening.getsockname())
            util.reset(listening.accept()[0])
            with pytest.raises(pymux.ConnectionClosed):
                await conn.recv()
            await conn.wait_closed()
            del conn
            let_go()

    loop.run(main())


def test_a_connection_whose_peer_has_ended_is_still_to_be_closed(loop, listening):
    async def main():
        with warned(1):
            conn = await pymux.aio.connect(listening.getsockname())
            sock, _ = listening.accept()
            sock.shutdown(socket.SHUT_WR)
            assert await conn.recv() is None
            del conn
            let_go()
        with sock:
            assert (await asyncio.to_thread(util.until_end, sock)) == (b"", None)

    loop.run(main())


@pytest.mark.parametrize("wait", ["recv", "iteration", "drain", "wait_closed"])
def test_a_task_that_waits_holds_its_connection_and_nobody_holds_the_task(
    loop, listening, wait
):
    seen = []

    async def work():
        conn = await pymux.aio.connect(listening.getsockname(), framing=LINES)
        begun.append(wait)
        if wait == "recv":
            seen.append(await conn.recv())
        elif wait == "iteration":
            seen.extend([line async for line in conn])
        elif wait == "drain":
            conn.send(b"x" * 10_000_000)
            await conn.drain()
            seen.append(conn.queued < 65536)
        else:
            await conn.wait_closed()
            seen.append("gone")
        conn.close()

    async def main():
        asyncio.ensure_future(work())  # noqa: RUF006 (nobody holds it)
        await until(lambda: begun)
        sock, _ = listening.accept()
        with warned(0):
            for _ in range(20):  # steps of the loop
                await asyncio.sleep(0)
                util.collect()
            assert not seen
            with sock:
                sock.sendall(b"here\n")
                if wait == "wait_closed":
                    util.reset(sock)
                elif wait == "iteration":
                    sock.shutdown(socket.SHUT_WR)
                elif wait == "drain":
                    sock.settimeout(20)
                    await asyncio.to_thread(util.recv_exactly, sock, 10_000_000)
                await until(lambda: seen)

    begun = []
    loop.run(main())
    expected = {"drain": True, "wait_closed": "gone"}.get(wait, b"here")
    assert seen == [expected]


def test_a_connection_that_only_a_cycle_holds_is_the_collectors(loop, echo_server):
    async def main():
        with warned(1):
            conn = await pymux.aio.connect(echo_server.address)
            conn.state = [conn]
            del conn
            util.collect()
        await until(lambda: echo_server.stats().closed == 1)

    loop.run(main())


def test_messages_for_a_dropped_connection_are_nobodys(loop, listening):
    async def main():
        address = listening.getsockname()
        kept = await pymux.aio.connect(address, framing=LINES)
        one, _ = listening.accept()
        dropped = await pymux.aio.connect(address, framing=LINES)
        two, _ = listening.accept()
        with one, two:
            two.sendall(b"lost\n" * 1000)
            one.sendall(b"kept\n" * 1000)
            with warned(1):
                del dropped
                let_go()
            for _ in range(1000):
                assert await kept.recv(20) == b"kept"
            kept.close()
            assert await asyncio.to_thread(util.until_end, two) == (b"", None)

    loop.run(main())


def test_a_connection_may_be_dropped_in_another_thread(loop, echo_server):
    async def main():
        with warned(1):
            box = [await pymux.aio.connect(echo_server.address)]
            thread = threading.Thread(target=box.clear)
            thread.start()
            thread.join()
            let_go()
        await until(lambda: echo_server.stats().closed == 1)

    loop.run(main())


@pytest.mark.skipif(not COUNTED, reason="references are not counted here")
def test_a_connection_may_be_dropped_by_a_collection_at_any_step(loop, echo_server):
    """Collections run in the middle of whatever allocates; none may disturb it."""
    was = gc.get_threshold()

    async def main():
        busy = await pymux.aio.connect(echo_server.address, framing=LINES)
        gc.set_threshold(3)
        try:
            with warned(50):
                for k in range(50):
                    conn = await pymux.aio.connect(echo_server.address, framing=LINES)
                    conn.send(b"last words")
                    conn.state = conn
                    del conn
                    for j in range(20):
                        busy.send(b"%d %d" % (k, j))
                    assert [await busy.recv(20) for _ in range(20)] == [
                        b"%d %d" % (k, j) for j in range(20)
                    ]
                util.collect()
        finally:
            gc.set_threshold(*was)
        busy.close()
        await until(lambda: echo_server.stats().closed == 51)
        assert echo_server.stats().messages_in == 50 * 21

    loop.run(main())


def test_the_muxs_own_connect_makes_no_connection_for_a_task(loop, echo_server):
    async def main():
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        with warned(0):
            with pytest.raises(RuntimeError, match=r"pymux\.aio\.connect"):
                conn.mux.connect(echo_server.address, framing=LINES)
            let_go()
        conn.send(b"still here")
        assert await conn.recv(20) == b"still here"
        assert echo_server.stats().accepted == 1
        conn.close()

    loop.run(main())


def test_a_connection_that_a_servers_handler_dials_is_its_servers(loop, echo_server):
    """Its handler gets the messages, so no reference to it is needed."""
    got = []

    class Handler:
        def received(self, conn, data):
            if data == b"dial":
                conn.mux.connect(echo_server.address, framing=LINES).send(b"answer me")
            else:
                got.append(data)

    async def main():
        with warned(0):
            async with pymux.aio.serve(Handler(), LOCAL, framing=LINES) as server:
                conn = await pymux.aio.connect(server.address, framing=LINES)
                conn.send(b"dial")
                util.collect()
                await until(lambda: got)
                util.collect()
                conn.close()
        assert got == [b"answer me"]

    loop.run(main())


def test_nothing_of_an_accepted_connection_needs_to_be_held(loop):
    async def handler(conn):
        conn.state = {"conn": conn}
        async for line in conn:
            util.collect()
            conn.send(line)

    async def main():
        with warned(0):
            async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
                got = await asyncio.to_thread(
                    util.exchange, server.address, b"one\ntwo\n", 8
                )
                assert got == b"one\ntwo\n"

    loop.run(main())


@pytest.mark.skipif(not COUNTED, reason="references are not counted here")
def test_a_dropped_connection_is_freed_by_its_last_reference(loop, echo_server):
    class Record:
        pass

    async def main():
        gc.disable()
        try:
            conn = await pymux.aio.connect(echo_server.address, framing=LINES)
            conn.send(b"x")
            assert await conn.recv() == b"x"
            conn.state = Record()
            record, ref = weakref.ref(conn.state), weakref.ref(conn)
            conn.close()
            del conn
            assert ref() is None
            assert record() is None
            await until(lambda: echo_server.stats().closed == 1)
        finally:
            gc.enable()

    loop.run(main())


def abort_all(mux):
    for conn in inside.connections(mux):
        conn.abort()


def nothing_is_kept():
    """Whether every outgoing connection has ended, with all that was kept of it."""
    return not any(map(inside.places_in_use, inside.outgoing_muxes()))


@pytest.mark.skipif(not COUNTED, reason="references are not counted here")
@pytest.mark.parametrize("how", ["refused", "lost", "recv timeout"])
def test_an_error_leaves_no_cycle_behind(loop, echo_server, how):
    async def fail():
        if how == "refused":
            with contextlib.suppress(ConnectionRefusedError):
                await pymux.aio.connect(("127.0.0.1", util.free_port()))
            return
        conn = await pymux.aio.connect(echo_server.address, framing=LINES)
        conn.send(b"met")
        assert await conn.recv() == b"met"
        try:
            if how == "lost":
                util.in_server(echo_server, abort_all)
                with contextlib.suppress(pymux.ConnectionClosed):
                    await conn.recv()
            else:
                with contextlib.suppress(TimeoutError):
                    await conn.recv(0.001)
        finally:
            conn.abort()

    async def main():
        await fail()
        util.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await fail()
            await until(nothing_is_kept)
            util.collect()
            ours = [x for x in gc.garbage if issubclass(type(x), pymux.Connection)]
            assert not ours
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    loop.run(main())


@pytest.mark.skipif(not COUNTED, reason="references are not counted here")
def test_ten_batches_of_connections_leave_no_growth(loop, echo_server):
    async def some():
        for _ in range(100):
            conn = await pymux.aio.connect(echo_server.address, framing=LINES)
            conn.send(b"x")
            assert await conn.recv() == b"x"
            conn.close()
            await conn.wait_closed()

    def count():
        # The server's thread is done with them too. A busy machine may find it late.
        util.wait_until(lambda: not echo_server.stats().connections)
        util.settle(echo_server)
        return len(gc.get_objects())

    async def main():
        await some()
        gc.collect()
        gc.disable()
        try:
            before = count()
            for _ in range(9):
                await some()
            assert count() - before < 300  # of 900 connections
        finally:
            gc.enable()

    loop.run(main())


def test_the_loops_mux_does_not_listen(loop, echo_server):
    async def main():
        async with await pymux.aio.connect(echo_server.address) as conn:
            with pytest.raises(RuntimeError, match=r"aio\.serve"):
                conn.mux.listen(LOCAL)

    loop.run(main())


def test_nothing_is_kept_of_outgoing_connections_that_ended(loop):
    async def main():
        async with pymux.aio.serve(lambda conn, data: data, LOCAL) as server:
            for _ in range(20):
                conn = await pymux.aio.connect(server.address)
                conn.close()
                await conn.wait_closed()
            await until(lambda: not inside.places_in_use(conn.mux))
            assert not inside.keeps_tasks(conn.mux)

    loop.run(main())
