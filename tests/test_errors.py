"""Bad input to a server: a clear exception, and everything left as it was.

Each message names the value, and what is accepted instead. A peer that sends what
its framing does not allow ends its own connection and no other.
"""

import copy
import errno
import os
import pickle
import socket
import struct
import threading

import pytest

import pymux

from . import util
from .processes import python

LINES = pymux.Lines()
HERE = ("127.0.0.1", 0)


def echo(conn, data):
    """What most servers here do."""
    return data


@pytest.fixture
def untouched(tmp_path):
    """Checks that a failure took no descriptor, thread or place in the directory."""
    (tmp_path / "file").write_text("content")
    threads = threading.active_count()
    yield tmp_path
    assert sorted(os.listdir(tmp_path)) == ["file"]
    assert (tmp_path / "file").read_text() == "content"
    assert threading.active_count() == threads


def refusal(error, *args, **options):
    """The message with which a server refuses to be made."""
    with pytest.raises(error) as info:
        pymux.Server(*args, **options)
    return str(info.value)


@pytest.mark.parametrize(
    ("address", "error", "shown"),
    [
        (("127.0.0.1", 70000), ValueError, ["70000", "65535"]),
        (("127.0.0.1", -1), ValueError, ["-1", "65535"]),
        (("127.0.0.1", "80"), TypeError, ["'80'"]),
        ((80, "127.0.0.1"), TypeError, ["80"]),
        (("127.0.0.1",), (TypeError, ValueError), ["('127.0.0.1',)"]),
        (8093, TypeError, ["8093", "(host, port)"]),
        (None, TypeError, ["None", "(host, port)"]),
        ("127.0.0.1:8093", ValueError, ["127.0.0.1:8093", "('127.0.0.1', 8093)"]),
        ("localhost:http", ValueError, ["localhost:http"]),
        ("", ValueError, ["''"]),
        ("a\0b", ValueError, ["a\\x00b"]),
        ("/tmp/" + "x" * 200, (ValueError, OSError), ["x" * 200, "bytes"]),
    ],
)
def test_a_wrong_address_is_named_at_construction(backend, address, error, shown):
    message = refusal(error, echo, address, backend=backend)
    for part in shown:
        # A tuple may be shown with either quotes.
        assert part in message or part.replace("'", '"') in message


@pytest.mark.parametrize(
    ("option", "value", "error", "shown"),
    [
        ("backend", "epol", ValueError, ["epol", "epoll", "kqueue", "poll", "select"]),
        ("backend", 7, TypeError, ["7"]),
        ("framing", "lines", TypeError, ["lines", "Lines"]),
        ("framing", pymux.Lines, TypeError, ["Lines()"]),
        ("limits", 100, TypeError, ["100", "Limits"]),
        ("drain_timeout", -1, ValueError, ["-1"]),
        ("drain_timeout", float("nan"), ValueError, ["nan"]),
        ("drain_timeout", "soon", TypeError, ["soon"]),
        ("spin", -0.5, ValueError, ["-0.5", "auto"]),
        ("spin", "fast", ValueError, ["fast", "auto"]),
        ("on_error", 7, TypeError, ["7", "on_error"]),
        ("backlog", "many", TypeError, ["many", "backlog"]),
        ("backlog", -5, ValueError, ["-5", "backlog"]),
        ("mode", "rw", TypeError, ["rw", "mode"]),
        ("mode", 0o7000000, ValueError, ["mode"]),
    ],
)
def test_a_wrong_option_is_named_at_construction(option, value, error, shown):
    message = refusal(error, echo, HERE, **{option: value})
    for part in shown:
        assert part in message


def test_an_unknown_option_is_a_type_error():
    assert "colour" in refusal(TypeError, echo, HERE, colour="blue")


def test_serve_refuses_as_the_server_does():
    with pytest.raises(ValueError, match="epol"):
        pymux.serve(echo, HERE, backend="epol")
    with pytest.raises(TypeError, match="7"):
        pymux.serve(7, HERE)


