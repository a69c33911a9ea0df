"""Numbers that are no int and no float are taken wherever a number is."""

import asyncio
import dataclasses
import decimal
import enum
import fractions
import socket
import time

import pytest

import pymux

from . import util

HERE = ("127.0.0.1", 0)


class Whole:
    """As numpy's integers: no int, one by __index__."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    def __float__(self):
        return float(self.value)


class Real:
    """As numpy's reals: no float, one by __float__; without arithmetic."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return float(self.value)


class bool_:
    """As numpy's bool, by its name too: no bool, and a number by its methods."""

    def __float__(self):
        return 1.0

    def __index__(self):
        return 1


class Level(enum.IntEnum):
    ONE = 1


def echo(conn, data):
    return data


def sleep_in_coroutine(seconds):
    """`pymux.sleep` in a handler; what it raised."""
    raised = []

    async def handler(conn):
        try:
            await pymux.sleep(seconds)
        except Exception as error:
            raised.append(error)

    with util.serving(handler) as server:
        assert util.everything(server.address, b"") == b""
    if raised:
        raise raised[0]


def receive_in_coroutine(timeout):
    """`recv(timeout)` in a handler; what it raised, but a TimeoutError."""
    raised = []

    async def handler(conn):
        try:
            await conn.recv(timeout)
        except Exception as error:
            raised.append(error)

    with util.serving(handler) as server, util.connect(server.address) as sock:
        if type(timeout) is not str:
            sock.sendall(b"in time")
        assert util.recv_all(sock) == b""
    for error in raised:
        raise error


def harvest(**options):
    with pymux.Mux() as mux:
        mux.listen(HERE)
        with util.connect(mux.listen(HERE).address) as sock:
            sock.sendall(b"x")
            while not mux.harvest(5, **options):
                pass


def harvest_for(timeout):
    with pymux.Mux() as mux:
        mux.wakeup()
        mux.harvest(timeout)


def call_later(delay):
    with pymux.Mux() as mux:
        mux.call_later(delay, print)


def dial(**options):
    with pymux.Mux() as mux:
        mux.connect(mux.listen(HERE).address, **options)


def stop(drain_timeout):
    server = pymux.Server(echo, HERE).start()
    try:
        server.stop(drain_timeout)
    finally:
        server.stop()


def with_client(call):
    with util.serving(echo) as server, pymux.connect(server.address, timeout=5) as one:
        one.send(b"x")
        call(one)


def connect_client(timeout):
    with util.serving(echo) as server:
        pymux.connect(server.address, timeout=timeout).close()


def select(timeout):
    ours, theirs = socket.socketpair()
    with ours, theirs, pymux.Selector() as selector:
        theirs.send(b"x")
        selector.register(ours, 1)
        assert selector.select(timeout)


def in_loop(main):
    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    asyncio.run(main)


def connect_in_loop(timeout):
    async def main():
        async with pymux.aio.serve(echo, HERE, drain_timeout=timeout) as server:
            conn = await pymux.aio.connect(server.address, timeout=timeout)
            conn.close()

    in_loop(main())


def receive_in_loop(timeout):
    async def main():
        async with pymux.aio.serve(echo, HERE) as server:
            conn = await pymux.aio.connect(server.address)
            conn.send(b"x")
            try:
                await conn.recv(timeout)
            finally:
                conn.close()

    in_loop(main())


def stop_in_loop(timeout):
    async def main():
        server = await pymux.aio.serve(echo, HERE)
        try:
            await server.stop(timeout)
        finally:
            await server.stop()

    in_loop(main())


SECONDS = {
    "idle_timeout": lambda n: pymux.Limits(idle_timeout=n),
    "message_timeout": lambda n: pymux.Limits(message_timeout=n),
    "close_timeout": lambda n: pymux.Limits(close_timeout=n),
    "handshake_timeout": lambda n: pymux.Limits(handshake_timeout=n),
    "drain_timeout": lambda n: pymux.Server(echo, HERE, drain_timeout=n),
    "stop": stop,
    "max_delay": lambda n: pymux.batched(max_delay=n),
    "harvest(timeout)": harvest_for,
    "harvest(max_delay)": lambda n: harvest(max_delay=n, min_messages=1),
    "call_later": call_later,
    "connect(timeout)": lambda n: dial(timeout=n),
    "pymux.sleep": sleep_in_coroutine,
    "recv in a coroutine": receive_in_coroutine,
    "pymux.connect": connect_client,
    "Client.recv": lambda n: with_client(lambda client: client.recv(n)),
    "Client.send": lambda n: with_client(lambda client: client.send(b"y", n)),
    "Selector.select": select,
}
if not util.NO_GUESTS:
    SECONDS |= {
        "aio.connect": connect_in_loop,
        "aio recv": receive_in_loop,
        "aio stop": stop_in_loop,
    }
