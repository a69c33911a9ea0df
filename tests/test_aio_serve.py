"""`pymux.aio.serve`: a server as a guest of asyncio and of uvloop."""

import asyncio
import contextlib
import contextvars
import errno
import socket
import threading
import time

import pytest

import pymux

from . import inside, util
from .loops import ask, everything, recv, until
from .util import FORMS, in_form

pytestmark = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)

LOCAL = ("127.0.0.1", 0)
LINES = pymux.Lines()


async def echo(conn):
    async for data in conn:
        conn.send(data)


def upper(conn, data):
    return data.upper()


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
            server.address  # noqa: B018
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


# --- when it harvests --------------------------------------------------------


def test_an_idle_server_takes_no_turn(loop):
    async def main():
        limits = pymux.Limits(idle_timeout=60)
        async with pymux.aio.serve(echo, LOCAL, limits=limits) as server:
            with util.connect(server.address) as sock:
                sock.sendall(b"x")
                assert await recv(sock, 1) == b"x"
                await asyncio.sleep(0.02)
                before = server.stats().harvests
                await asyncio.sleep(0.15)
                assert server.stats().harvests == before

    loop.run(main())


def test_a_timer_of_the_mux_wakes_the_loop(loop):
    ran = []

    def handler(conn, data):
        conn.mux.call_later(0.02, ran.append, data)
        conn.mux.call_later(0.04, conn.send, b"later")

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"now", 5) == b"later"
            assert ran == [b"now"]

    loop.run(main())


def test_a_timer_set_from_elsewhere_wakes_the_loop(loop):
    async def main():
        connected = []

        class Object:
            def opened(self, conn):
                connected.append(conn)

        async with pymux.aio.serve(Object(), LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: connected)
                await asyncio.sleep(0.01)
                connected[0].mux.call_later(0.01, connected[0].send, b"tick")
                assert await recv(sock, 4) == b"tick"

    loop.run(main())


def test_an_earlier_timer_moves_the_loops_timer_forward(loop):
    async def main():
        connected = []

        class Object:
            def opened(self, conn):
                conn.mux.call_later(60, print)
                connected.append(conn)

        async with pymux.aio.serve(Object(), LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: connected)
                await asyncio.sleep(0.01)
                connected[0].mux.call_later(0.01, connected[0].send, b"tick")
                assert await recv(sock, 4) == b"tick"

    loop.run(main())


def test_an_idle_connection_is_closed_in_time(loop):
    ends = util.Ends()

    async def main():
        limits = pymux.Limits(idle_timeout=0.05)
        async with pymux.aio.serve(ends, LOCAL, limits=limits) as server:
            with util.connect(server.address):
                await until(lambda: ends.ended)
        assert ends.errors() == [errno.ETIMEDOUT]

    loop.run(main())


def test_what_is_sent_from_elsewhere_leaves_by_itself(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address) as sock, util.connect(server.address):
                await until(lambda: len(ends.open) == 2)
                await asyncio.sleep(0.01)
                first = next(c for c in ends.open if c.peer == sock.getsockname())
                first.send(b"one")
                assert await recv(sock, 3) == b"one"
                asyncio.get_running_loop().call_soon(first.send, b"two")
                assert await recv(sock, 3) == b"two"
                assert first.mux.send_many(ends.open, b"many") == 2
                assert await recv(sock, 4) == b"many"
                first.close()
                assert await asyncio.to_thread(util.recv_all, sock) == b""
        assert len(ends.ended) == 2

    loop.run(main())


def test_pausing_from_elsewhere_holds_and_resuming_goes_on(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: ends.open)
                ends.open[0].pause()
                await asyncio.sleep(0.01)
                sock.sendall(b"held")
                await asyncio.sleep(0.02)
                assert server.stats().messages_in == 0
                ends.open[0].resume()
                assert await recv(sock, 4) == b"held"

    loop.run(main())


