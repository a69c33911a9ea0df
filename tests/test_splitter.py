"""`Splitter`: parsers in Python make the messages, of any type."""

import contextlib
import errno
import json
import threading

import pytest

import pymux
from pymux import Splitter

from . import util
from .util import harvest_until, pair, recv_exactly, serving


def words():
    """Words as str, after each space; "bad" is refused, so is half a word."""
    rest = b""

    def split(data):
        nonlocal rest
        if not data and rest:
            raise EOFError(f"the stream ended inside {rest!r}")
        *whole, rest = (rest + data).split(b" ")
        for word in whole:
            if word == b"bad":
                raise ValueError("a bad word")
            yield word.decode()

    return split


WORDS = Splitter(words, max_size=1000)


def test_messages_are_what_the_parser_makes(mux):
    conn, peer = pair(mux, WORDS)
    with peer:
        peer.sendall(b"some wor")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.messages == [(conn, "some")]
        peer.sendall(b"ds and more ")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 3)
        assert acc.payloads == ["words", "and", "more"]
        conn.abort()


def test_a_batch_keeps_its_rows_and_its_replies(mux):
    conn, peer = pair(mux, WORDS)
    with peer:
        peer.sendall(b"a b c ")
        while not (batch := mux.harvest(5)).messages:
            pass
        assert batch.messages == ["a", "b", "c"]
        assert batch.conns == [conn] * 3 and len(batch) == 3
        assert batch.ids.tolist() == [conn.id] * 3
        for column in ("data", "offsets"):
            with pytest.raises(TypeError, match="Splitter"):
                getattr(batch, column)
        batch.reply([message.upper().encode() for message in batch.messages])
        mux.harvest(0)
        assert recv_exactly(peer, 3) == b"ABC"
        conn.abort()


def test_a_batch_of_its_messages_is_answered_from_one_buffer(mux):
    _, peer = pair(mux, pymux.Splitter(lambda: bytes.split))
    with peer:
        peer.sendall(b"one two ")
        while not len(batch := mux.harvest(5)):
            pass
        batch.reply_data(b"12", [0, 1, 2])
        mux.harvest(0)
        assert recv_exactly(peer, 2) == b"12"


def test_each_connection_has_a_parser_of_its_own(mux):
    one, peer_of_one = pair(mux, WORDS)
    two, peer_of_two = pair(mux, WORDS)
    plain, peer_of_plain = pair(mux)  # and one has none
    with peer_of_one, peer_of_two, peer_of_plain:
        peer_of_one.sendall(b"fir")
        peer_of_two.sendall(b"seco")
        peer_of_plain.sendall(b"as it comes")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.messages == [(plain, b"as it comes")]
        peer_of_two.sendall(b"nd ")
        peer_of_one.sendall(b"st ")
        acc = harvest_until(mux, lambda acc: len(acc.messages) == 2)
        assert sorted(acc.messages, key=lambda row: row[1]) == [
            (one, "first"),
            (two, "second"),
        ]
        for conn in (one, two, plain):
            conn.abort()


def test_a_batch_without_such_rows_has_columns(mux):
    split, peer_of_split = pair(mux, WORDS)
    plain, peer_of_plain = pair(mux)
    with peer_of_split, peer_of_plain:
        peer_of_plain.sendall(b"bytes")
        while not (batch := mux.harvest(5)).messages:
            pass
        assert bytes(batch.data) == b"bytes"
        split.abort()
        plain.abort()


def echo(message):
    return message.encode() + b"\n"


@pytest.mark.parametrize("form", util.FORMS)
def test_each_form_of_handler_gets_the_objects(backend, form):
    sent = b"".join(b"word%d " % k for k in range(500))
    with serving(util.in_form(form, echo), backend, framing=WORDS) as server:
        got = util.exchange(server.address, sent, len(sent))
    assert got == sent.replace(b" ", b"\n")


def test_a_handler_in_an_asyncio_loop_gets_the_objects(loop):
    import asyncio

    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)

    async def handler(conn):
        async for message in conn:
            conn.send(echo(message))

    async def main():
        async with pymux.aio.serve(handler, ("127.0.0.1", 0), framing=WORDS) as server:
            sent = b"a bc def "
            got = await asyncio.to_thread(util.exchange, server.address, sent, 9)
            assert got == b"a\nbc\ndef\n"

    loop.run(main())


# -- what ends a connection ----------------------------------------------------


