"""The hot pieces, each by itself: `pytest bench`."""

import socket

import pytest

import pymux

LINE = b"x" * 63 + b"\n"
COUNTS = (1, 100, 4096)
FRAMINGS = {
    "raw": (pymux.Raw(), LINE),
    "lines": (pymux.Lines(), LINE),
    "crlf": (pymux.Lines(b"\r\n"), b"x" * 62 + b"\r\n"),
    "length4": (pymux.LengthPrefix(), (60).to_bytes(4, "big") + b"x" * 60),
    "fixed": (pymux.Fixed(64), LINE),
}


def rounds(count):
    """Enough for a median, few enough to be quick."""
    return 200 if count <= 100 else 30


def spread(count):
    """Connections and messages on each: up to 64 connections."""
    conns = next(c for c in (64, 50, 1) if count % c == 0)
    return conns, count // conns


def test_empty_harvest(benchmark, pair):
    mux = pair().mux
    benchmark(mux.harvest, 0)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("read", ["nothing", "data", "messages"])
def test_harvest(benchmark, pair, count, read):
    """Harvesting, and then looking at no column, at the bytes, at the list."""
    conns, each = spread(count)
    both = pair(conns, pymux.Lines())

    def harvest():
        batch = both.take(count)
        if read == "data":
            bytes(batch.data)
        elif read == "messages":
            _ = batch.messages

    benchmark.pedantic(
        harvest, setup=lambda: both.feed(LINE * each), rounds=rounds(count)
    )


@pytest.mark.parametrize("name", FRAMINGS)
def test_framing_in(benchmark, pair, name):
    framing, frame = FRAMINGS[name]
    both = pair(50, framing)
    count = 50 if name == "raw" else 1000

    def harvest():
        _ = both.take(count).messages

    benchmark.pedantic(
        harvest, setup=lambda: both.feed(frame * (1000 // 50)), rounds=100
    )


@pytest.mark.parametrize("name", FRAMINGS)
def test_framing_out(benchmark, pair, name):
    """Replies to 1,000 messages, framed and handed to the kernel."""
    framing, frame = FRAMINGS[name]
    both = pair(50, framing)
    count = 50 if name == "raw" else 1000

    def setup():
        both.drain()
        both.feed(frame * (1000 // 50))
        batch = both.take(count)
        return (batch, batch.messages), {}

    def reply(batch, messages):
        batch.reply(messages)
        both.mux.harvest(0)

    benchmark.pedantic(reply, setup=setup, rounds=100)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("how", ["reply", "reply_data"])
def test_reply(benchmark, pair, count, how):
    """The call alone; what it queues is sent in the setup of the next round."""
    conns, each = spread(count)
    both = pair(conns, pymux.Lines())

    def setup():
        both.drain()
        both.feed(LINE * each)
        batch = both.mux.harvest(5)
        while len(batch) < count:  # one batch is wanted: what came is let go
            both.feed(LINE * each)
            batch = both.mux.harvest(5)
        what = batch.messages if how == "reply" else bytes(batch.data)
        return (getattr(batch, how), what), {}

    benchmark.pedantic(lambda call, what: call(what), setup=setup, rounds=rounds(count))


def test_send(benchmark, pair):
    """1,000 calls of conn.send, queued and not flushed."""
    both = pair(10)
    sends = [conn.send for conn in both.conns]

    def send():
        for _ in range(100):
            for one in sends:
                one(LINE)

    benchmark.pedantic(send, setup=both.drain, rounds=100)


def test_send_many(benchmark, pair):
    """One message to 1,000 connections, handed to the kernel."""
    both = pair(1000)

    def send():
        both.mux.send_many(both.conns, LINE)
        both.mux.harvest(0)

    benchmark.pedantic(send, setup=both.drain, rounds=30)


def function(conn, data):
    return data.upper()


async def coroutine(conn):
    async for data in conn:
        conn.send(data.upper())


@pymux.batched
def batch_list(batch):
    batch.reply([message.upper() for message in batch.messages])


@pymux.batched
def batch_data(batch):
    batch.reply_data(bytes(batch.data).upper())


class Object:
    def received(self, conn, data):
        return data.upper()


FORMS = {
    "function": function,
    "coroutine": coroutine,
    "batch_list": batch_list,
    "batch_data": batch_data,
    "object": Object(),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("form", FORMS)
def test_handler(benchmark, form, count):
    """Messages through a server's thread and back, over one connection."""
    data = LINE * count
    answer = bytearray(len(data))
    where = ("127.0.0.1", 0)
    with (
        pymux.Server(FORMS[form], where, framing=pymux.Lines()) as server,
        socket.create_connection(server.address) as peer,
    ):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def round_trip():
            peer.sendall(data)
            view = memoryview(answer)
            while view:
                view = view[peer.recv_into(view) :]

        benchmark.pedantic(round_trip, rounds=rounds(count), warmup_rounds=5)
    assert bytes(answer) == data.upper()
