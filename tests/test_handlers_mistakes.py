"""Mistakes in handlers that would stay silent: another number of arguments, a name
that is nearly ours, an answer that is returned where nobody sends it."""

import asyncio
import errno
import functools
import inspect
import socket
from unittest import mock

import pytest

import pymux

from . import util
from .loops import everything

LINES = pymux.Lines()
LOCAL = ("127.0.0.1", 0)


def with_methods(**methods):
    """An object of a class H with these methods."""
    return type("H", (), methods)()


def received(self, conn, data):
    """A method that fits."""


# --- how many arguments ----------------------------------------------------------

MISFITS = [
    (lambda conn: None, r"takes \(conn\), .*handler\(conn, data\)"),
    (lambda: None, r"takes \(\), .*handler\(conn, data\)"),
    (lambda conn, data, more: None, r"takes \(conn, data, more\)"),
    (lambda conn, data, *, more: None, r"takes \(conn, data, \*, more\)"),
    (functools.partial(lambda conn, data: None, 1), r"takes \(data\)"),
    (str.upper, r"str\.upper takes \(self, /\)"),
    (pymux.batched(lambda conn, data: None), r"\(conn, data\), .*handler\(batch\)"),
    (pymux.batched(lambda: None), r"takes \(\), .*handler\(batch\)"),
    (with_methods(opened=lambda self: None), r"H\.opened takes \(\), .*\(conn\)"),
    (
        with_methods(received=lambda self, data: None),
        r"H\.received takes \(data\), .*received\(conn, data\)",
    ),
    (
        with_methods(received=pymux.batched(lambda self, conn, data: None)),
        r"H\.received takes \(conn, data\), .*received\(batch\)",
    ),
    (with_methods(drained=lambda self, conn, n: None), r"H\.drained takes \(conn, n\)"),
    (with_methods(closed=lambda self, conn: None), r"closed\(conn, error\)"),
]


@pytest.mark.parametrize("handler, text", MISFITS)
def test_a_handler_of_other_arguments_is_a_type_error_that_names_ours(handler, text):
    with pytest.raises(TypeError, match=text):
        pymux.Server(handler, LOCAL)


def test_a_coroutine_handler_of_other_arguments_is_a_type_error_too():
    async def handler(conn, data):
        return None

    with pytest.raises(TypeError, match=r"takes \(conn, data\), .*handler\(conn\)"):
        pymux.Server(handler, LOCAL)


def misfit(conn):
    """Neither a function for messages nor a coroutine function."""


async def in_aio():
    pymux.aio.serve(misfit, LOCAL)


def adopted(mux):
    one, other = socket.socketpair()
    with one, other:
        mux.adopt(one, handler=misfit)


CALLS = {
    "Server": lambda mux: pymux.Server(misfit, LOCAL),
    "serve": lambda mux: pymux.serve(misfit, LOCAL),
    "Endpoint": lambda mux: pymux.Server(None, pymux.Endpoint(LOCAL, handler=misfit)),
    "aio.serve": lambda mux: asyncio.run(in_aio()),
    "listen": lambda mux: mux.listen(LOCAL, handler=misfit),
    "listen, Endpoint": lambda mux: mux.listen(pymux.Endpoint(LOCAL, handler=misfit)),
    "connect": lambda mux: mux.connect(("127.0.0.1", 9), handler=misfit),
    "adopt": adopted,
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_that_takes_a_handler_refuses_one_that_cannot_fit(mux, call):
    with pytest.raises(TypeError, match=r"takes \(conn\)"):
        CALLS[call](mux)
    assert (mux.stats().listeners, mux.stats().connections) == (0, 0)


@pytest.mark.parametrize(
    "handler",
    [
        print,
        lambda *args: None,
        lambda conn, *rest, more=1: None,
        lambda conn, data, more=None, **options: None,
        functools.partial(lambda prefix, conn, data: None, b"> "),
        dict.fromkeys,
        max,
        pymux.batched(lambda batch, more=None: None),
        pymux.batched([].append),
        with_methods(opened=staticmethod(lambda conn: None)),
        with_methods(received=classmethod(lambda cls, conn, data: None)),
        with_methods(closed=lambda self, *args: None),
    ],
)
def test_a_handler_that_can_take_our_arguments_is_taken(handler):
    assert pymux.Server(handler, LOCAL)


def test_a_decorator_may_take_other_arguments_than_what_it_wraps(backend):
    def with_a_word(fn):
        @functools.wraps(fn)
        def call(conn, data):
            return fn(b"> ", conn, data)

        return call

    @with_a_word
    def handler(word, conn, data):
        return word + data

    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"hello") == b"> hello"