SPIN = {
    "Mux(spin)": lambda n: pymux.Mux(spin=n).close(),
    "Server(spin)": lambda n: pymux.Server(echo, HERE, spin=n),
}

WHOLE = {
    "port": (0, lambda n: harvest_listening(("127.0.0.1", n))),
    "dialled port": (9, lambda n: dial_at(("127.0.0.1", n))),
    "backlog": (9, lambda n: pymux.Server(echo, HERE, backlog=n)),
    "listen(backlog)": (9, lambda n: harvest_listening(HERE, backlog=n)),
    "mode": (0o600, lambda n: pymux.Server(echo, HERE, mode=n)),
    "listen(mode)": (0o600, lambda n: harvest_listening(HERE, mode=n)),
    "arena_size": (65536, lambda n: pymux.Mux(arena_size=n).close()),
    "max_messages": (64, lambda n: pymux.Mux(max_messages=n).close()),
    "min_messages": (1, lambda n: harvest(min_messages=n)),
    "batched": (2, lambda n: pymux.batched(min_messages=n)),
    "max_connections": (9, lambda n: pymux.Limits(max_connections=n)),
    "high_water": (65536, lambda n: pymux.Limits(high_water=n)),
    "low_water": (9, lambda n: pymux.Limits(low_water=n)),
    "max_output": (9, lambda n: pymux.Limits(max_output=n)),
    "max_handshakes": (9, lambda n: pymux.Limits(max_handshakes=n)),
    "keepalive": (9, lambda n: pymux.Limits(keepalive=(n, n, n))),
    "Lines": (9, lambda n: pymux.Lines(max_size=n)),
    "LengthPrefix(width)": (4, pymux.LengthPrefix),
    "LengthPrefix(max_size)": (9, lambda n: pymux.LengthPrefix(max_size=n)),
    "Fixed": (9, pymux.Fixed),
}


def harvest_listening(address, **options):
    with pymux.Mux() as mux:
        mux.listen(address, **options)
        mux.harvest(0)


def dial_at(address):
    with pymux.Mux() as mux:
        mux.connect(address)