@pytest.mark.parametrize("form", ["function", "coroutine", "batch"])
def test_what_the_parser_raises_ends_the_connection_behind_its_answers(backend, form):
    ends = []
    done = threading.Event()

    class Handler:
        def received(self, conn, message):
            return echo(message)

        def closed(self, conn, error):
            ends.append(error)
            done.set()

    handler = Handler() if form == "function" else util.in_form(form, echo)
    with serving(handler, backend, framing=WORDS) as server:
        assert util.everything(server.address, b"one two bad three ") == b"one\ntwo\n"
        if form == "function":
            assert done.wait(10)
            assert ends[0].errno == errno.EPROTO
            assert isinstance(ends[0].__cause__, ValueError)


def test_the_reason_is_told_by_the_batch(mux):
    conn, peer = pair(mux, WORDS)
    with peer:
        peer.sendall(b"one bad")
        acc = harvest_until(mux, lambda acc: acc.messages)
        assert acc.payloads == ["one"]
        peer.sendall(b" ")
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        ((gone, error),) = acc.closed
        assert gone is conn and error.errno == errno.EPROTO
        assert str(error.__cause__) == "a bad word"


def test_bytes_without_a_message_are_bounded(mux):
    _conn, peer = pair(mux, WORDS)
    with peer:
        peer.sendall(b"x" * 900 + b" ")
        harvest_until(mux, lambda acc: acc.messages)
        peer.sendall(b"x" * 1001)
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.messages == []
        assert acc.closed[0][1].errno == errno.EMSGSIZE
        assert "1000" in str(acc.closed[0][1].__cause__)


def test_an_end_inside_a_message_is_an_error_if_the_parser_says_so(mux):
    for half_open in (False, True):
        conn, peer = pair(mux, WORDS, half_open=half_open)
        with peer:
            peer.sendall(b"whole hal")
            peer.shutdown(1)
            acc = harvest_until(mux, lambda acc: acc.closed)
            assert acc.payloads == ["whole"]
            assert acc.closed == [(conn, acc.closed[0][1])]
            assert acc.closed[0][1].errno == errno.EPROTO
            assert isinstance(acc.closed[0][1].__cause__, EOFError)


def test_an_end_between_messages_is_an_ordinary_one(mux):
    conn, peer = pair(mux, WORDS)
    with peer:
        peer.sendall(b"whole ")
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.payloads == ["whole"]
        assert acc.closed == [(conn, None)]


def test_what_the_parser_makes_of_the_end_is_a_message(backend):
    def last_too():
        rest = b""

        def split(data):
            nonlocal rest
            if not data:
                return [rest]
            rest += data
            return ()

        return split

    async def handler(conn):
        async for message in conn:
            conn.send(message.upper())

    with serving(handler, backend, framing=Splitter(last_too)) as server:
        assert util.everything(server.address, b"all of it") == b"ALL OF IT"


def test_a_guest_is_told_that_a_connection_is_to_be_ended(mux):
    """Nothing more arrives: only `next_timeout` can tell."""

    def never(data):
        raise ValueError("no")

    _conn, peer = pair(mux, Splitter(lambda: never))
    with peer:
        peer.sendall(b"one")
        batch = mux.harvest(10)
        assert not batch.closed and mux.next_timeout() == 0
        while mux.next_timeout() == 0:
            mux.harvest(0)
        assert peer.recv(1) == b""


def test_a_parser_s_error_ends_the_connection_in_an_asyncio_loop(loop):
    import asyncio

    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)

    def never(data):
        raise ValueError("no")

    def handler(conn, message):
        pass

    async def main():
        splitter = Splitter(lambda: never)
        async with pymux.aio.serve(
            handler, ("127.0.0.1", 0), framing=splitter
        ) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"one")
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    loop.run(main())


def test_our_own_close_asks_the_parser_nothing(mux):
    conn, peer = pair(mux, WORDS)
    with peer:
        peer.sendall(b"one hal")
        harvest_until(mux, lambda acc: acc.messages)
        conn.close()
        mux.harvest(0)
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.closed == [(conn, None)]


def test_a_factory_that_raises_ends_the_connection(mux):
    def none_today():
        raise LookupError("no parser")

    _conn, peer = pair(mux, Splitter(none_today))
    with peer:
        peer.sendall(b"hello")
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.closed[0][1].errno == errno.EPROTO
        assert str(acc.closed[0][1].__cause__) == "no parser"


def test_none_is_no_message(mux):
    _conn, peer = pair(mux, Splitter(lambda: lambda data: [None]))
    with peer:
        peer.sendall(b"hello")
        peer.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert isinstance(acc.closed[0][1].__cause__, TypeError)


# -- memory --------------------------------------------------------------------