def test_a_batch_gathers_min_messages_by_the_loops_timer(loop):
    sizes = []

    @pymux.batched(min_messages=3, max_delay=30)
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            with util.connect(server.address) as one, util.connect(server.address):
                await until(lambda: server.stats().connections == 2)
                for word in b"a\n", b"b\n":
                    one.sendall(word)
                    await asyncio.sleep(0.01)
                assert sizes == []
                one.sendall(b"c\n")
                assert await recv(one, 6) == b"a\nb\nc\n"
        assert sizes == [3]

    loop.run(main())


def test_a_batch_gathers_no_longer_than_max_delay(loop):
    sizes, waits = [], []

    @pymux.batched(min_messages=3, max_delay=0.05)
    def handler(batch):
        sizes.append(len(batch))
        batch.reply(batch.messages)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            with util.connect(server.address) as one, util.connect(server.address):
                await until(lambda: server.stats().connections == 2)
                begun = time.monotonic()
                one.sendall(b"a\n")
                assert await recv(one, 2) == b"a\n"
                waits.append(time.monotonic() - begun)
        assert sizes == [1]
        assert waits[0] >= 0.05

    loop.run(main())


def test_a_batch_that_gathers_takes_no_turns_meanwhile(loop):
    @pymux.batched(min_messages=3, max_delay=60)
    def handler(batch):
        batch.reply(batch.messages)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            with util.connect(server.address) as one, util.connect(server.address):
                await until(lambda: server.stats().connections == 2)
                one.sendall(b"a\n")
                await until(lambda: server.stats().messages_in == 1)
                await asyncio.sleep(0.02)
                before = server.stats().harvests
                await asyncio.sleep(0.1)
                assert server.stats().harvests == before
                one.sendall(b"b\nc\n")
                assert await recv(one, 6) == b"a\nb\nc\n"

    loop.run(main())


# --- coroutine handlers --------------------------------------------------------


def test_a_handler_is_a_task_that_may_await_anything(loop):
    async def handler(conn):
        me = asyncio.current_task()
        assert me is not None
        async for data in conn:
            await asyncio.sleep(0)
            one, two = await asyncio.gather(
                asyncio.to_thread(data.upper), asyncio.sleep(0.001, b"!")
            )
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)
            except TimeoutError:
                conn.send(one + two)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"hello", 6) == b"HELLO!"

    loop.run(main())


def test_timeouts_and_task_groups_work_in_a_handler(loop):
    async def handler(conn):
        try:
            async with asyncio.timeout(0.01):
                await conn.recv()
        except TimeoutError:
            conn.send(b"slow ")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(conn.recv())
        conn.send(task.result())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 5) == b"slow "
                sock.sendall(b"but here")
                assert await recv(sock, 8) == b"but here"

    loop.run(main())


def test_pymuxs_own_sleep_and_to_thread_work_in_a_handler_too(loop):
    async def handler(conn):
        async for data in conn:
            await pymux.sleep(0.001)
            conn.send(await pymux.to_thread(bytes.upper, data))

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"hello", 5) == b"HELLO"

    loop.run(main())


def test_cancelling_a_handler_closes_its_connection_flushed(loop):
    tasks = []

    async def handler(conn):
        tasks.append(asyncio.current_task())
        conn.send(b"before")
        await asyncio.sleep(60)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                await until(lambda: tasks)
                tasks[0].cancel()
                assert await asyncio.to_thread(util.recv_all, sock) == b"before"
            await until(lambda: server.stats().connections == 0)

    loop.run(main())


def test_a_failing_handler_is_reported_to_the_loops_exception_handler(loop):
    async def handler(conn):
        conn.send(b"answered")
        raise ValueError(await conn.recv())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await everything(server.address, b"question") == b"answered"
        (error,) = loop.errors
        assert repr(error) == "ValueError(b'question')"
        loop.errors.clear()

    loop.run(main())


