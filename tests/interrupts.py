"""An exception at each place in pymux where a signal's handler may raise one.

CPython runs the handler of a signal between two steps of the interpreter, and not
between any two: where a function begins, where a loop goes back, and behind a call.
Real signals hit some of these places, most of them never. Here each is hit, by tracing.
`strikes.py` says why there are two such helpers.
"""

import contextlib
import dis
import os
import sys
import threading

import pytest

import pymux

OURS = os.path.dirname(pymux.__file__)
BEHIND = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
TOOL = 4  # of the interpreter's monitoring, which has numbers for some others

needs_tracing = pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="signals are handled at other places there",
)

_places = {}


class Interrupted(BaseException):
    """What the handler of the signal raises, as it might be KeyboardInterrupt."""


def places(code):
    """The offsets in a code object at which a signal's handler may run.

    From 3.12 on where a function begins is an event of its own.
    """
    if code not in _places:
        _places[code], before = set(), None
        for step in dis.get_instructions(code):
            if step.opname in ("RESUME", "JUMP_BACKWARD") or before in BEHIND:
                _places[code].add(step.offset)
            before = step.opname
    return _places[code]


def ours(code):
    """Whether it is pymux's, and no finalizer: what one raises is lost in any case."""
    return code.co_name != "__del__" and code.co_filename.startswith(OURS)


@contextlib.contextmanager
def watched(at):
    """Call at(code, line) at each place of pymux that this thread comes by.

    Opcodes that are traced are not seen in a function that began before them, from 3.13
    on: there, and in 3.12, the interpreter's monitoring tells of the places.
    """
    if hasattr(sys, "monitoring"):
        yield from _monitored(at)
    else:
        yield from _traced(at)


def _traced(at):
    def each(frame, event, arg):
        if event == "opcode" and frame.f_lasti in places(frame.f_code):
            at(frame.f_code, frame.f_lineno)
        return each

    def trace(frame, event, arg):
        if ours(frame.f_code):
            frame.f_trace_opcodes = True
            return each
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _monitored(at):
    monitoring, thread = sys.monitoring, threading.get_ident()
    events = monitoring.events
    begins = events.PY_START, events.PY_RESUME

    def begun(code, offset):
        if not ours(code):
            return monitoring.DISABLE
        if threading.get_ident() == thread:
            at(code, sys._getframe(1).f_lineno)
        return None

    def each(code, offset):
        if not ours(code):
            return monitoring.DISABLE
        if offset in places(code) and threading.get_ident() == thread:
            at(code, sys._getframe(1).f_lineno)
        return None

    monitoring.use_tool_id(TOOL, "tests of pymux")
    try:
        for event in begins:
            monitoring.register_callback(TOOL, event, begun)
        monitoring.register_callback(TOOL, events.INSTRUCTION, each)
        monitoring.set_events(TOOL, sum(begins) + events.INSTRUCTION)
        yield
    finally:
        monitoring.set_events(TOOL, 0)
        for event in (*begins, events.INSTRUCTION):
            monitoring.register_callback(TOOL, event, None)
        monitoring.free_tool_id(TOOL)


def interrupted(call, nth, once=lambda: True):
    """Call `call()`, with an `Interrupted` at the nth place of pymux that it comes by.

    Args:
        call: what is interrupted.
        nth: counted from 1.
        once: places count from where this is true.

    Returns:
        (place, result): "function:line", None where it came by fewer places; what the
        call returned, None where it was interrupted.
    """
    passed, where, result = 0, None, None

    def at(code, line):
        nonlocal passed, where
        if once():
            passed += 1
            if passed == nth:
                where = f"{code.co_name}:{line}"
                raise Interrupted(where)

    with contextlib.suppress(Interrupted), watched(at):
        result = call()
    return where, result


def at_each_place(scene):
    """Call scene(nth) for 1, 2, ... until it returns None: the place it was struck at.

    Returns:
        How many places there were.
    """
    nth = 1
    while scene(nth) is not None:
        nth += 1
    return nth - 1
