"""Exceptions where a signal's handler may raise one, in the standard library too.

CPython runs a handler when a function begins, and behind a call into C, whose result
is lost where the handler raises. Those are the events of a profiler, so one that raises
at the nth of them stands for the signal.

`interrupts.py` does the same by the interpreter's single steps, and both are needed.
The steps show where a loop goes back, which is no event of a profiler, and belong to
the functions of pymux alone. The events of a profiler follow a call into the standard
library as well, where pymux starts a thread or takes a lock, and cost so little that
thousands of places are struck in seconds.
"""

import contextlib
import os
import sys
import threading

import pymux

OURS = os.path.dirname(pymux.__file__) + os.sep
TESTS = os.path.dirname(__file__) + os.sep
# What is raised in these, which C calls, nobody can catch.
BEYOND = {
    "__del__",
    "_after_fork",
    "_remove",
    "_removeHandlerRef",
    "_free_in",  # from C
    "open_pages",  # a descriptor of Python's is a number, which is lost with a result
    "gc_callback",  # Hypothesis has one, which the collector calls
}
START = threading.Thread.start.__code__  # it loses its own thread then
# From 3.15 on a profiler sees the call by which `with` takes a lock, which no handler
# comes behind before the block is entered.
ONE_STEP = "__enter__" if sys.version_info >= (3, 15) else None


class Struck(Exception):
    """What the handler raises."""


def ours(frame):
    """Whether a frame is of pymux, or of what pymux has called."""
    found = False
    if frame.f_code.co_filename.startswith(TESTS):
        return False
    while frame is not None:
        if frame.f_code.co_name in BEYOND or frame.f_code is START:
            return False
        found = found or frame.f_code.co_filename.startswith(OURS)
        frame = frame.f_back
    return found


class Striker:
    """Counts the places that a call comes by, and raises `Struck` at the nth."""

    def __init__(self, nth=0):
        self.nth = nth
        self.places = 0

    def __call__(self, frame, event, arg):
        if event == "c_return" and arg.__name__ == ONE_STEP:
            return
        if event in ("call", "c_return") and ours(frame):
            self.places += 1
            if self.places == self.nth:
                raise Struck(f"{frame.f_code.co_name}, line {frame.f_lineno}")

    @contextlib.contextmanager
    def striking(self):
        """In this block."""
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            yield self
        finally:
            sys.setprofile(before)

    def call(self, fn):
        """(what fn() returned, None), or (None, what it raised once struck)."""
        try:
            with self.striking():
                return fn(), None
        except Exception as error:  # threading's locks make another of it
            assert self.places >= self.nth, "it was not struck"
            return None, error


def each_place(run, most=3000):
    """Call run(striker) with the first place, the second, ... to strike at, until there
    is none left; how many there were."""
    for nth in range(1, most):
        striker = Striker(nth)
        try:
            run(striker)
        except BaseException as error:
            raise AssertionError(f"struck at place {nth}") from error
        if striker.places < nth:
            return nth - 1
    raise AssertionError(f"more than {most} places")