def test_a_failing_handler_is_given_to_on_error_instead(loop):
    seen = []

    async def handler(conn):
        raise ValueError("mine")

    async def main():
        options = {"on_error": lambda conn, error: seen.append((conn, error))}
        async with pymux.aio.serve(handler, LOCAL, **options) as server:
            assert await everything(server.address, b"") == b""
            await until(lambda: seen)
        ((conn, error),) = seen
        assert isinstance(conn, pymux.Connection)
        assert str(error) == "mine"

    loop.run(main())


def test_a_function_that_fails_is_logged_and_ends_its_connection_only(loop, logged):
    def handler(conn, data):
        if data == b"bad":
            raise ValueError("bad")
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await everything(server.address, b"bad") == b""
                sock.sendall(b"good")
                assert await recv(sock, 4) == b"good"
        assert len(logged) == 1

    loop.run(main())


def test_a_lost_connection_raises_in_recv_and_is_nobodys_error(loop):
    seen = []

    async def handler(conn):
        try:
            while await conn.recv() is not None:
                pass
        except pymux.ConnectionClosed as error:
            seen.append(error.errno)
            raise

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            sock.sendall(b"x")
            await until(lambda: server.stats().messages_in)
            util.reset(sock)
            await until(lambda: seen)
            await until(lambda: not server.stats().connections)
        assert seen == [errno.ECONNRESET]

    loop.run(main())


def test_recv_times_out_and_leaves_the_connection_as_it_was(loop):
    async def handler(conn):
        for timeout in 0, 0.01:
            with pytest.raises(TimeoutError):
                await conn.recv(timeout)
        with pytest.raises(ValueError, match="-1"):
            await conn.recv(-1)
        conn.send(b"?")
        conn.send(await conn.recv(20))

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 1) == b"?"
                sock.sendall(b"here")
                assert await recv(sock, 4) == b"here"

    loop.run(main())


def test_a_second_recv_at_once_is_refused(loop):
    async def handler(conn):
        first = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one at a time"):
            await conn.recv()
        conn.send(b"?")
        conn.send(await first)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 1) == b"?"
                sock.sendall(b"here")
                assert await recv(sock, 4) == b"here"

    loop.run(main())


def test_a_cancelled_recv_loses_no_message(loop):
    async def handler(conn):
        first = asyncio.ensure_future(conn.recv())
        await asyncio.sleep(0)
        conn.send(b"?")
        while not inside.has_untaken(conn):
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        conn.send(await conn.recv())

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address) as sock:
                assert await recv(sock, 1) == b"?"
                sock.sendall(b"here")
                assert await recv(sock, 4) == b"here"

    loop.run(main())


def test_recv_wakes_when_another_task_closes_the_connection(loop):
    async def main():
        done = []

        async def handler(conn):
            asyncio.get_running_loop().call_later(0.01, conn.close)
            with pytest.raises(pymux.ConnectionClosed):
                await conn.recv()
            done.append(conn)

        async with pymux.aio.serve(handler, LOCAL) as server:
            with util.connect(server.address):
                await until(lambda: done)

    loop.run(main())


def test_drain_waits_until_output_is_under_low_water(loop):
    queued = []

    async def handler(conn):
        await conn.drain()  # nothing to wait for
        conn.send(b"x" * 8_000_000)
        queued.append(conn.queued)
        await conn.drain()
        queued.append(conn.queued)

    async def main():
        limits = pymux.Limits(high_water=50_000, low_water=10_000)
        async with pymux.aio.serve(handler, LOCAL, limits=limits) as server:
            with util.connect(server.address) as sock:
                await until(lambda: queued)
                await asyncio.sleep(0.01)
                assert len(queued) == 1
                assert queued[0] > 50_000
                assert len(await recv(sock, 8_000_000)) == 8_000_000
                await until(lambda: len(queued) == 2)
        assert queued[1] <= 10_000

    loop.run(main())