def test_a_backend_that_this_machine_lacks_says_why():
    lacking = {"epoll", "kqueue", "poll", "select"} - set(pymux.backends())
    if not lacking:
        pytest.skip("this machine has every backend")
    for name in lacking:
        with pytest.raises(pymux.BackendUnavailable, match=name):
            pymux.Server(echo, HERE, backend=name).start()


def test_a_port_in_use_is_named_and_its_server_goes_on(backend):
    with util.serving(echo, backend) as server:
        host, port = server.address
        with pytest.raises(OSError, match=str(port)) as info:
            pymux.Server(echo, (host, port), backend=backend).start()
        assert info.value.errno == errno.EADDRINUSE
        assert util.everything(server.address, b"still") == b"still"


def test_a_path_in_use_is_named_and_its_server_goes_on(backend, tmp_path):
    path = tmp_path / "s"
    with util.serving(echo, backend, path) as server:
        with pytest.raises(OSError, match=str(path)) as info:
            pymux.Server(echo, path, backend=backend).start()
        assert info.value.errno == errno.EADDRINUSE
        assert util.everything(server.address, b"still") == b"still"


def test_a_path_taken_by_a_file_is_named_and_the_file_kept(backend, untouched):
    path = untouched / "file"
    with pytest.raises(OSError, match=str(path)) as info:
        pymux.Server(echo, path, backend=backend).start()
    assert info.value.errno == errno.EADDRINUSE


def test_a_path_in_a_missing_directory_is_named(backend, untouched):
    path = untouched / "missing" / "s"
    with pytest.raises(FileNotFoundError, match=str(path)):
        pymux.Server(echo, path, backend=backend).start()


def test_a_name_that_does_not_resolve_is_named(backend, untouched):
    with pytest.raises(OSError, match=r"name\.invalid"):
        pymux.Server(echo, ("name.invalid", 0), backend=backend).start()


def test_an_address_of_another_machine_is_named(backend, untouched):
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        pymux.Server(echo, ("192.0.2.1", 0), backend=backend).start()


PRIVILEGED = """
import os, sys
import pymux

with pymux.Server(print, ("127.0.0.1", 0)):
    pass  # all that this imports is imported
if os.getuid() == 0:
    try:
        os.setgid(65534)
        os.setuid(65534)
    except OSError:
        sys.exit("cannot give up root")
try:
    pymux.Server(print, ("127.0.0.1", 1)).start()
except PermissionError as error:
    print(error)
"""


def test_a_privileged_port_is_named():
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
            if int(file.read()) <= 1:
                pytest.skip("no port is privileged on this machine")
    except FileNotFoundError:
        pass
    with python("-c", PRIVILEGED) as child:
        out, err = child.communicate(timeout=20)
    if "cannot give up root" in err:
        pytest.skip("cannot give up root here")
    assert err == ""
    assert "127.0.0.1" in out
    assert "1" in out.replace("127.0.0.1", "")


def test_a_start_that_failed_may_be_tried_again(backend):
    with util.serving(echo, backend) as taken:
        server = pymux.Server(echo, taken.address, backend=backend)
        with pytest.raises(OSError, match=str(taken.address[1])):
            server.start()
    with server:
        assert util.everything(server.address, b"go") == b"go"


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), ("now", TypeError)])
def test_stop_refuses_what_is_no_time_and_the_server_goes_on(backend, value, error):
    with util.serving(echo, backend) as server:
        with pytest.raises(error, match=str(value)):
            server.stop(value)
        assert util.everything(server.address, b"still") == b"still"


def test_call_threadsafe_refuses_in_its_caller_what_cannot_be_called(backend):
    with util.serving(echo, backend) as server:
        with pytest.raises(TypeError, match="print"):
            server.call_threadsafe("print")
        assert util.everything(server.address, b"still") == b"still"


