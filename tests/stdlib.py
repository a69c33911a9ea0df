"""The standard library's own tests, on pymux's selector: `python -m tests.stdlib`.

`test.test_selectors`, and of `test.test_asyncio` what runs event loops, with every
`SelectorEventLoop` built on `pymux.Selector`, on each backend that works here. The
same tests run on the standard selector of that kind beside it. What passes there must
pass here, but for the exceptions below, each with its reason. A test that does not is
run once more by itself, since some of these go by the clock.

An interpreter may come without these tests, as Debian's do: then there is nothing to
run, which is no failure.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EXCEPTIONS = {
    "test_modify_unregister": "puts a mock into the standard selector's insides and "
    "asks for its class by name; test_selector.py has one for ours",
}

SELECTORS = "test.test_selectors"
LOOPS = [
    "test_events",
    "test_selector_events",
    "test_streams",
    "test_sock_lowlevel",
    "test_server",
    "test_sslproto",
    "test_ssl",
    "test_sendfile",
    "test_buffered_proto",
    "test_unix_events",
    "test_subprocess",
]
QUICK = ["test_selector_events", "test_streams", "test_sock_lowlevel", "test_server"]
MOCKED = ["test_selector_events"]  # makes no selector, it has a mock

# The standard class of a backend, and what the tests of one begin with.
STANDARD = {
    "epoll": ("EpollSelector", "EPoll"),
    "kqueue": ("KqueueSelector", "Kqueue"),
    "poll": ("PollSelector", "Poll"),
    "select": ("SelectSelector", "Select"),
}
PATIENCE = 300  # seconds that a single test may take


# --- in a process of its own: one backend, ours or the standard one ---------


def kind_of(backend):
    """The standard class's name and the tests' prefix; for a kqueue on Linux, which
    has no standard class, epoll's."""
    import selectors

    name, prefix = STANDARD[backend]
    return (name, prefix) if hasattr(selectors, name) else STANDARD["epoll"]


def maker_of(backend, ours):
    """What makes selectors of a kind, and the list of those of ours it has made."""
    import selectors

    import pymux

    made = []

    def make():
        made.append(1)
        return pymux.Selector(backend)

    return make if ours else getattr(selectors, kind_of(backend)[0]), made


def selector_tests(loader, backend, make):
    """The standard test case of this kind, given what makes selectors."""
    name, _ = kind_of(backend)
    case = getattr(importlib.import_module(SELECTORS), name + "TestCase")
    case.SELECTOR = staticmethod(make)
    return loader.loadTestsFromTestCase(case)


def loop_tests(loader, backend, make, module):
    """A module of test_asyncio, where whoever makes a selector gets one from `make`;
    of test cases that there are for each kind, the ones of this kind."""
    import selectors

    selectors.DefaultSelector = make
    for name, _ in STANDARD.values():
        if hasattr(selectors, name):
            setattr(selectors, name, make)
    _, prefix = kind_of(backend)
    others = {other for _, other in STANDARD.values()} - {prefix}
    found = importlib.import_module(f"test.test_asyncio.{module}")
    suite = unittest.TestSuite()
    for tests in loader.loadTestsFromModule(found):
        for test in tests:
            name = type(test).__name__
            per_kind = any(base.__name__.startswith(prefix) for base in peers(test))
            if not (per_kind and any(name.startswith(other) for other in others)):
                suite.addTest(test)
    return suite


def peers(test):
    """The test cases of the module that a test stands in."""
    module = sys.modules[type(test).__module__]
    return [case for case in vars(module).values() if isinstance(case, type)]


