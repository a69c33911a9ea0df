"""The programs in examples/ do what they say."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import urllib.error
import urllib.request

import pytest

from . import test_examples_servers, util
from .processes import python

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout: no examples"),
    pytest.mark.skipif(os.name != "posix", reason="stopped by a signal"),
]


@contextlib.contextmanager
def telemetry():
    """(the sensors' port, the HTTP port) of the example, running."""
    pytest.importorskip("aiohttp")
    if util.NO_GUESTS:
        pytest.skip(util.WHY_NO_GUESTS)
    with python(str(EXAMPLES / "telemetry.py"), "0", "0") as child:
        yield [int(child.stdout.readline().split()[-1]) for _ in range(2)]
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 0


def request(port, path="/", data=None):
    """What the example's HTTP side answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, 20) as answer:
        return answer.read().decode()


def test_readings_that_come_over_pymux_are_shown_over_http():
    with telemetry() as (sensors, http):
        with util.connect(("127.0.0.1", sensors)) as sock:
            sock.sendall(b"attic\n20\nwarm\n21.5\n")
            assert util.recv_exactly(sock, 19) == b"a number is needed\n"
            util.wait_until(lambda: "21.5" in request(http))
            shown = json.loads(request(http))
            assert shown == {"attic": {"reading": 21.5, "connected": True}}
        util.wait_until(lambda: "false" in request(http))


def test_what_is_posted_over_http_is_sent_over_pymux():
    with telemetry() as (sensors, http):
        with util.connect(("127.0.0.1", sensors)) as sock:
            sock.sendall(b"attic\n")
            util.wait_until(lambda: "attic" in request(http))
            assert request(http, "/sensors/attic", b"calibrate") == "sent\n"
            assert util.recv_exactly(sock, 10) == b"calibrate\n"
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            request(http, "/sensors/cellar", b"calibrate")
        caught.value.close()  # it is the answer, too


@contextlib.contextmanager
def rpc():
    """A socket that is connected to the example, running."""
    with python(str(EXAMPLES / "rpc.py"), "0") as child:
        port = int(child.stdout.readline().split()[-1])
        with util.connect(("127.0.0.1", port)) as sock:
            yield sock
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 0


def call(sock, *calls):
    """Send calls, each a dictionary."""
    sock.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in calls))


def answers(sock, count):
    """The next answers."""
    with sock.makefile("rb") as file:
        return [json.loads(file.readline()) for _ in range(count)]


def test_answers_leave_in_the_order_in_which_they_are_ready():
    with rpc() as sock:
        call(
            sock,
            {"id": 1, "method": "wait", "params": [0.5]},
            {"id": 2, "method": "add", "params": [20, 3]},
        )
        assert answers(sock, 2) == [{"id": 2, "result": 23}, {"id": 1, "result": 0.5}]


def test_a_call_that_fails_is_answered_too():
    with rpc() as sock:
        call(sock, {"id": "a", "method": "wait", "params": ["long"]}, 7, {"id": "b"})
        errors = {one.get("id"): one["error"] for one in answers(sock, 3)}
    assert errors.pop("a").startswith("TypeError: ")
    assert errors == {"b": "KeyError: 'method'", None: "a JSON object is needed"}


def test_a_call_can_be_cancelled_and_makes_room():
    with rpc() as sock:
        for number in range(40):
            call(sock, {"id": number, "method": "wait", "params": [300]})
            call(sock, {"cancel": number})
        call(sock, {"id": "last", "method": "upper", "params": ["x"]})
        sock.shutdown(1)
        with sock.makefile("rb") as file:
            assert json.loads(file.readline()) == {"id": "last", "result": "X"}
            assert file.readline() == b""


def test_every_example_is_tested():
    names = vars(sys.modules[__name__]).keys() | vars(test_examples_servers).keys()
    here = pathlib.Path(__file__).parent  # or a file of tests has its name
    names |= {path.stem[14:] for path in here.glob("test_examples_*.py")}
    assert names >= {path.stem for path in EXAMPLES.glob("*.py")}


@contextlib.contextmanager
def telemetry_parquet(path):
    """The port of the example, running."""
    pytest.importorskip("pyarrow")
    with python(str(EXAMPLES / "telemetry_parquet.py"), str(path), "0") as child:
        yield int(child.stdout.readline().split()[-1])
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20) == ("", "")
        assert child.returncode == 0


def test_readings_are_written_as_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "readings.parquet"
    with telemetry_parquet(path) as port, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", port)
        socks = [stack.enter_context(util.connect(address)) for _ in range(50)]
        for k, sock in enumerate(socks):
            sock.sendall(b"%d.5\nwarm\n-1\n" % k)
        for sock in socks:
            assert util.recv_exactly(sock, 19) == b"a number is needed\n"
        for sock in socks:  # what has arrived is written, even if the program ends
            sock.sendall(b"7\n")
    rows = parquet.read_table(path).to_pylist()
    assert sorted(row["reading"] for row in rows) == sorted(
        [-1.0] * 50 + [7.0] * 50 + [k + 0.5 for k in range(50)]
    )
    assert len({row["sensor"] for row in rows}) == 50