@pytest.mark.parametrize(
    "value",
    [
        Whole(3),
        Real(2.5),
        Level.ONE,
        decimal.Decimal("1.5"),
        fractions.Fraction(3, 2),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("call", SECONDS.values(), ids=SECONDS)
def test_seconds_may_be_any_real_number(call, value):
    if call in (sleep_in_coroutine, stop_in_loop):
        value = type(value)(0) if not isinstance(value, Level) else decimal.Decimal(0)
    call(value)


@pytest.mark.parametrize("value", [Whole(0), Real(0.0), decimal.Decimal("0.00001")])
@pytest.mark.parametrize("call", SPIN.values(), ids=SPIN)
def test_a_time_to_spin_may_be_any_real_number(call, value):
    call(value)


@pytest.mark.parametrize("what", WHOLE)
def test_sizes_and_ports_may_be_any_whole_number(what):
    value, call = WHOLE[what]
    call(Whole(value))


OR_NONE = ["backlog", "listen(backlog)", "max_connections", "max_handshakes"]


@pytest.mark.parametrize("what", WHOLE)
def test_sizes_and_ports_are_no_reals(what):
    value, call = WHOLE[what]
    for wrong in (float(value), decimal.Decimal(value), Real(value), str(value), None):
        if wrong is None and what in OR_NONE:
            continue
        kind = TypeError
        if what == "LengthPrefix(width)" and isinstance(wrong, str):
            kind = ValueError  # the wrong choice, as "middle" is for the order
        with pytest.raises(kind):
            call(wrong)


@pytest.mark.parametrize(
    "wrong", [True, False, bool_()], ids=["True", "False", "numpy"]
)
@pytest.mark.parametrize("what", [*WHOLE, *SECONDS])
def test_no_bool_is_a_number(what, wrong):
    if what == "Selector.select":
        pytest.skip("as the standard library's, which takes it")
    call = WHOLE[what][1] if what in WHOLE else SECONDS[what]
    with pytest.raises(TypeError):
        call(wrong)


@pytest.mark.parametrize("wrong", ["1", b"1", bytearray(b"1"), [1], 1j], ids=repr)
@pytest.mark.parametrize("call", SECONDS.values(), ids=SECONDS)
def test_no_text_is_a_number_of_seconds(call, wrong):
    with pytest.raises(TypeError):
        call(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        10**400,
        10**5000,
        float("nan"),
        decimal.Decimal("nan"),
        decimal.Decimal("snan"),
        fractions.Fraction(10**400),
        Whole(10**400),
    ],
    ids=["huge", "huge without a repr", "nan", "Decimal", "snan", "Fraction", "Whole"],
)
@pytest.mark.parametrize("call", SECONDS.values(), ids=SECONDS)
def test_what_cannot_be_a_time_is_a_value_error(call, wrong):
    kinds = (ValueError, OverflowError) if call is select else ValueError
    with pytest.raises(kinds):
        call(wrong)


@pytest.mark.parametrize("what", WHOLE)
def test_whole_numbers_out_of_range_are_named(what):
    for wrong in (-1, Whole(-1), 10**30, 10**5000):
        if what in ("batched", "min_messages") and wrong in (10**30, 10**5000):
            continue
        with pytest.raises(ValueError, match=r"is (-1|10{30}|an int of \d+ bits)"):
            WHOLE[what][1](wrong)


def test_more_messages_than_there_can_be_are_taken():
    """A pause for `max_delay`, then."""
    for many in (2**32, 2**40):
        pymux.batched(min_messages=many)
        harvest(min_messages=many, max_delay=0.001)


def test_what_is_kept_is_plain_numbers():
    limits = pymux.Limits(
        max_connections=Whole(3),
        max_per_peer=Whole(2),
        high_water=Whole(7),
        low_water=Whole(5),
        max_output=Whole(9),
        idle_timeout=decimal.Decimal("0.5"),
        close_timeout=Real(2),
        keepalive=[Whole(1), Whole(2), Whole(3)],
        send_buffer=Whole(4),
        handshake_timeout=decimal.Decimal("0.5"),
        max_handshakes=Whole(6),
    )
    plain = pymux.Limits(
        max_connections=3,
        max_per_peer=2,
        high_water=7,
        low_water=5,
        max_output=9,
        idle_timeout=0.5,
        close_timeout=2.0,
        keepalive=(1, 2, 3),
        send_buffer=4,
        handshake_timeout=0.5,
        max_handshakes=6,
    )
    assert limits == plain
    assert hash(limits) == hash(plain)
    assert repr(limits) == repr(plain)
    for ours, theirs in (
        (pymux.Lines(max_size=Whole(3)), pymux.Lines(max_size=3)),
        (
            pymux.LengthPrefix(Whole(2), max_size=Whole(3)),
            pymux.LengthPrefix(2, "big", 3),
        ),
        (pymux.Fixed(Whole(3)), pymux.Fixed(3)),
    ):
        assert repr(ours) == repr(theirs)
        assert hash(ours) == hash(theirs)
        assert dataclasses.astuple(ours) == dataclasses.astuple(theirs)
    assert pymux.Limits(idle_timeout=60).idle_timeout == 60


def test_a_port_that_is_no_int_is_bound_and_shown_as_one(backend):
    port = util.free_port()
    with util.serving(echo, backend, ("127.0.0.1", Whole(port))) as server:
        assert server.address == ("127.0.0.1", port)
        assert util.everything(server.address, b"go") == b"go"


def test_a_time_that_is_no_float_lasts_as_long(mux):
    start = time.monotonic()
    mux.call_later(decimal.Decimal("0.03"), mux.wakeup)
    mux.harvest(fractions.Fraction(20))
    assert 0.03 <= time.monotonic() - start < 10
