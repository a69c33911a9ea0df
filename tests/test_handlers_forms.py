"""How the form of a handler is recognised, and what is no handler."""

import functools

import pytest

import pymux

from . import util

LINES = pymux.Lines()
METHODS = ["opened", "received", "blocked", "drained", "closed"]


def talk(handler, backend, sent=b"hello\n"):
    """What a client gets from a server with this handler."""
    with util.serving(handler, backend, framing=LINES) as server:
        return util.everything(server.address, sent)


@pytest.mark.parametrize("form", util.FORMS)
def test_every_form_answers_every_message_in_order(backend, form):
    sent = b"".join(b"line %d\n" % k for k in range(500))
    assert talk(util.in_form(form, bytes.upper), backend, sent) == sent.upper()


@pytest.mark.parametrize("form", util.FORMS)
def test_every_form_closes_at_the_end_of_the_stream(backend, form):
    with util.serving(util.in_form(form, bytes.upper), backend) as server:
        assert util.everything(server.address, b"bye") == b"BYE"
        util.wait_until(lambda: server.stats().connections == 0)
        assert (server.stats().accepted, server.stats().closed) == (1, 1)


def test_batched_goes_before_everything_else(backend):
    class Both:
        def received(self, conn, data):
            return b"object"

        def __call__(self, batch):
            batch.reply([b"batch"] * len(batch))

    assert talk(pymux.batched(Both()), backend) == b"batch\n"


def test_methods_go_before_being_callable(backend):
    class Both:
        def received(self, conn, data):
            return b"object"

        def __call__(self, conn, data):
            return b"function"

    assert talk(Both(), backend) == b"object\n"


def test_methods_go_before_being_a_coroutine_function(backend):
    async def both(conn):
        conn.send(b"coroutine")

    both.received = lambda conn, data: b"object"
    assert talk(both, backend) == b"object\n"


@pytest.mark.parametrize("method", METHODS)
def test_any_one_of_the_methods_makes_an_object(backend, method):
    calls = []
    handler = type("Handler", (), {method: lambda *args: calls.append(args)})()
    assert talk(handler, backend) == b""
    assert len(calls) == {"blocked": 0, "drained": 0}.get(method, 1)


def test_methods_may_be_inherited_or_of_the_instance(backend):
    class Base:
        def received(self, conn, data):
            return data.upper()

    class Derived(Base):
        pass

    class Late:
        pass

    late = Late()
    late.received = lambda conn, data: data.upper()
    for handler in (Derived(), late):
        assert talk(handler, backend) == b"HELLO\n"


def test_a_coroutine_method_and_a_partial_of_one_are_coroutines(backend):
    class Holder:
        async def handler(self, conn):
            conn.send(await conn.recv())

    async def two(prefix, conn):
        conn.send(prefix + await conn.recv())

    assert talk(Holder().handler, backend) == b"hello\n"
    assert talk(functools.partial(two, b"> "), backend) == b"> hello\n"


@pytest.mark.parametrize("base", [(), (Exception,)])
def test_a_class_is_a_type_error_that_shows_the_instance(base):
    H = type("H", base, {"received": lambda self, conn, data: data})
    with pytest.raises(TypeError, match=r"H\(\)"):
        pymux.Server(H, ("127.0.0.1", 0))


def test_a_class_without_any_method_is_a_type_error_too():
    class H:
        def __call__(self, conn, data):
            return data

    with pytest.raises(TypeError, match=r"H\(\)"):
        pymux.Server(H, ("127.0.0.1", 0))


@pytest.mark.parametrize("method", METHODS)
def test_an_async_method_is_a_type_error_that_names_it(method):
    async def given(self, *args):
        return None

    handler = type("Handler", (), {method: given})()
    with pytest.raises(TypeError, match=method):
        pymux.Server(handler, ("127.0.0.1", 0))


@pytest.mark.parametrize("handler", [None, 7, "module:name", object(), b"x"])
def test_what_cannot_be_called_is_a_type_error_that_names_it(handler):
    with pytest.raises(TypeError) as info:
        pymux.Server(handler, ("127.0.0.1", 0))
    assert type(handler).__name__ in str(info.value) or repr(handler) in str(info.value)


def test_a_batched_coroutine_function_is_a_type_error():
    async def handler(batch):
        return None

    with pytest.raises(TypeError):
        pymux.Server(pymux.batched(handler), ("127.0.0.1", 0))


def test_batched_works_bare_with_arguments_and_as_a_function(backend):
    def handler(batch):
        batch.reply([data.upper() for data in batch.messages])

    @pymux.batched
    def bare(batch):
        handler(batch)

    @pymux.batched(min_messages=1, max_delay=0.001)
    def with_arguments(batch):
        handler(batch)

    for form in (bare, with_arguments, pymux.batched(handler, min_messages=1)):
        assert talk(form, backend) == b"HELLO\n"


def test_what_batched_gives_can_be_called_as_the_function_was():
    calls = []
    pymux.batched(calls.append)("batch")
    pymux.batched(min_messages=2)(calls.append)("batch")
    assert calls == ["batch", "batch"]


def test_one_handler_may_serve_in_two_servers(backend):
    for form in util.FORMS:
        handler = util.in_form(form, bytes.upper)
        with (
            util.serving(handler, backend) as one,
            util.serving(handler, backend) as two,
        ):
            assert util.everything(one.address, b"one") == b"ONE"
            assert util.everything(two.address, b"two") == b"TWO"


@pytest.mark.parametrize(
    "options", [{"min_messages": 0}, {"min_messages": -1}, {"max_delay": -0.5}]
)
def test_batched_refuses_what_makes_no_sense(options):
    (value,) = options.values()
    with pytest.raises(ValueError, match=str(value)):
        pymux.batched(lambda batch: None, **options)


@pytest.mark.parametrize("options", [{"min_messages": "2"}, {"max_delay": "soon"}])
def test_batched_refuses_what_is_no_number(options):
    with pytest.raises(TypeError):
        pymux.batched(lambda batch: None, **options)