def test_a_reply_that_is_not_bytes_ends_its_connection_and_no_other(backend):
    told = []
    with (
        util.serving(
            lambda conn, data: "text" if data == b"bad" else data,
            backend,
            on_error=lambda *args: told.append(args),
        ) as server,
        util.connect(server.address) as other,
    ):
        assert util.everything(server.address, b"bad") == b""
        other.sendall(b"still")
        assert util.recv_exactly(other, 5) == b"still"
    ((_conn, error),) = told
    assert "'text'" in str(error)
    assert "str cannot be sent" in str(error)


WRONG_BATCH_REPLIES = {
    "too few": (lambda batch: batch.reply([]), ValueError, ["0", "2"]),
    "too many": (lambda batch: batch.reply([b""] * 3), ValueError, ["3", "2"]),
    "a str": (lambda batch: batch.reply([b"ok", "text"]), TypeError, ["str"]),
    "a number": (lambda batch: batch.reply([b"ok", 7]), TypeError, ["int"]),
    "no list": (lambda batch: batch.reply(None), TypeError, ["None"]),
    "data of another length": (
        lambda batch: batch.reply_data(b"xyz"),
        ValueError,
        ["3", "2"],
    ),
    "too few offsets": (
        lambda batch: batch.reply_data(b"xyz", [0, 3]),
        ValueError,
        ["2", "3"],
    ),
    "offsets past the data": (
        lambda batch: batch.reply_data(b"xyz", [0, 1, 4]),
        ValueError,
        ["4", "3"],
    ),
    "offsets that decrease": (
        lambda batch: batch.reply_data(b"xyz", [0, 2, 1]),
        ValueError,
        ["2", "1"],
    ),
    "negative offsets": (
        lambda batch: batch.reply_data(b"xyz", [-1, 0, 3]),
        ValueError,
        ["-1"],
    ),
}


@pytest.mark.parametrize("wrong", WRONG_BATCH_REPLIES)
def test_a_batch_reply_that_does_not_fit_sends_nothing(backend, wrong, tmp_path):
    reply, error, shown = WRONG_BATCH_REPLIES[wrong]
    told = []

    @pymux.batched
    def handler(batch):
        if batch.messages == [b"a", b"b"]:
            reply(batch)
        else:
            batch.reply(batch.messages)

    with (
        util.serving(
            handler,
            backend,
            tmp_path / "s",
            framing=LINES,
            on_error=lambda conn, error: told.append(error),
        ) as server,
        util.connect(server.address) as other,
    ):
        assert util.everything(server.address, b"a\nb\n") == b""
        other.sendall(b"still\n")
        assert util.recv_exactly(other, 6) == b"still\n"
    assert [type(caught) for caught in told] == [error]
    for part in shown:
        assert part in str(told[0])


@pytest.mark.parametrize(
    ("framing", "sent", "answer", "shown"),
    [
        (pymux.Fixed(4), b"abcd", b"abc", ["3", "4"]),
        (pymux.LengthPrefix(1), b"\1a", b"x" * 256, ["256", "255"]),
        (pymux.LengthPrefix(2), b"\0\1a", b"x" * 65536, ["65536", "65535"]),
    ],
)
def test_a_reply_that_its_framing_cannot_hold_says_so(
    backend, framing, sent, answer, shown
):
    told = []
    with util.serving(
        lambda conn, data: answer,
        backend,
        framing=framing,
        on_error=lambda conn, error: told.append(error),
    ) as server:
        assert util.everything(server.address, sent) == b""
    (error,) = told
    assert isinstance(error, ValueError)
    for part in shown:
        assert part in str(error)