def test_drain_raises_when_the_connection_is_lost(loop):
    raised = []

    async def handler(conn):
        conn.send(b"x" * 8_000_000)
        try:
            await conn.drain()
        except pymux.ConnectionClosed as error:
            raised.append(error.errno)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            sock = util.connect(server.address)
            await until(lambda: server.stats().bytes_out)
            util.reset(sock)
            await until(lambda: raised)
        assert raised == [errno.ECONNRESET]

    loop.run(main())


def test_messages_not_taken_pause_reading_and_all_of_them_arrive(loop):
    took = []

    async def handler(conn):
        await gate.wait()
        async for data in conn:
            took.append(data)
            if len(took) % 1000 == 0:
                await asyncio.sleep(0)

    async def main():
        nonlocal gate
        gate = asyncio.Event()
        limits = pymux.Limits(high_water=20_000, low_water=5_000)
        options = {"framing": LINES, "limits": limits}
        async with pymux.aio.serve(handler, LOCAL, **options) as server:
            data = b"".join(b"%060d\n" % k for k in range(50_000))
            client = asyncio.ensure_future(everything(server.address, data))
            await until(lambda: server.stats().messages_in > 100)
            before = -1
            while server.stats().messages_in != before:
                before = server.stats().messages_in
                await asyncio.sleep(0.05)
            assert before < 50_000
            gate.set()
            await client
        assert took == data.split(b"\n")[:-1]

    gate = None
    loop.run(main())


def test_recv_on_a_function_servers_connection_says_whose_it_is(loop):
    async def main():
        ends = util.Ends()
        async with pymux.aio.serve(ends, LOCAL) as server:
            with util.connect(server.address):
                await until(lambda: ends.open)
                with pytest.raises(RuntimeError, match="handler"):
                    await ends.open[0].recv()

    loop.run(main())


def test_the_mux_of_a_guest_is_not_to_be_harvested(loop):
    seen = []

    def handler(conn, data):
        try:
            conn.mux.harvest(0)
        except RuntimeError as error:
            seen.append(str(error))
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            assert await ask(server.address, b"x", 1) == b"x"
        assert "asyncio loop" in seen[0]

    loop.run(main())


# --- the end --------------------------------------------------------------------


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
            await asyncio.sleep(0.01)
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
            await asyncio.sleep(0.01)
            await server.stop(0)
            await first

    loop.run(main())


def test_a_cancelled_stop_goes_on(loop):
    async def handler(conn):
        await asyncio.sleep(60)

    async def main():
        server = await pymux.aio.serve(handler, LOCAL)
        with util.connect(server.address):
            await until(lambda: server.stats().connections)
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


# --- timeouts and turns --------------------------------------------------------


@pytest.mark.parametrize("what", [b"in time", None])
def test_what_came_while_the_loop_was_blocked_is_no_timeout(loop, what):
    seen = []

    async def handler(conn):
        await conn.recv()
        conn.send(b"ready")
        try:
            seen.append(await conn.recv(timeout=0.05))
        except TimeoutError:
            seen.append("timeout")

    async def main():
        async with pymux.aio.serve(handler, LOCAL, framing=LINES) as server:
            conn = await pymux.aio.connect(server.address, framing=LINES)
            conn.send(b"hello")
            assert await conn.recv() == b"ready"
            if what:
                conn.send(what)
            else:
                conn.send_eof()
            inside.submit(conn.mux)
            time.sleep(0.1)  # what a guest has to live with
            await until(lambda: seen)
            conn.close()

    loop.run(main())
    assert seen == [what]


