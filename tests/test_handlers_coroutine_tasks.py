"""Coroutine handlers: the async generators they leave, and awaits that do not wait."""

import asyncio
import contextlib
import gc
import sys
import threading
import time
import warnings

import pytest

import pymux

from . import inside, util

LINES = pymux.Lines()
SOON = 5  # seconds, far under the patience of these tests' servers


# --- async generators ------------------------------------------------------------


@pytest.fixture
def complaints(monkeypatch):
    """What the interpreter could not raise anywhere."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: told.append(about))
    yield told
    util.collect()
    assert told == []


@pytest.mark.parametrize("cleanup", ["nothing", "sleep", "drain", "to_thread"])
@pytest.mark.parametrize("left", ["break", "dropped", "return"])
def test_an_async_generator_that_is_left_is_finished(
    backend, complaints, left, cleanup
):
    finished = []

    async def messages(conn):
        try:
            async for message in conn:
                yield message
        finally:
            if cleanup == "sleep":
                await pymux.sleep(0.001)
            elif cleanup == "drain":
                with contextlib.suppress(pymux.ConnectionClosed):  # after `return`
                    conn.send(b"bye")
                await conn.drain()
            elif cleanup == "to_thread":
                await pymux.to_thread(time.sleep, 0.001)
            finished.append(conn)

    async def handler(conn):
        generator = messages(conn)
        async for message in generator:
            conn.send(message)
            if left == "return":
                return
            break
        if left == "dropped":
            del generator
            gc.collect()
            await conn.recv()

    with (
        util.serving(handler, backend, framing=LINES) as server,
        util.connect(server.address) as sock,
    ):
        sock.sendall(b"x\n")
        assert util.recv_exactly(sock, 2) == b"x\n"
        util.wait_until(lambda: util.collect() or finished)
    assert len(finished) == 1


def test_the_others_are_served_while_a_generator_is_finished(backend, complaints):
    gate, finished = util.Gate(), []

    async def numbers():
        try:
            for k in range(3):
                yield k
        finally:
            await gate.wait()
            finished.append(True)

    async def handler(conn):
        data = await conn.recv()
        if data == b"leave":
            async for _ in numbers():
                break
            gc.collect()
        conn.send(data)

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"leave") == b"leave"
        assert util.everything(server.address, b"on") == b"on"
        assert not finished
        gate.open()
    assert finished == [True]  # stop has waited for it


def test_generators_that_somebody_still_holds_are_finished_at_the_stop(
    backend, complaints
):
    held, finished = [], []

    async def ticks():
        try:
            while True:
                await pymux.sleep(0)
                yield
        finally:
            await pymux.sleep(0.001)
            finished.append(True)

    async def handler(conn):
        generator = ticks()
        held.append(generator)
        await generator.__anext__()
        if await conn.recv():
            await pymux.sleep(3600)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as stays,
    ):
        stays.sendall(b"x")
        util.everything(server.address, b"")
        util.wait_until(lambda: len(held) == 2)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    assert finished == [True, True]


def test_what_a_generators_cleanup_raises_is_reported_once(backend, complaints):
    told = []

    async def numbers():
        try:
            yield 1
        finally:
            await pymux.sleep(0)
            raise LookupError("of the generator")

    async def handler(conn):
        async for _ in numbers():
            break
        gc.collect()
        conn.send(await conn.recv())

    with util.serving(
        handler, backend, on_error=lambda *args: told.append(args)
    ) as server:
        assert util.everything(server.address, b"x") == b"x"
        util.wait_until(lambda: told)
    ((conn, error),) = told
    assert conn is None
    assert type(error) is LookupError


def test_the_hooks_of_a_thread_are_as_before_when_the_server_has_ended(backend):
    def first(generator):
        pass

    seen = []

    async def handler(conn):
        seen.append(sys.get_asyncgen_hooks())

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend)

    def client():
        util.wait_until(listens)
        util.everything(server.address, b"")
        server.stop()

    def listens():
        with contextlib.suppress(RuntimeError):
            return server.address

    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(first, first)
    try:
        thread = threading.Thread(target=client)
        thread.start()
        server.run()
        thread.join()
        assert sys.get_asyncgen_hooks() == (first, first)
        assert seen[0].firstiter is not first
    finally:
        sys.set_asyncgen_hooks(*before)


# --- what was never awaited ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("drain", lambda conn: conn.drain()),
        ("recv", lambda conn: conn.recv()),
        ("sleep", lambda conn: pymux.sleep(1)),
        ("to_thread", lambda conn: pymux.to_thread(int)),
    ],
)
def test_a_forgotten_await_is_warned_of(backend, name, call):
    async def handler(conn):
        call(conn)
        gc.collect()
        conn.send(b"done")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with util.serving(handler, backend) as server:
            assert util.everything(server.address, b"") == b"done"
        util.collect()
    texts = [str(one.message) for one in caught if one.category is RuntimeWarning]
    (text,) = [text for text in texts if "never awaited" in text]
    assert name in text


@pytest.mark.parametrize("sent", ["by the coroutine", "by another one", "in asyncio"])
def test_what_was_sent_without_its_await_says_await(backend, sent):
    errors = []

    async def handler(conn):
        try:
            if sent == "by another one":
                conn.send(asyncio.sleep(0))
            else:
                conn.send(conn.recv())
        except TypeError as error:
            errors.append(str(error))

    async def main():
        async with pymux.aio.serve(handler, ("127.0.0.1", 0)) as server:
            await asyncio.to_thread(util.everything, server.address, b"x")

    if sent == "in asyncio":
        if util.NO_GUESTS:
            pytest.skip(util.WHY_NO_GUESTS)
        asyncio.run(main())
    else:
        with util.serving(handler, backend) as server:
            util.everything(server.address, b"x")
    util.collect()  # no warning says the same again
    (text,) = errors
    assert "cannot be sent: await it before" in text
    assert "conn.send(await conn.recv())" in text


def test_what_was_returned_without_its_await_ends_its_connection(backend):
    told = []
    with util.serving(
        lambda conn, data: conn.recv(),
        backend,
        on_error=lambda conn, error: told.append(type(error)),
    ) as server:
        assert util.everything(server.address, b"x") == b""
    util.collect()
    assert told == [TypeError]


# --- awaits that are satisfied at once -----------------------------------------------


async def ask_for_nothing(conn):
    await conn.drain()


async def ask_in_vain(conn):
    with contextlib.suppress(TimeoutError):
        await conn.recv(timeout=0)


async def ask_behind_the_end(conn):
    await conn.recv()


async def ask_asyncio(conn):
    class Foreign:
        def __await__(self):
            yield

    with contextlib.suppress(RuntimeError):
        await Foreign()


async def iterate_behind_the_end(conn):
    async for _ in conn:
        pass


@pytest.mark.parametrize(
    "ask",
    [
        ask_for_nothing,
        ask_in_vain,
        ask_behind_the_end,
        ask_asyncio,
        iterate_behind_the_end,
    ],
)
def test_a_loop_of_awaits_does_not_keep_the_others_from_being_served(backend, ask):
    over = []

    async def handler(conn):
        if await conn.recv() == b"loop":
            conn.send(b"looping")
            while not over:
                await ask(conn)
        else:
            conn.send(b"served")

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as loops,
    ):
        try:
            loops.sendall(b"loop")
            assert util.recv_exactly(loops, 7) == b"looping"
            loops.shutdown(2 if ask is ask_asyncio else 1)
            for _ in range(3):
                assert util.everything(server.address, b"x") == b"served"
        finally:
            over.append(True)


def test_where_an_interpreter_makes_no_such_coroutines_generators_do():
    def waits(value):
        return (yield value)

    with inside.suspending_by_generators():
        waits = inside.suspending(waits)

    async def outer():
        return await waits(1)

    coroutine = outer()
    assert coroutine.send(None) == 1
    with pytest.raises(StopIteration) as end:
        coroutine.send(2)
    assert end.value.value == 2
