"""The record of an error says what has raised, and where it belongs."""

import asyncio
import os

import pytest

import pymux

from . import util
from .loops import until
from .test_log import connect_without_descriptors, pauses

ME = __name__
LINES = pymux.Lines()
HERE = ("127.0.0.1", 0)
guests = pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)


def fails(*args):
    raise LookupError("of the test")


class Hooked:
    """A handler that raises in what is named."""

    def __init__(self, where):
        self.where = where

    def started(self, mux):
        if self.where == "started":
            fails()
        if self.where == "timer":
            mux.call_later(0, fails)
        if self.where == "watch":
            mine, self.other = os.pipe()
            os.write(self.other, b"x")

            def ready(fileobj, events):
                watch.close()
                os.close(mine)
                os.close(self.other)
                fails()

            watch = mux.watch(mine, 1, ready)

    def stopping(self, mux):
        if self.where == "stopping":
            fails()

    def received(self, conn, data):
        return data


WORDS = {
    "started": f"started of the handler {ME}.Hooked raised",
    "stopping": f"stopping of the handler {ME}.Hooked raised",
    "timer": f"a timer of the server of the handler {ME}.Hooked raised",
    "watch": f"a watch of the server of the handler {ME}.Hooked raised",
    "call": f"a call by call_threadsafe of the server of the handler {ME}.Hooked"
    " raised",
}


@pytest.mark.skipif(os.name != "posix", reason="a pipe is no socket there")
@pytest.mark.parametrize("where", WORDS)
def test_an_error_without_a_connection_says_what_has_raised(backend, logged, where):
    with util.serving(Hooked(where), backend) as server:
        if where == "call":
            server.call_threadsafe(fails)
        if where != "stopping":
            util.wait_until(lambda: logged)
    (record,) = logged
    assert record.getMessage() == WORDS[where]
    assert (record.peer, record.handler) == (None, f"{ME}.Hooked")
    assert record.local == server.address


@pymux.batched
def failing_batch(batch):
    raise LookupError("of the test")


def test_an_error_of_a_batch_handler_names_the_handler_and_its_address(backend, logged):
    with util.serving(failing_batch, backend) as server:
        assert util.everything(server.address, b"x") == b""
    (record,) = logged
    assert record.getMessage() == f"the batch handler {ME}.failing_batch raised"
    assert (record.peer, record.local) == (None, server.address)


def test_an_error_that_a_later_is_given_says_so(backend, logged):
    @pymux.batched
    def handler(batch):
        batch.later().fail(LookupError("of the test"))

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"x") == b""
        util.wait_until(lambda: logged)
    (record,) = logged
    assert record.getMessage().startswith(f"a Later of the handler {ME}.")
    assert record.local == server.address


def test_an_error_of_a_batch_handler_at_two_addresses_names_both(backend, logged):
    def echo(conn, data):
        return data

    places = [HERE, HERE, pymux.Endpoint(HERE, handler=echo)]
    with util.serving(failing_batch, backend, places) as server:
        assert util.everything(server.addresses[1], b"x") == b""
    (record,) = logged
    assert record.local == server.addresses[:2]


def test_an_error_in_the_cleanup_of_a_generator_says_so(backend, logged):
    async def rows():
        try:
            while True:
                yield 1
        finally:
            fails()

    async def handler(conn):
        async for _ in rows():
            break
        util.collect()
        await conn.recv()

    with util.serving(handler, backend) as server, util.connect(server.address):
        util.wait_until(lambda: logged)
    (record,) = logged
    text = record.getMessage()
    assert text.startswith(f"the cleanup of a generator of the handler {ME}.")


def test_an_on_error_that_raises_is_named_with_the_connection(backend, logged):
    with (
        util.serving(fails_at_once, backend, on_error=fails) as server,
        util.connect(server.address) as sock,
    ):
        peer = sock.getsockname()
        sock.sendall(b"x")
        assert util.recv_all(sock) == b""
    (record,) = logged
    text = record.getMessage()
    assert text.startswith(f"on_error of the handler {ME}.fails_at_once, for <Conn")
    assert (record.peer, record.local) == (peer, server.address)


def fails_at_once(conn, data):
    raise ValueError(data)


@guests
@pytest.mark.parametrize("where", ["started", "timer"])
def test_a_loop_hears_what_has_raised_beside_a_coroutine_handler(where):
    async def handler(conn):
        await conn.recv()

    hooked = Hooked(where)
    handler.started = hooked.started
    told = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, about: told.append(about))
        async with pymux.aio.serve(handler, HERE):
            await until(lambda: told)

    asyncio.run(main())
    (about,) = told
    word = {"started": "started of the handler", "timer": "a timer of the server"}
    assert about["message"].startswith(word[where])
    assert about["message"].endswith("raised")


# --- what a handler returns -----------------------------------------------------


async def forgotten():
    """A coroutine that nobody awaits."""


RETURNED = {
    "str": (lambda: "abc", "'abc': a str cannot be sent; encode"),
    "int": (lambda: 5, "5: an object of type int cannot .*or None"),
    "bool": (lambda: True, "True: an object of type bool cannot"),
    "list": (lambda: [b"a"], r"\[b'a'\]: an object of type list cannot"),
    "coroutine": (lambda: forgotten(), "a coroutine: .*async def handler"),
}


@pytest.mark.parametrize("kind", RETURNED)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("form", ["function", "object"])
def test_what_was_returned_and_cannot_be_sent_is_named(backend, form, rows, kind):
    make, text = RETURNED[kind]
    told = []

    class Handler:
        def received(self, conn, data):
            return make()

    handler = Handler() if form == "object" else Handler().received
    with util.serving(
        handler,
        backend,
        framing=LINES,
        on_error=lambda conn, error: told.append(error),
    ) as server:
        assert util.everything(server.address, b"x\n" * rows) == b""
    (error,) = told
    assert isinstance(error, TypeError)
    with pytest.raises(TypeError, match=rf"Handler\.received returned {text}"):
        raise error


def test_what_was_sent_and_cannot_be_is_an_object_of_a_type(mux):
    conn, peer = util.pair(mux)
    with peer, pytest.raises(TypeError, match="object of type int cannot be sent"):
        conn.send(5)


# --- shortage -------------------------------------------------------------------


def test_a_shortage_names_the_addresses_that_do_not_accept(backend, logged):
    with util.serving(Hooked(""), backend, [HERE, HERE]) as server:
        connect_without_descriptors(server.address, lambda: pauses(logged))
        one, other = ("{}:{}".format(*address) for address in server.addresses)
        (record,) = pauses(logged)
        assert record.local == server.addresses
    text = record.getMessage()
    assert text.startswith(f"accepting pauses at {one}, {other}, peers wait")
    assert "(the first time)" in text or "times so far)" in text