def test_a_callable_that_tells_no_parameters_is_taken():
    class Told:
        @property
        def __signature__(self):
            raise ValueError("no signature")

        def __call__(self, conn, data):
            return data

    with pytest.raises(ValueError):
        inspect.signature(Told())
    assert pymux.Server(Told(), LOCAL)


@pytest.mark.parametrize("wrap", [lambda fn: fn, functools.partial])
@pytest.mark.parametrize("method", [bytes.split, dict.get])
def test_a_method_that_is_bound_to_no_object_is_a_type_error(method, wrap):
    with pytest.raises(
        TypeError, match=r"method of (bytes|dict) objects.*handler\(conn"
    ):
        pymux.Server(wrap(method), LOCAL)


def test_an_object_that_has_every_attribute_is_taken(backend):
    handler = mock.Mock()
    handler.received.side_effect = lambda conn, data: conn.send(data)
    handler.received.return_value = None
    with util.serving(handler, backend, framing=LINES) as server:
        with util.connect(server.address) as client:
            client.sendall(b"hello\n")
            assert util.recv_exactly(client, 6) == b"hello\n"
            handler.started.assert_called_once()
        util.wait_until(lambda: handler.closed.called)
    handler.stopping.assert_called_once()


def test_annotations_may_name_what_only_a_type_checker_knows():
    def handler(conn: "Unknown", data: "Unknown"):  # noqa: F821
        return data

    assert pymux.Server(handler, LOCAL)


def test_an_on_error_of_other_arguments_is_a_type_error_that_names_ours():
    with pytest.raises(TypeError, match=r"on_error takes \(error\), .*\(conn, error\)"):
        pymux.Server(lambda conn, data: data, LOCAL, on_error=lambda error: None)


# --- names that are nearly ours --------------------------------------------------


def of_one(self, conn):
    """A method of one argument."""


def of_two(self, conn, data):
    """A method of two arguments."""


ALIKE = [
    ("recieved", of_two, "received"),
    ("recived", lambda self, x, y: None, "received"),
    ("Received", of_two, "received"),
    ("receievd", of_two, "received"),
    ("openned", of_one, "opened"),
    ("opend", of_one, "opened"),
    ("draned", of_one, "drained"),
    ("bloked", of_one, "blocked"),
    ("pause_writing", of_one, "blocked"),
    ("startd", lambda self, mux: None, "started"),
    ("stoping", lambda self, m: None, "stopping"),
    ("clsoed", of_two, "closed"),
    ("clossed", of_two, "closed"),
    ("on_start", lambda self, mux: None, "started"),
    ("onStarted", lambda self, m: None, "started"),
    ("start", lambda self, mux: None, "started"),
    ("startup", lambda self, mux: None, "started"),
    ("on_stop", lambda self, mux: None, "stopping"),
    ("stop", lambda self, mux: None, "stopping"),
    ("stopped", lambda self, server: None, "stopping"),
    ("shutdown", lambda self, mux: None, "stopping"),
    ("connected", of_one, "opened"),
    ("on_open", of_one, "opened"),
    ("onOpen", of_one, "opened"),
    ("on_connect", lambda self, ws: None, "opened"),
    ("on_message", of_two, "received"),
    ("on_close", of_one, "closed"),
    ("on_close", of_two, "closed"),
    ("open", of_one, "opened"),
    ("close", of_two, "closed"),
    ("message", of_two, "received"),
    ("receive", lambda self, client, data: None, "received"),
    ("connection_made", lambda self, transport: None, "opened"),
    ("connectionLost", lambda self, reason: None, "closed"),
    ("data_received", lambda self, data: None, "received"),
]


