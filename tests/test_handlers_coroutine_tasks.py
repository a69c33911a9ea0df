"""Coroutine handlers as tasks: contexts, async generators, cleanup, warnings."""

import contextlib
import contextvars
import decimal
import gc
import sys
import threading
import time
import warnings

import pytest

import pymux
from tests import inside, util

LINES = pymux.Lines()
SOON = 5  # seconds, far under the patience of these tests' servers
user = contextvars.ContextVar("user", default=b"nobody")


# --- contexts -----------------------------------------------------------------


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


# --- cleanup at the stop ----------------------------------------------------------


async def patient(conn, wait):
    """Waits in the named way for what does not come."""
    if wait == "sleep":
        await pymux.sleep(3600)
    elif wait == "to_thread":
        await pymux.to_thread(conn.state.wait, 10)
    elif wait == "recv":
        conn.pause()
        await conn.recv()
    else:
        conn.send(bytes(16 << 20))
        await conn.drain()


@pytest.mark.parametrize("wait", ["sleep", "to_thread", "recv", "drain"])
@pytest.mark.parametrize("cleanup", ["drain", "sleep", "to_thread", "send", "turns"])
def test_cleanup_that_awaits_runs_when_stop_is_out_of_time(backend, wait, cleanup):
    cleaned, raised = [], []
    release = threading.Event()

    async def handler(conn):
        conn.state = release
        try:
            await patient(conn, wait)
        except pymux.ConnectionClosed as error:
            raised.append(error)
            raise
        finally:
            with contextlib.suppress(pymux.ConnectionClosed):
                if cleanup == "drain":
                    await conn.drain()
                elif cleanup == "sleep":
                    await pymux.sleep(0.001)
                elif cleanup == "to_thread":
                    await pymux.to_thread(time.sleep, 0.001)
                elif cleanup == "send":
                    conn.send(b"bye")
                else:
                    for _ in range(5):
                        await pymux.sleep(0)
            cleaned.append(True)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address) as first,
        util.connect(server.address) as second,
    ):
        util.wait_until(lambda: server.stats().connections == 2)
        for sock in (first, second):
            sock.sendall(b"not read")
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    release.set()
    assert cleaned == [True, True]
    assert len(raised) == 2
    assert all(error.errno for error in raised)


def test_cleanup_of_a_coroutine_that_outlives_its_connection_runs_too(backend):
    cleaned = []

    async def handler(conn):
        with contextlib.suppress(pymux.ConnectionClosed):
            await conn.recv()
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.sleep(0.001)
            cleaned.append(True)

    with util.serving(handler, backend) as server:
        util.reset(util.connect(server.address))
        util.wait_until(lambda: server.stats().closed == 1)
        server.stop(0.05)
    assert cleaned == [True]


def test_cleanup_that_does_not_end_holds_up_no_stop(backend):
    cleaned = []

    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            try:
                await pymux.sleep(3600)
            finally:
                cleaned.append(True)

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    assert cleaned == [True]


def test_a_coroutine_that_will_not_end_is_told_of_once(backend, logged):
    async def handler(conn):
        while not gone:
            with contextlib.suppress(BaseException):
                await pymux.sleep(3600)

    gone = []
    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 1)
        before = time.monotonic()
        server.stop(0.05)
        assert time.monotonic() - before < SOON
    gone.append(True)
    util.collect()
    assert [record.exc_info[0] for record in logged] == [RuntimeError]


def test_cleanup_runs_when_another_handler_ends_the_server(backend, logged):
    cleaned = []

    async def handler(conn):
        try:
            if await conn.recv() == b"leave":
                raise SystemExit
        finally:
            conn.send(b"bye")
            await conn.drain()
            await pymux.sleep(0.001)
            cleaned.append(True)

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address) as waits:
        util.wait_until(lambda: server.stats().connections == 1)
        with util.connect(server.address) as sock:
            sock.sendall(b"leave")
            assert util.recv_all(waits) == b"bye"
        with pytest.raises(SystemExit):
            server.stop()
    assert cleaned == [True, True]
    assert [record.levelname for record in logged] == ["CRITICAL"]


def test_cleanup_runs_when_a_handler_closes_the_mux(backend, logged):
    cleaned = []

    async def handler(conn):
        try:
            await conn.recv()
            conn.mux.close()
            await pymux.sleep(0)
        finally:
            cleaned.append(True)

    with (
        util.serving(handler, backend) as server,
        util.connect(server.address),
        util.connect(server.address),
    ):
        util.wait_until(lambda: server.stats().connections == 2)
        with util.connect(server.address) as sock:
            sock.sendall(b"x")
            util.until_end(sock)
        server.stop()
    assert cleaned == [True, True, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_cleanup_raises_at_the_stop_leaves_when_all_have_cleaned_up(
    backend, error, logged
):
    cleaned = []

    async def handler(conn):
        try:
            await pymux.sleep(3600)
        finally:
            await pymux.sleep(0)
            cleaned.append(True)
            raise error

    server = pymux.Server(handler, ("127.0.0.1", 0), backend=backend).start()
    with util.connect(server.address), util.connect(server.address):
        util.wait_until(lambda: server.stats().connections == 2)
        with pytest.raises(error):
            server.stop(0.05)
    assert cleaned == [True, True]
    assert [record.levelname for record in logged] == ["CRITICAL"]


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