TOO_LONG = {
    "a line": (pymux.Lines(max_size=8), b"good\n", b"toolong--\n"),
    "a line without an end": (pymux.Lines(max_size=8), b"good\n", b"x" * 5000),
    "a prefix": (
        pymux.LengthPrefix(2, max_size=8),
        b"\0\4good",
        b"\0\x09toolong--",
    ),
    "a prefix that claims all there is": (
        pymux.LengthPrefix(4, max_size=8),
        b"\0\0\0\4good",
        b"\xff\xff\xff\xff",
    ),
    "a prefix of eight bytes": (
        pymux.LengthPrefix(8, "little", max_size=8),
        struct.pack("<Q", 4) + b"good",
        struct.pack("<Q", 2**64 - 1),
    ),
}


@pytest.mark.parametrize("case", TOO_LONG)
def test_a_frame_that_is_too_long_ends_its_connection_and_no_other(backend, case):
    framing, good, bad = TOO_LONG[case]
    handler = util.Ends()
    with (
        util.serving(handler, backend, framing=framing) as server,
        util.connect(server.address) as other,
    ):
        with util.connect(server.address) as sock:
            sock.sendall(good + bad)
            assert util.until_end(sock)[0] == good
        util.wait_until(lambda: handler.ended)
        assert handler.errors() == [errno.EMSGSIZE]
        other.sendall(good)
        assert util.recv_exactly(other, len(good)) == good


def test_an_endless_line_takes_no_more_room_than_its_max_size(backend):
    framing = pymux.Lines(max_size=1000)
    with (
        util.serving(util.Ends(), backend, framing=framing) as server,
        util.connect(server.address) as sock,
    ):
        sock.settimeout(10)
        with pytest.raises(ConnectionError):
            while True:
                sock.sendall(b"x" * 100_000)
        util.wait_until(lambda: server.stats().connections == 0)
        assert server.stats().bytes_in < 2_000_000


def test_a_frame_cut_off_by_the_end_of_the_stream_is_an_error(backend):
    handler = util.Ends()
    with util.serving(handler, backend, framing=pymux.Fixed(4)) as server:
        with util.connect(server.address) as sock:
            sock.sendall(b"goodcut")
            sock.shutdown(socket.SHUT_WR)
            assert util.until_end(sock)[0] == b"good"
        util.wait_until(lambda: handler.ended)
    assert handler.errors() == [errno.EPROTO]


def by_pickle(error):
    return pickle.loads(pickle.dumps(error))


def by_old_pickle(error):
    return pickle.loads(pickle.dumps(error, 2))


class Late(pymux.ConnectionClosed):
    """A subclass of a user's."""


@pytest.mark.parametrize("kind", [pymux.ConnectionClosed, Late])
@pytest.mark.parametrize("args", [(errno.ECONNRESET, "reset"), ("ended",), ()])
@pytest.mark.parametrize("again", [by_pickle, by_old_pickle, copy.copy, copy.deepcopy])
def test_a_copy_of_the_end_of_a_connection_says_the_same(mux, kind, args, again):
    conn = mux.connect(mux.listen(HERE).address)
    error = kind(*args, connection=conn)
    error.request = "GET"
    copied = again(error)
    assert type(copied) is kind
    assert (copied.args, str(copied)) == (error.args, str(error))
    assert copied.errno == error.errno
    assert copied.request == "GET"
    copies = again in (copy.copy, copy.deepcopy)
    assert copied.connection is (conn if copies else None)
    assert error.connection is conn


def test_an_error_of_a_lost_connection_can_be_pickled(backend):
    with util.serving(lambda conn, data: conn.abort(), backend) as server:
        client = pymux.connect(server.address, timeout=10)
        with client, pytest.raises(pymux.ConnectionClosed) as info:
            client.send(b"x")
            while True:
                client.recv()
    copied = by_pickle(info.value)
    assert copied.errno == info.value.errno == errno.ECONNRESET
    assert str(copied) == str(info.value)


def test_a_missing_backend_can_be_pickled():
    error = by_pickle(pymux.BackendUnavailable(errno.ENOSYS, "no kqueue here"))
    assert type(error) is pymux.BackendUnavailable
    assert str(error) == f"[Errno {errno.ENOSYS}] no kqueue here"