class Record(unittest.TestResult):
    """Writes what becomes of each test as a line of JSON, at once."""

    def __init__(self, path):
        super().__init__()
        self.file = path.open("a", encoding="utf-8")

    def startTest(self, test):
        super().startTest(test)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        self.say(test, "died")

    def say(self, test, what, why=""):
        # a sub-test is its test's
        self.write(getattr(test, "test_case", test).id(), what, why)

    def write(self, *what):
        self.file.write(json.dumps(what) + "\n")
        self.file.flush()

    def addSuccess(self, test):
        self.say(test, "passed")

    def addSkip(self, test, reason):
        self.say(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        self.say(test, "passed")

    def addUnexpectedSuccess(self, test):
        self.say(test, "passed")

    def addFailure(self, test, err):
        self.say(test, "failed", self._exc_info_to_string(err, test))

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addFailure(test, err)


def child(backend, ours, module, only, path):
    """Run one module's tests; `only`: those with these ids."""
    make, made = maker_of(backend, ours)
    loader = unittest.TestLoader()
    if module == SELECTORS:
        suite = selector_tests(loader, backend, make)
    else:
        suite = loop_tests(loader, backend, make, module)
    if only:
        suite = unittest.TestSuite(t for t in flat(suite) if t.id() in only)
    record = Record(path)
    suite.run(record)
    faulthandler.cancel_dump_traceback_later()
    record.write("", "made", len(made))
    record.file.close()


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


# --- the parent -------------------------------------------------------------


def run(backend, ours, module, only=()):
    """{test: (what became of it, why)}, and how many selectors were made."""
    import pymux

    environment = dict(os.environ, PYTHONPATH=str(Path(pymux.__file__).parents[1]))
    environment.pop("PYMUX_BACKEND", None)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "results")
        path.touch()
        what = [backend, "ours" if ours else "standard", module, str(path), *only]
        done = subprocess.run(
            [sys.executable, __file__, "--child", *what],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        results, made = {}, 0
        for line in path.read_text(encoding="utf-8").splitlines():
            test, outcome, why = json.loads(line)
            if outcome == "made":
                made = why
            # a failure of a sub-test or of what follows a test stays one
            elif results.get(test, ("",))[0] != "failed":
                results[test] = (outcome, why)
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-3000:])
    return results, made


def excepted(test):
    return EXCEPTIONS.get(test.rpartition(".")[2])


def compare(backend, module):
    """Run a module both ways and tell; whether all that should pass did."""
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:  # both wait more than they compute
        both = [pool.submit(run, backend, ours, module) for ours in (False, True)]
    standard, _ = both[0].result()
    ours, made = both[1].result()
    died = ("died", "the process ended before it")
    wrong = {
        test: ours.get(test, died)
        for test, (outcome, _) in standard.items()
        if outcome == "passed" and ours.get(test, died)[0] != "passed"
    }
    listed = [test for test in wrong if excepted(test)]
    for test in listed:
        del wrong[test]
    again = ""
    if wrong:
        second, _ = run(backend, True, module, list(wrong))
        fine = [test for test in wrong if second.get(test, died)[0] == "passed"]
        for test in fine:
            del wrong[test]
        again = f", {len(fine)} at the second try" if fine else ""
    count = sum(outcome == "passed" for outcome, _ in ours.values())
    before = sum(outcome == "passed" for outcome, _ in standard.values())
    print(
        f"{backend:6} {module.rpartition('.')[2]:20} {count:4} passed here, "
        f"{before:4} on the standard one{again}, {made} selectors made, "
        f"{time.monotonic() - start:.0f} s",
        flush=True,
    )
    for test in listed:
        print(f"       excepted: {test}: {excepted(test)}")
    for test, (outcome, why) in wrong.items():
        print(f"       {outcome.upper()}: {test}\n{why}")
    used = made or module in MOCKED
    if not used:
        print("       no selector was made: nothing was tested")
    return bool(count and used and not wrong)


def missing():
    """Which of the modules this interpreter lacks that it should have, or None."""
    for name in (SELECTORS, "test.test_asyncio", "test.support"):
        try:
            if importlib.util.find_spec(name) is None:
                return name
        except ImportError:
            return name
    return None


def main():
    import pymux

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the quicker modules")
    parser.add_argument("--backend", action="append", choices=pymux.backends())
    parser.add_argument("--module", action="append", help="test_selectors, test_ssl...")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        print(f"this interpreter comes without {lacking}: skipped")
        return 0
    modules = [SELECTORS] + [
        name
        for name in (QUICK if options.quick else LOOPS)
        if importlib.util.find_spec(f"test.test_asyncio.{name}")
    ]
    if options.module:
        modules = [m for m in modules if m.rpartition(".")[2] in options.module]
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"{sys.implementation.name} {version}", flush=True)
    fine = True
    for backend in options.backend or pymux.backends():
        for module in modules:
            fine = compare(backend, module) and fine
    print("all that passes on the standard selectors passes" if fine else "FAILED")
    return 0 if fine else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.path.pop(0)  # tests/, which has modules of its own
        backend, whose, module, path, *only = sys.argv[2:]
        child(backend, whose == "ours", module, only, Path(path))
    else:
        sys.exit(main())
