"""Child processes, forks and descriptors of tests."""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading
import traceback
import unittest
import warnings

from .util import wait_until

try:
    import resource
except ImportError:  # Windows
    resource = None


@contextlib.contextmanager
def python(*args, **options):
    """A child process `python *args`, all three streams text pipes, killed at the end.

    It finds pymux and the tests wherever this process does.
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-u", *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=env,
        **options,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def descriptors_allowed(need):
    """Let this process open `need` descriptors; the test is skipped if it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < need:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
        except (ValueError, OSError):
            raise unittest.SkipTest(
                f"needs {need} descriptors, the limit is {hard}"
            ) from None
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def soft_limit(count):
    """For a block: this soft limit of descriptors, None for the hard limit's number.
    A child inherits it."""
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if count is None else count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def descriptors_taken(count):
    """Hold every descriptor number under `count`; the test is skipped if it cannot."""
    held = []
    with descriptors_allowed(count + 200):
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
            while held[-1] < count - 1:
                held.append(os.dup(held[0]))
            if held[-1] > count - 1:
                os.close(held.pop())
            yield
        finally:
            for fd in held:
                os.close(fd)


@contextlib.contextmanager
def no_descriptor_left():
    """Let this process open no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def others_sleep():
    """True if each other thread of this process sleeps, as far as the system tells.

    A thread that Python has joined may still be on its way out, and hold the lock of
    the allocator: AddressSanitizer's is not freed in a child (GCC 12; glibc's is).
    """
    for path in pathlib.Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has gone
            state = path.read_text().rpartition(")")[2].split()[0]
            if state != "S" and int(path.parent.name) != threading.get_native_id():
                return False
    return True


def fork():
    """`os.fork`, whichever other threads there are, once they sleep."""
    wait_until(others_sleep)
    with warnings.catch_warnings():
        # 3.12 and later warn of any other thread; the child here calls only pymux.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_child(fn):
    """Run fn() in a forked child; an AssertionError with its traceback if it raises."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            try:
                fn()
            except BaseException:
                os.write(writing, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read().decode()
    os.waitpid(pid, 0)
    assert not report, "in the child:\n" + report


@contextlib.contextmanager
def idle_child():
    """A forked child that holds every descriptor of this process, and sleeps."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.close(writing)
            os.read(reading, 1)
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield pid
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
