"""Pages of figures: what a process counts, others read in the file of its pages."""

import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import time

import pytest

import pymux

from .inside_figures import (
    KINDS,
    OTHER,
    PAGE,
    VERSION,
    NoFigures,
    Reader,
    attach,
    changing,
    count_in,
    create,
    engine_of,
    figures_pages,
    live_files,
    places,
    read_places,
    write_places,
)
from .util import wait_until


def upper(conn, data):
    return data.upper()


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs flock")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of this test's files."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "pymux"


@pytest.fixture
def pages():
    made = create(slots=2)
    yield made
    made.close()


def put(page, **figures):
    """Count as a process does: {name: value, or {bucket: value}}."""
    where = {one.name: one.word for one in places()}
    for name, value in figures.items():
        for k, one in value.items() if isinstance(value, dict) else [(0, value)]:
            word = struct.pack("=Q", one)
            os.pwrite(page.fd, word, page.offset + 8 * (where[name] + k))
    page.close()


def count_here(mux, number):
    page = attach(number)
    engine_of(mux).count_in(page.fd, page.offset)
    page.close()


# --- who counts, and who reads ------------------------------------------------


def test_a_server_counts_in_its_page(pages, backend):
    server = pymux.Server(upper, ("127.0.0.1", 0), backend=backend)
    count_in(server, attach(pages.slot(1)))
    with server, pymux.connect(server.address) as client:
        client.send(b"hello")
        assert client.recv(timeout=30) == b"HELLO"
        with Reader(pages.path) as reader:
            none, found = reader.read()
        assert (none["worker"], none["processes"], none["accepted"]) == (0, [], 0)
        assert found["worker"] == 1
        (process,) = found["processes"]
        assert (process["pid"], process["backend"]) == (os.getpid(), backend)
        assert found["messages_in"] == 1 and found["bytes_in"] == 5
        assert (found["connections"], found["listeners"]) == (1, 1)
        assert server.stats().accepted == 1
    assert server.stats().accepted == 1
    _, found = pages.read()
    assert (found["accepted"], found["connections"], found["listeners"]) == (1, 0, 0)


def test_what_was_counted_before_is_in_the_page(pages):
    with pymux.Mux() as mux:
        mux.listen(("127.0.0.1", 0))
        count_here(mux, pages.slot(0))
        mux.listen(("127.0.0.1", 0))
        assert mux.stats().listeners == pages.read()[0]["listeners"] == 2


def test_a_mux_that_has_closed_writes_nothing_more(pages):
    number = pages.slot(0)
    mux = pymux.Mux()
    count_here(mux, number)
    mux.listen(("127.0.0.1", 0))
    mux.close()
    pages.bury(number)
    assert mux.stats().harvests == pages.read()[0]["harvests"]
    assert pages.read()[0]["processes"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_changes_no_figure(pages):
    with pymux.Mux() as mux:
        count_here(mux, pages.slot(0))
        mux.listen(("127.0.0.1", 0))
        pid = os.fork()
        if not pid:
            mux.close()
            pages.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        with Reader(pages.path) as reader:
            assert reader.read()[0]["listeners"] == 1


def test_a_child_counts_in_the_file_that_it_inherits(pages):
    number = pages.slot(0)
    code = (
        "import os, sys, pickle\n"
        "from pymux.figures.pages import attach\n"
        "page = attach(pickle.loads(bytes.fromhex(sys.argv[1])), int(sys.argv[2]))\n"
        "page.sign('other')\n"
        "os.pwrite(page.fd, bytes([42]), page.offset + 16)\n"
    )
    said = pickle.dumps(number).hex()
    run = [sys.executable, "-c", code, said, str(pages.fileno())]
    child = subprocess.Popen(run, pass_fds=[pages.fileno()])
    assert child.wait(60) == 0
    (process,) = pages.read()[0]["processes"]
    assert (process["pid"], process["backend"]) == (child.pid, "other")
    assert pages.read()[0]["accepted"] == 42


# --- what is counted ------------------------------------------------------------


def test_a_handler_that_is_stuck_shows_from_outside(pages):
    begun, go_on = threading.Event(), threading.Event()

    def stuck(conn, data):
        begun.set()
        go_on.wait(60)
        return data

    def process():
        return pages.read()[0]["processes"][0]

    server = pymux.Server(stuck, ("127.0.0.1", 0))
    count_in(server, attach(pages.slot(0)))
    try:
        with server, pymux.connect(server.address) as client:
            client.send(b"a")
            assert begun.wait(60)
            first = process()
            assert 0 < first["in_handler"] <= first["since_turn"]
            wait_until(lambda: process()["in_handler"] > first["in_handler"] + 0.2)
            go_on.set()
            assert client.recv(timeout=60) == b"a"
            wait_until(lambda: process()["in_handler"] == 0)  # it waits for input
    finally:
        go_on.set()


def test_every_turn_is_in_the_histograms(pages):
    with pymux.Mux() as mux:
        count_here(mux, pages.slot(0))
        for _ in range(5):
            mux.harvest(0)
        found = pages.read()[0]
        assert sum(found["turn_ns"]) == found["harvests"] == mux.stats().harvests
        assert sum(found["outside_ns"]) == found["harvests"] - 1
        assert found["turn_sum"] > 0 and found["outside_sum"] > 0
        assert sum(found["turn_rows"]) == 0


def test_the_wait_for_the_gil_is_told(pages):
    """Another thread computes, and gives the GIL up every 50 ms alone."""
    ended = threading.Event()

    def compute():
        while not ended.is_set():
            pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.05)
    computing = threading.Thread(target=compute)
    with pymux.Mux() as mux:
        count_here(mux, pages.slot(0))
        computing.start()
        try:
            by = time.monotonic() + 60
            while not pages.read()[0]["gil_ns"] > 1e7:
                assert time.monotonic() < by
                mux.harvest(0.002)  # a wait, so that the other thread takes the GIL
        finally:
            sys.setswitchinterval(interval)
            ended.set()
            computing.join()