def test_a_timeout_that_is_one_is_raised_in_time(loop):
    async def main():
        async with pymux.aio.serve(echo, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            for timeout in (0, 0.01):
                before = loop_time()
                with pytest.raises(TimeoutError):
                    await conn.recv(timeout=timeout)
                assert timeout - 0.002 <= loop_time() - before < 5
            conn.send(b"on")
            assert await conn.recv(timeout=10) == b"on"
            conn.close()

    def loop_time():
        return asyncio.get_running_loop().time()

    loop.run(main())


def test_handlers_of_a_timeouts_turn_do_not_run_in_its_context(loop):
    """The turn that looks for what came in time is nobody's either."""
    seen = []
    who = contextvars.ContextVar("who", default="nobody")

    def handler(conn, data):
        seen.append(who.get())
        return data

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            conn = await pymux.aio.connect(server.address)
            conn.send(b"x")
            await conn.recv()
            who.set("somebody")
            for _ in range(5):
                conn.send(b"x")
                with contextlib.suppress(TimeoutError):
                    await conn.recv(timeout=0)
                await asyncio.sleep(0.01)
            conn.close()

    loop.run(main())
    assert set(seen) == {"nobody"}


async def drains(conn):
    conn.send(b"tick")
    await conn.drain()


async def only_drains(conn):
    await conn.drain()


async def receives_in_vain(conn):
    with contextlib.suppress(TimeoutError):
        await conn.recv(timeout=0)


async def receives_behind_the_end(conn):
    with contextlib.suppress(pymux.ConnectionClosed):
        await conn.recv()


@pytest.mark.parametrize(
    "ask", [drains, only_drains, receives_in_vain, receives_behind_the_end]
)
def test_a_loop_of_awaits_does_not_block_the_loop(loop, ask):
    over = []

    async def handler(conn):
        if await conn.recv() != b"loop":
            conn.send(b"served")
            return
        if ask is receives_behind_the_end:
            assert await conn.recv() is None
        conn.send(b"looping")
        with contextlib.suppress(pymux.ConnectionClosed):
            while not over:
                await ask(conn)

    async def main():
        async with pymux.aio.serve(handler, LOCAL, drain_timeout=0) as server:
            sock = await asyncio.to_thread(util.connect, server.address)
            with sock:
                sock.sendall(b"loop")
                if ask is receives_behind_the_end:
                    sock.shutdown(socket.SHUT_WR)
                await asyncio.to_thread(util.recv_exactly, sock, 7)
                for _ in range(3):
                    assert await ask_(server.address, b"x") == b"served"
                over.append(True)

    async def ask_(address, data):
        return await asyncio.to_thread(util.exchange, address, data, 6)

    loop.run(main())


@pytest.mark.parametrize("burst", [1, 20_000])
def test_a_stream_to_a_peer_that_is_gone_is_told(loop, burst):
    ends = []

    async def handler(conn):
        await conn.recv()
        try:
            while True:
                for _ in range(burst):
                    conn.send(b"tick")
                await conn.drain()
        except pymux.ConnectionClosed as error:
            ends.append(error.errno)
            raise

    async def main():
        async with pymux.aio.serve(handler, LOCAL, drain_timeout=0) as server:
            sock = await asyncio.to_thread(util.connect, server.address)
            sock.sendall(b"stream")
            await asyncio.to_thread(util.recv_exactly, sock, 1000)
            util.reset(sock)
            await until(lambda: ends)

    loop.run(main())
    assert ends == [errno.ECONNRESET]


@pytest.mark.parametrize("what", ["recv", "drain"])
def test_who_goes_on_asking_a_connection_of_the_past_blocks_nobody(loop, what):
    kept = []

    async def handler(conn):
        kept.append(conn)

    async def main():
        async with pymux.aio.serve(handler, LOCAL) as server:
            await everything(server.address, b"")
            await until(lambda: server.stats().connections == 0)

            async def ask():
                while True:
                    with contextlib.suppress(pymux.ConnectionClosed):
                        await getattr(kept[0], what)()

            asking = asyncio.ensure_future(ask())
            for _ in range(5):
                await asyncio.sleep(0.001)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

    loop.run(main())
