"""Batched methods, and hooks of functions, whose names are not ours: nobody would call
them."""

import functools

import pytest

import pymux

LOCAL = ("127.0.0.1", 0)


def with_methods(**methods):
    """An object of a class H with these methods."""
    return type("H", (), methods)()


def of_one(self, conn):
    """A method of one argument."""


def of_two(self, conn, data):
    """A method of two arguments."""


@pytest.mark.parametrize("name", ["recieved", "on_batch", "lines", "handle"])
def test_a_batched_method_that_no_batch_would_reach_is_a_type_error(name):
    batched = pymux.batched(lambda self, batch: None)
    with pytest.raises(TypeError, match=rf"H\.{name} looks like received\(batch\)"):
        pymux.Server(with_methods(**{name: batched, "opened": of_one}), LOCAL)


def test_a_batched_method_beside_received_or_with_an_underscore_is_ones_own():
    batched = pymux.batched(lambda self, batch: None)
    for methods in ({"lines": batched, "received": of_two}, {"_lines": batched}):
        assert pymux.Server(with_methods(**methods, opened=of_one), LOCAL)
    handler = with_methods(lines=batched, opened=of_one)
    assert pymux.Server(handler.lines, LOCAL)


def function(conn, data):
    """A function handler."""


async def coroutine(conn):
    """A coroutine handler."""


def batch_function(batch):
    """What `batched` marks."""


FUNCTIONS = {
    "function": lambda: functools.partial(function),
    "coroutine": lambda: functools.partial(coroutine),
    "batch": lambda: pymux.batched(functools.partial(batch_function)),
    "lambda": lambda: lambda conn, data: None,
    "object": lambda: with_methods(__call__=of_two),
}


@pytest.mark.parametrize("form", FUNCTIONS)
def test_the_attributes_of_a_function_are_looked_at_for_hooks_too(form):
    for name, ours in ("strated", "started"), ("on_stop", "stopping"):
        handler = FUNCTIONS[form]()
        setattr(handler, name, lambda mux: None)
        with pytest.raises(TypeError, match=rf"\.{name} looks like {ours}\(mux\)"):
            pymux.Server(handler, LOCAL)
        setattr(handler, ours, lambda mux: None)
        assert pymux.Server(handler, LOCAL)


def test_a_method_of_a_callable_object_is_looked_at_for_hooks_too():
    handler = with_methods(__call__=of_two, on_start=lambda self, mux: None)
    with pytest.raises(TypeError, match=r"H\.on_start looks like started\(mux\)"):
        pymux.Server(handler, LOCAL)


def test_a_hook_of_a_function_that_cannot_be_called_is_a_type_error():
    def handler(conn, data):
        return None

    handler.stopping = 5
    with pytest.raises(TypeError, match=r"stopping of .* is 5; a function stopping\("):
        pymux.Server(handler, LOCAL)
    handler.stopping = None
    assert pymux.Server(handler, LOCAL)


def test_no_code_of_an_attribute_is_run_when_names_are_looked_at():
    class Proxy:
        def __getattr__(self, name):
            raise RuntimeError("there is nothing behind it now")

    assert pymux.Server(with_methods(opened=of_one, current=Proxy()), LOCAL)
