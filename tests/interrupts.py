"""An exception at each place where a signal's handler may raise one.

CPython runs the handler of a signal between two steps of the interpreter, and not
between any two: where a function begins, where a loop goes back, and
behind a call. Real signals hit some of these places, most of them never; here each
is hit, by tracing.
"""

import dis
import os
import sys

import pytest

import pymux

OURS = os.path.dirname(pymux.__file__)
BEHIND = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")

needs_tracing = pytest.mark.skipif(
    sys.implementation.name != "cpython",
    reason="signals are handled at other places there",
)

_places = {}


class Interrupted(BaseException):
    """What the handler of the signal raises, as it might be KeyboardInterrupt."""


def places(code):
    """The offsets in a code object at which a signal's handler may run."""
    if code not in _places:
        _places[code], before = set(), None
        for step in dis.get_instructions(code):
            if step.opname in ("RESUME", "JUMP_BACKWARD") or before in BEHIND:
                _places[code].add(step.offset)
            before = step.opname
    return _places[code]


def interrupted(call, nth, once=lambda: True):
    """Call `call()`, with an `Interrupted` at the nth place of pymux that it comes by.

    Finalizers are left out: what is raised in them is lost in any case.

    Args:
        call: what is interrupted.
        nth: counted from 1.
        once: places count from where this is true.

    Returns:
        (place, result): "function:line", None where it came by fewer places; what the
        call returned, None where it was interrupted.
    """
    passed, where, result = 0, None, None

    def each(frame, event, arg):
        nonlocal passed, where
        if event == "opcode" and frame.f_lasti in places(frame.f_code) and once():
            passed += 1
            if passed == nth:
                where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise Interrupted(where)
        return each

    def trace(frame, event, arg):
        code = frame.f_code
        if code.co_name != "__del__" and code.co_filename.startswith(OURS):
            frame.f_trace_opcodes = True
            return each
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = call()
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
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
