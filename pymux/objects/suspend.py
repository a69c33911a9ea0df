"""Functions that yield to the mux, as coroutines that warn if not awaited."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

__all__ = ["suspend", "suspending"]

T = TypeVar("T")


def _native(fn: Any) -> Any:
    """Turn a generator function into one that returns native coroutines."""
    code = fn.__code__
    flags = code.co_flags & ~inspect.CO_GENERATOR | inspect.CO_COROUTINE
    made = types.FunctionType(
        code.replace(co_flags=flags),
        fn.__globals__,
        fn.__name__,
        fn.__defaults__,
        fn.__closure__,
    )
    made.__kwdefaults__ = fn.__kwdefaults__
    return functools.update_wrapper(made, fn)


def _works() -> bool:
    """True if this interpreter accepts a native coroutine that yields."""

    def yielding(value: Any) -> Generator[Any, Any, Any]:
        return (yield value)

    coroutine = None
    try:
        coroutine = _native(yielding)(1)
        if type(coroutine) is not types.CoroutineType or coroutine.send(None) != 1:
            return False
        coroutine.send(2)
    except StopIteration as end:
        return bool(end.value == 2)
    except Exception:
        return False
    finally:
        if coroutine is not None:
            coroutine.close()
    return False


_NATIVE = _works()


def suspending(
    fn: Callable[P, Generator[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Act as `types.coroutine`, but Python warns of a forgotten `await`.

    An `async def` cannot yield, and to await a function that yields costs a message
    0.1 microseconds, half as much again.
    """
    mark: Any = _native if _NATIVE else types.coroutine
    made: Callable[P, Coroutine[Any, Any, T]] = mark(fn)
    return made


@types.coroutine
def suspend(task: Any) -> Generator[Any, Any, None]:
    """Suspend the task until the mux resumes it."""
    yield task
