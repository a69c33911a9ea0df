"""Names of the user's objects, by which another interpreter finds them.

A worker is a new interpreter, so a handler travels as ``module:name``. A script's own
module is ``__main__``: the worker runs the script again under another name, as
multiprocessing does, so that nothing under ``if __name__ == "__main__"`` is run.
"""

from __future__ import annotations

import functools
import importlib
import runpy
import sys
import types
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Reference",
    "main_of_process",
    "refer",
    "refer_to_maker",
    "run_main_again",
]

MAIN = "__main__"
AGAIN = "__pymux_main__"  # the name under which a worker runs the script


@dataclass(frozen=True)
class Reference:
    """An object by its module and its name there.

    Attributes:
        text: ``module:name``; the name may have dots.
        arguments: None, or what the object is to be called with for the value.
    """

    text: str
    arguments: tuple[Any, ...] | None = None

    @property
    def is_main(self) -> bool:
        """Whether the module is the script."""
        return self.text.startswith(MAIN + ":")

    def resolve(self) -> Any:
        """Import the module and return the object, or what it makes.

        Raises:
            Exception: of the import, or of the call.
        """
        name, _, path = self.text.partition(":")
        found: Any = (
            sys.modules[MAIN] if name == MAIN else importlib.import_module(name)
        )
        for part in path.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                raise AttributeError(f"module {name!r} has no {path!r}") from None
        return found if self.arguments is None else found(*self.arguments)


def refer(what: str, value: Any) -> Reference:
    """Return the reference for a handler, or another object of the user.

    Args:
        what: the argument's name, for an error.

    Raises:
        TypeError: no name leads to the object; the error shows the string to give.
        ValueError: the string is not ``module:name``.
    """
    if isinstance(value, Reference):
        return value
    if isinstance(value, str):
        module, _, path = value.partition(":")
        parts = [*module.split("."), *path.split(".")]
        if not all(part.isidentifier() for part in parts):
            raise ValueError(
                f"{what} is {value!r}; a string is 'module:name', like 'app:handler'"
            )
        reference = Reference(value)
    else:
        reference = Reference(_name_of(what, value))
    if reference.is_main and main_of_process() is None:
        raise TypeError(
            f"{what} is {reference.text!r}, and a worker cannot run the main module "
            "again, since it has no file; put the handler in a module"
        )
    return reference


def _name_of(what: str, value: Any) -> str:
    """Return "module:name" of a function or class that has this name."""
    module = getattr(value, "__module__", None)
    path = getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(path, str):
        found: Any = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is value:
            return f"{module}:{path}"
    known = _global_name(value)
    if known is None:
        advice = (
            'give it a name in a module, and the string "module:name", like '
            "'app:handler'"
        )
    else:
        advice = f"give the string {known!r}"
    raise TypeError(
        f"{what} is {value!r}, which a worker cannot find by its name; {advice}"
    )


def _global_name(value: Any) -> str | None:
    """Return "module:name" of a global variable with this value, for advice."""
    first = [MAIN, getattr(value, "__module__", None)]
    for module in dict.fromkeys([*first, *sys.modules]):
        names = getattr(sys.modules.get(module or ""), "__dict__", None)
        if isinstance(names, dict):
            for name, found in list(names.items()):
                if found is value and isinstance(name, str):
                    return f"{module}:{name}"
    return None


def main_of_process() -> tuple[str, str] | None:
    """Return how to run this process's main module again: ("module", its name) or
    ("path", its file); None if there is no such way."""
    main = sys.modules.get(MAIN)
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return "module", spec.name
    file = getattr(main, "__file__", None)
    return None if file is None else ("path", str(file))


def run_main_again(kind: str, where: str) -> None:
    """Run the supervisor's main module under another name, and let ``__main__`` be it.

    Raises:
        Exception: of the module.
    """
    if kind == "module":
        names = runpy.run_module(where, run_name=AGAIN, alter_sys=True)
    else:
        names = runpy.run_path(where, run_name=AGAIN)
    module = types.ModuleType(AGAIN)
    module.__dict__.update(names)
    sys.modules[MAIN] = sys.modules[AGAIN] = module


def refer_to_maker(what: str, value: Any) -> Reference:
    """Return the reference for a function that a worker calls for the value.

    Raises:
        TypeError: the value cannot be called, or no name leads to it.
    """
    if isinstance(value, Reference):
        return value
    arguments: tuple[Any, ...] = ()
    if isinstance(value, functools.partial) and not value.keywords:
        value, arguments = value.func, value.args
    if not isinstance(value, str) and not callable(value):
        raise TypeError(
            f"{what} is {value!r}; with workers, a function that makes it, or "
            "'module:name' of one, is needed, since each worker makes its own"
        )
    return Reference(refer(what, value).text, arguments)