# --- the past -----------------------------------------------------------------


def test_counters_of_a_process_that_has_ended_stay(pages):
    first, second = pages.slot(0), pages.slot(0)
    put(attach(first), accepted=3, connections=2, turn_rows={0: 1, 31: 5})
    put(attach(second), accepted=4, connections=1, turn_rows={31: 1})
    before = pages.read()[0]
    assert (before["accepted"], before["connections"]) == (7, 3)
    assert len(before["processes"]) == 2
    pages.bury(first)
    after = pages.read()[0]
    assert (after["accepted"], after["connections"]) == (7, 1)
    assert (after["turn_rows"][0], after["turn_rows"][31]) == (1, 6)
    assert len(after["processes"]) == 1
    pages.bury(second)
    assert pages.read()[0]["accepted"] == 7


def test_the_page_of_a_process_that_has_ended_is_used_again_and_empty(pages):
    number = pages.slot(0)
    put(attach(number), accepted=3)
    pages.bury(number)
    size = os.path.getsize(pages.path)
    again = pages.slot(1)
    assert again.page == number.page and os.path.getsize(pages.path) == size
    assert [one["accepted"] for one in pages.read()] == [3, 0]


def test_a_slot_may_be_added_while_somebody_reads(pages):
    with Reader(pages.path) as reader:
        assert len(reader.read()) == 2
        put(attach(pages.slot(2)), accepted=9)
        assert [one["accepted"] for one in reader.read()] == [0, 0, 9]


def test_a_counter_never_goes_back_while_processes_end(pages):
    """Each burial moves 1,000 from a live page to the past, under a reader."""
    ended = threading.Event()
    seen, fault = [], []

    def read():
        with Reader(pages.path) as reader:
            while not ended.is_set():
                seen.append(reader.read()[0]["accepted"])
                if len(seen) > 1 and not seen[-2] <= seen[-1]:
                    fault.append(seen[-2:])

    reading = threading.Thread(target=read)
    reading.start()
    total, interval = 0, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            number = pages.slot(0)
            put(attach(number), accepted=1000)
            total += 1000
            pages.bury(number)
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        reading.join()
    assert not fault
    assert all(one % 1000 == 0 for one in seen)
    assert pages.read()[0]["accepted"] == total


def test_a_reader_gives_up_on_a_change_that_never_ends(pages, monkeypatch):
    put(attach(pages.slot(0)), accepted=5)
    monkeypatch.setattr("pymux.figures.reading.PATIENCE", 0.0)
    with changing(pages, 0):
        assert pages.read()[0]["accepted"] == 5


# --- the file -----------------------------------------------------------------