@pytest.mark.parametrize("name, method, ours", ALIKE)
def test_a_method_that_looks_like_ours_is_a_type_error_that_names_both(
    name, method, ours
):
    other = "drained" if ours != "drained" else "opened"
    handler = with_methods(**{name: method, other: of_one})
    with pytest.raises(TypeError, match=rf"H\.{name} looks like {ours}\("):
        pymux.Server(handler, LOCAL)


@pytest.mark.parametrize("name, method, ours", ALIKE)
def test_a_method_may_have_any_name_beside_the_one_of_ours(name, method, ours):
    fit = {"received": of_two, "closed": of_two}
    handler = with_methods(
        **{"opened": of_one, name: method, ours: fit.get(ours, of_one)}
    )
    assert pymux.Server(handler, LOCAL)


@pytest.mark.parametrize("name, method, ours", ALIKE)
def test_what_begins_with_an_underscore_or_cannot_be_called_has_any_name(
    name, method, ours
):
    other = "drained" if ours != "drained" else "opened"
    for members in ({"_" + name: method}, {name: 7}, {name: property(lambda self: 1)}):
        assert pymux.Server(with_methods(**members, **{other: of_one}), LOCAL)


def test_an_object_with_a_method_of_its_own_is_looked_at_beside_its_class():
    class Handler:
        received = received

    assert pymux.Server(Handler(), LOCAL)
    late = Handler()
    late.on_close = lambda conn: None
    with pytest.raises(TypeError, match="on_close looks like closed"):
        pymux.Server(late, LOCAL)
    late = Handler()
    late.received = lambda data: None
    with pytest.raises(TypeError, match=r"received takes \(data\)"):
        pymux.Server(late, LOCAL)


HELPERS = {
    "close": lambda self: None,
    "open": lambda self, path: None,
    "message": lambda self, text: None,
    "data": lambda self: b"",
    "receive": lambda self, size, timeout: b"",
    "drain": lambda self: None,
    "on_message": lambda self, topic, payload: None,
    "on_connect": lambda self, client, userdata, flags, code: None,
    "on_open": lambda self, conn, frame: None,
    "connect": of_one,
    "disconnect": of_one,
    "reopened": of_one,
    "enclosed": of_one,
    "trained": of_one,
    "cloned": of_one,
    "locked": of_one,
    "unblocked": of_one,
    "restarted": of_one,
    "shopping": of_two,
    "opted": of_one,
    "drafted": of_one,
    "called": of_one,
    "receiver": of_one,
    "start": of_one,
    "stop": lambda self: None,
    "shutdown": lambda self, mux, now: None,
    "on_start": lambda self, job: None,
    "startup": lambda self, path: None,
    "connected": lambda self, name: None,
    "send": of_two,
    "handle": of_two,
    "handle_close": of_one,
}


@pytest.mark.parametrize("name", HELPERS)
def test_an_ordinary_helper_has_the_name_that_it_has(name):
    assert pymux.Server(with_methods(**{name: HELPERS[name], "opened": of_one}), LOCAL)


def test_a_property_is_not_evaluated_for_its_name():
    class Handler:
        def opened(self, conn):
            pass

        @property
        def recieved(self):
            raise AssertionError("evaluated")

    assert pymux.Server(Handler(), LOCAL)


@pytest.mark.parametrize("name", ["on_open", "recieved", "connection_made"])
def test_an_object_without_any_method_of_ours_hears_which_was_meant(name):
    method = of_two if name == "recieved" else of_one
    with pytest.raises(TypeError, match=rf"{name} may be (opened|received)"):
        pymux.Server(with_methods(**{name: method}), LOCAL)


@pytest.mark.parametrize("call", ["listen", "connect"])
def test_a_mux_refuses_a_name_that_looks_like_ours(mux, call):
    handler = with_methods(opened=of_one, recieved=of_two)
    with pytest.raises(TypeError, match="recieved looks like received"):
        getattr(mux, call)(("127.0.0.1", 0 if call == "listen" else 9), handler=handler)