def test_messages_that_a_coroutine_does_not_take_pause_reading(backend):
    go_on = threading.Event()
    taken = []

    async def handler(conn):
        await conn.recv()
        while not go_on.is_set():
            await pymux.sleep(0.01)
        async for message in conn:
            taken.append(message)
        conn.send(b"done")

    def in_boxes(data):
        return [{"bytes": data[k : k + 1000]} for k in range(0, len(data), 1000)]

    boxes = Splitter(lambda: in_boxes)
    with (
        serving(handler, backend, framing=boxes) as server,
        util.connect(server.address) as peer,
    ):
        peer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:  # it takes no more at some time
                peer.sendall(b"x" * 65536)
        sent = server.stats().bytes_in
        assert sent <= 4 * 262144
        go_on.set()
        peer.shutdown(1)
        peer.settimeout(20)
        assert peer.recv(10) == b"done"
        assert len(taken) > 100


def test_a_coroutine_can_switch_to_a_parser_and_back(backend):
    class Word:  # it has no length
        def __init__(self, data):
            self.data = data

    def split(data):
        return [Word(word) for word in data.split()]

    async def handler(conn):
        while (line := await conn.recv()) is not None:
            assert line == b"words"
            conn.set_framing(Splitter(lambda: split))
            for _ in range(3):
                word = await conn.recv()
                await pymux.sleep(0)  # the others are kept meanwhile
                conn.send(word.data.upper() + b" ")
            conn.set_framing(pymux.Lines())

    with (
        serving(handler, backend, framing=pymux.Lines()) as server,
        util.connect(server.address) as peer,
    ):
        for _ in range(2):
            peer.sendall(b"words\none two three ")
            assert recv_exactly(peer, 14) == b"ONE TWO THREE "


# -- interruptions -------------------------------------------------------------


def test_no_bytes_are_fed_twice_where_a_signal_s_handler_raises(mux):
    fed = []
    strike = [True]

    def counting():
        def split(data):
            fed.append(bytes(data))
            if strike and data == b"second":
                strike.clear()
                raise KeyboardInterrupt
            return [data]

        return split

    framing = Splitter(counting)
    one, peer_of_one = pair(mux, framing)
    two, peer_of_two = pair(mux, framing)
    with peer_of_one, peer_of_two:
        peer_of_one.sendall(b"first")
        peer_of_two.sendall(b"second")
        got = []
        for _ in range(100):
            try:
                got += list(mux.harvest(0.1))
            except KeyboardInterrupt:
                continue
            if len(fed) >= 2 and got:
                break
        assert sorted(fed) == [b"first", b"second"]
        assert got == [(one, b"first")]
        peer_of_two.shutdown(1)
        acc = harvest_until(mux, lambda acc: acc.closed)
        assert acc.closed[0][0] is two  # its parser may have lost bytes
        assert isinstance(acc.closed[0][1].__cause__, KeyboardInterrupt)
        one.abort()


# -- values --------------------------------------------------------------------


def test_arguments_that_cannot_be_are_named():
    with pytest.raises(TypeError, match="factory is 5"):
        Splitter(5)
    with pytest.raises(ValueError, match="max_size is 0"):
        Splitter(words, 0)
    with pytest.raises(TypeError, match="blocking client"):
        pymux.connect(("127.0.0.1", 1), framing=WORDS)


# -- parsers that there are ------------------------------------------------------


def test_h11_makes_events_of_http(backend):
    h11 = pytest.importorskip("h11")

    def http():
        parser = h11.Connection(h11.SERVER)

        def split(data):
            parser.receive_data(data)
            while True:
                event = parser.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    return
                yield event
                if isinstance(event, h11.ConnectionClosed):
                    return

        return split

    def handler(conn, event):
        if isinstance(event, h11.Request):
            body = json.dumps([event.method.decode(), event.target.decode()]).encode()
            head = b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n" % len(body)
            return head + body
        return None

    with serving(handler, backend, framing=Splitter(http)) as server:
        request = b"GET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        with util.connect(server.address) as peer:
            for k in range(0, len(request), 7):
                peer.sendall(request[k : k + 7])
            got = b""
            while not got.endswith(b"]"):
                got += peer.recv(1000)
        assert got.endswith(b'["GET", "/here"]')


def test_hiredis_makes_replies_of_resp(backend):
    hiredis = pytest.importorskip("hiredis")

    def redis():
        reader = hiredis.Reader()

        def split(data):
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                yield reply

        return split

    def handler(conn, command):
        return b"+%s\r\n" % b" ".join(command)

    with serving(handler, backend, framing=Splitter(redis)) as server:
        sent = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n"
        assert util.exchange(server.address, sent, 15) == b"+GET k\r\n+PING\r\n"