def test_the_file_is_for_its_user_alone(folder, pages):
    assert os.path.dirname(pages.path) == str(folder)
    assert os.stat(pages.path).st_mode & 0o777 == 0o600
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert os.path.basename(pages.path) == f"{os.getpid()}.stats"


def test_a_service_has_its_file_in_its_runtime_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/elsewhere")
    made = create()
    assert os.path.dirname(made.path) == str(tmp_path)
    assert live_files() == [made.path]
    made.close()


def test_a_folder_that_others_may_enter_is_refused(folder):
    folder.mkdir(mode=0o755)
    with pytest.raises(PermissionError, match="0700"):
        create()


def test_a_link_in_place_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(PermissionError):
        create()


def test_the_newest_live_file_is_found(pages):
    newer = create()
    assert newer.path != pages.path  # one process may have two
    with Reader() as reader:
        assert reader.path == newer.path and reader.is_live()
    newer.close()
    assert not os.path.exists(newer.path)
    assert live_files() == [pages.path]
    with Reader() as reader:
        assert reader.path == pages.path


def test_a_file_whose_maker_was_killed_is_passed_over_and_removed(folder):
    code = "import os; from pymux.figures.pages import create; create(); os._exit(1)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
    (left,) = folder.iterdir()
    assert live_files() == []
    with pytest.raises(NoFigures, match="no server of this user"):
        Reader()
    with Reader(str(left)) as reader:
        assert not reader.is_live()
    create().close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no file of figures"),
        (b"x" * 10000, "no file of figures"),
        (b"pymuxfig" + b"\xff" * PAGE, f"and not {VERSION}"),
    ],
)
def test_another_file_is_refused_in_a_line(tmp_path, content, why):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(NoFigures, match=why):
        Reader(str(path))


def test_a_file_that_is_cut_short_is_an_error_and_no_crash(pages):
    with Reader(pages.path) as reader:
        os.truncate(pages.path, PAGE)
        with pytest.raises(NoFigures, match="cut short"):
            reader.read()


@pytest.mark.parametrize("path", ["/does/not/exist", "/", "/dev/null"])
def test_a_path_that_is_no_file_is_refused_in_a_line(path):
    with pytest.raises(NoFigures, match=path):
        Reader(path)


# --- versions -------------------------------------------------------------------


def test_each_figure_of_the_core_has_a_kind():
    own = {
        "shortage",
        "full",
        "busy",
        "refuser",
        "proxy_error",
        "asleep",
    }  # for the process itself
    assert {one.name for one in places() if one.kind == OTHER} == own
    assert set(KINDS) == {one.name for one in places()} - own
    assert set(pymux.Stats.__dataclass_fields__) - set(KINDS) == {
        "backend",
        "arenas_held",
    }


def test_a_reader_of_another_version_goes_by_the_names(tmp_path, pages):
    """The file has a figure more, in front, and one less."""
    put(attach(pages.slot(0)), accepted=3, closed=8)
    with open(pages.path, "rb") as file:
        content = bytearray(file.read())
    where = {one.name: one for one in places()}
    told = [where["closed"]._replace(name="novel"), where["accepted"]]
    content[64:PAGE] = write_places(told).encode().ljust(PAGE - 64, b"\0")
    other = tmp_path / "other.stats"
    other.write_bytes(content)
    with Reader(str(other)) as reader:
        found = reader.read()[0]
    assert (found["novel"], found["accepted"]) == (8, 3)
    assert "closed" not in found


def test_a_process_that_counts_other_figures_gets_no_page(pages, monkeypatch):
    number = pages.slot(0)
    ours = places()
    monkeypatch.setattr(figures_pages, "places", lambda: ours[1:])
    with pytest.raises(ValueError, match="another version"):
        attach(number)


def test_a_later_version_may_append_figures(pages, monkeypatch):
    ours = places()
    monkeypatch.setattr(figures_pages, "places", lambda: ours[:-1])
    attach(pages.slot(0)).close()


@pytest.mark.parametrize(
    "line", ["a sum 480 1", "a sum -1 1", "a sum 0 0", "a", "a b c d"]
)
def test_a_place_beyond_the_page_is_refused(line):
    with pytest.raises(ValueError):
        read_places(line, 480)


def test_figures_are_plain_values(pages):
    pages.slot(0)
    assert json.loads(json.dumps(pages.read())) == pages.read()