# --- what would never run --------------------------------------------------------


def yielding(*args):
    """A generator function: a call of it runs nothing."""
    yield args


async def yielding_later(*args):
    """An async generator function."""
    yield args


@pytest.mark.parametrize("fn", [yielding, yielding_later])
@pytest.mark.parametrize(
    "form", ["function", "batch", "opened", "received", "blocked", "drained", "closed"]
)
def test_a_generator_function_is_a_type_error_that_names_send(form, fn):
    with pytest.raises(TypeError, match=r"generator|async"):
        if form == "function":
            pymux.Server(fn, LOCAL)
        elif form == "batch":
            pymux.Server(pymux.batched(functools.partial(fn)), LOCAL)
        else:
            pymux.Server(with_methods(**{form: fn}), LOCAL)


@pytest.mark.parametrize("method", ["opened", "blocked", "drained", "closed"])
def test_only_received_can_be_batched(method):
    marked = pymux.batched(lambda self, *args: None)
    with pytest.raises(TypeError, match=rf"H\.{method} is batched; only received"):
        pymux.Server(with_methods(**{method: marked}), LOCAL)


# --- a batch handler that returns its answers ------------------------------------


def returning_batches(form, answer):
    """A batch handler, or an object with one, that returns answer(batch)."""

    @pymux.batched
    def function(batch):
        return answer(batch)

    class Handler:
        @pymux.batched
        def received(self, batch):
            return answer(batch)

    return function if form == "function" else Handler()


@pytest.mark.parametrize("form", ["function", "object"])
@pytest.mark.parametrize(
    "answer, kind",
    [
        (lambda batch: batch.messages, "list"),
        (lambda batch: bytes(batch.data), "bytes"),
        (lambda batch: 0, "int"),
        (lambda batch: asyncio.sleep(0), "coroutine"),
    ],
    ids=["list", "bytes", "int", "coroutine"],
)
def test_a_batch_handler_that_returns_something_has_raised(backend, form, answer, kind):
    told = []
    with (
        util.serving(
            returning_batches(form, answer),
            backend,
            framing=LINES,
            on_error=lambda *args: told.append(args),
        ) as server,
        util.connect(server.address) as other,
    ):
        assert util.everything(server.address, b"a\nb\n") == b""
        util.wait_until(lambda: server.stats().connections == 1)
        other.sendall(b"c\n")
        assert util.recv_all(other) == b""
    (conn, error), (_, again) = told
    assert conn is None
    assert isinstance(error, TypeError) and isinstance(again, TypeError)
    assert f"type {kind}," in str(error)
    assert "batch.reply(" in str(error)


def test_it_is_logged_once_and_its_connections_end_with_that_cause(backend, logged):
    class Handler:
        def __init__(self):
            self.ends = []

        @pymux.batched
        def received(self, batch):
            batch.reply(batch.messages)
            return batch.messages

        def closed(self, conn, error):
            self.ends.append(error)

    handler = Handler()
    with util.serving(handler, backend, framing=LINES) as server:
        assert util.everything(server.address, b"a\nb\n") == b"a\nb\n"
        util.wait_until(lambda: handler.ends)
    (record,) = logged
    assert record.exc_info[0] is TypeError
    assert "Handler.received" in str(record.exc_info[1])
    (error,) = handler.ends
    assert error.errno == errno.ECONNABORTED
    assert error.__cause__ is record.exc_info[1]


@pytest.mark.skipif(util.NO_GUESTS, reason=util.WHY_NO_GUESTS)
def test_a_batch_handler_in_asyncio_that_returns_something_has_raised(loop):
    told = []

    async def main():
        async with pymux.aio.serve(
            pymux.batched(lambda batch: batch.messages),
            LOCAL,
            on_error=lambda *args: told.append(args),
        ) as server:
            assert await everything(server.address, b"a") == b""

    loop.run(main())
    ((conn, error),) = told
    assert conn is None
    assert "batch.reply(" in str(error)
