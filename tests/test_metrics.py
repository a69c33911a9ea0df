"""Figures for Prometheus: the text, the collector, and a real Prometheus."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import pymux
import pymux.metrics

from . import util
from .commands import ask, finish, one_line, write_module
from .inside_figures import attach, create, exposition
from .supervised import supervised
from .test_cli_figures import STUCK
from .test_figures import put, upper

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs flock")

EXAMPLES = Path(__file__).parent.parent / "examples" / "prometheus"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of this test's files: no other server is found."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def pages():
    made = create(slots=2)
    yield made
    made.close()


def needs(program):
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not installed"
    )


def values(text):
    """{(name, labels): value} of an exposition, as prometheus_client reads it."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(address):
    """What an address answers to Prometheus."""
    url = "http://{}:{}/metrics".format(*address)
    with urllib.request.urlopen(url, timeout=60) as answer:
        kind = answer.headers["Content-Type"]
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        return values(answer.read().decode())


def total(found, name):
    """The sum of a name over all workers."""
    return sum(value for (one, _), value in found.items() if one == name)


# --- the text -------------------------------------------------------------------


def test_each_worker_has_its_sample(pages):
    put(attach(pages.slot(0)), accepted=3, connections=2)
    gone = pages.slot(1)
    put(attach(gone), accepted=4, connections=1)
    pages.bury(gone)
    found = values(exposition(pages.read()))
    assert found["pymux_accepted_total", (("worker", "0"),)] == 3
    assert found["pymux_accepted_total", (("worker", "1"),)] == 4
    assert found["pymux_connections", (("worker", "0"),)] == 2
    assert found["pymux_connections", (("worker", "1"),)] == 0


def test_a_histogram_counts_what_is_below_each_edge(pages):
    put(
        attach(pages.slot(0)),
        messages_in=70,
        turn_rows={0: 5, 2: 10, 31: 1},
        turn_ns={10: 3, 31: 1},
        turn_sum=5_000_000_000,
    )
    found = values(exposition(pages.read()[:1]))

    def at(name, **labels):
        return found[name, tuple(sorted({"worker": "0", **labels}.items()))]

    edges = [at("pymux_turn_messages_bucket", le=le) for le in ("1", "3", "7", "+Inf")]
    assert edges == [5, 5, 15, 16]
    assert at("pymux_turn_messages_sum") == 70
    assert at("pymux_turn_messages_count") == 16
    assert at("pymux_turn_seconds_bucket", le=repr(2**10 / 1e9)) == 0
    assert at("pymux_turn_seconds_bucket", le=repr(2**11 / 1e9)) == 3
    assert at("pymux_turn_seconds_sum") == 5


def test_pauses_of_accepting_are_told_by_their_cause(pages):
    put(attach(pages.slot(0)), accept_pauses=9, shortages=2, handshake_pauses=3)
    found = values(exposition(pages.read()[:1]))
    causes = {
        dict(labels)["cause"]: value
        for (name, labels), value in found.items()
        if name == "pymux_accept_pauses_total"
    }
    assert causes == {"max_connections": 4, "shortage": 2, "max_handshakes": 3}


@needs("promtool")
def test_the_text_pleases_promtool(pages):
    put(attach(pages.slot(0)), accepted=3, gil_ns=5, turn_ns={3: 1})
    run = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition(pages.read()),
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# --- the collector ------------------------------------------------------------------


def collected(source=None):
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    registry.register(pymux.metrics.Collector(source))
    return values(client.generate_latest(registry).decode())


def test_the_collector_gives_what_the_text_says(pages):
    put(attach(pages.slot(0)), accepted=3, turn_ns={5: 2}, gil_ns=10)
    expected = values(exposition(pages.read()))
    found = collected(pages.path)
    named = {key: value for key, value in found.items() if "_created" not in key[0]}
    assert {key for key, _ in named.items()} == set(expected)
    assert named["pymux_accepted_total", (("worker", "0"),)] == 3


def test_the_collector_takes_the_file_of_its_process(pages):
    put(attach(pages.slot(0)), accepted=3)
    assert total(collected(), "pymux_accepted_total") == 3


def test_the_collector_gives_nothing_while_there_is_no_server(tmp_path):
    assert collected(tmp_path / "none") == {}
    assert collected() == {}


def test_the_collector_takes_a_server_of_its_process():
    with (
        pymux.Server(upper, ("127.0.0.1", 0)) as server,
        pymux.connect(server.address) as client,
    ):
        client.send(b"a")
        client.recv(timeout=60)
        found = collected(server)
    assert found["pymux_messages_in_total", (("worker", "0"),)] == 1


def test_a_server_of_its_process_tells_why_accepting_pauses(papers):
    limits = pymux.Limits(max_handshakes=1)
    with (
        pymux.Server(
            upper, ("127.0.0.1", 0), ssl=papers.server(), limits=limits
        ) as server,
        util.connect(server.address),
        util.connect(server.address),
    ):
        util.wait_until(lambda: server.stats().accept_pauses)
        found = collected(server)
    causes = {
        dict(labels)["cause"]: value
        for (name, labels), value in found.items()
        if name == "pymux_accept_pauses_total"
    }
    assert causes == {"max_connections": 0, "max_handshakes": 1, "shortage": 0}


def test_another_source_is_refused():
    pytest.importorskip("prometheus_client")
    with pytest.raises(TypeError, match="source is 7"):
        pymux.metrics.Collector(7)


def test_without_prometheus_client_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ImportError, match=r"pip install 'pymux-io\[metrics\]'"):
        pymux.metrics.Collector()


# --- the address ------------------------------------------------------------------


@pytest.fixture
def metrics():
    """An address that is free, as the option and as a tuple."""
    port = util.free_port()
    return f"127.0.0.1:{port}", ("127.0.0.1", port)


def test_one_process_answers_prometheus(serve, metrics):
    text, address = metrics
    server = serve("--framing", "lines", "--metrics", text)
    assert ask(server.address, b"a\nb\n") == b"A\nB\n"
    found = scraped(address)
    assert found["pymux_messages_in_total", (("worker", "0"),)] == 2
    assert found["pymux_processes", (("worker", "0"),)] == 1
    code, _, err = finish(server, signal.SIGTERM)
    assert (code, err) == (0, "")
    with pytest.raises(OSError):
        scraped(address)


def test_one_process_answers_while_its_handler_is_stuck(serve, metrics, tmp_path):
    write_module(tmp_path, STUCK)
    text, address = metrics
    server = serve("--handler", "handlers:handler", "--metrics", text)
    with util.connect(server.address) as sock:
        sock.sendall(b"go")
        key = "pymux_in_handler_seconds", (("worker", "0"),)
        util.wait_until(lambda: scraped(address)[key] > 0.3, timeout=60)
        server.kill()


def test_without_a_file_the_figures_are_those_of_stats(serve, metrics, tmp_path):
    text, address = metrics
    (tmp_path / "pymux").mkdir(mode=0o755)  # refused
    server = serve("--metrics", text)
    assert ask(server.address, b"hello") == b"HELLO"
    found = scraped(address)
    assert found["pymux_accepted_total", (("worker", "0"),)] == 1
    assert not any("turn" in name for name, _ in found)


def test_an_address_that_is_taken_is_one_line(pymux_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = f"127.0.0.1:{taken.getsockname()[1]}"
        process = pymux_command("serve", "127.0.0.1:0", "--metrics", text)
        assert one_line(process) == (1, f"address already in use: {text}")


def test_a_worker_that_is_killed_takes_no_count_along(tmp_path, metrics):
    _, address = metrics
    workers = f"pymux.Workers(2, metrics={address!r})"
    with supervised(tmp_path, workers=workers) as server:
        for _ in range(20):
            assert server.ask(b"a") == b"A"
        before = scraped(address)
        assert total(before, "pymux_messages_in_total") == 20
        for pid in server.workers().values():
            os.kill(pid, signal.SIGKILL)
        server.wait_for(r"serves", count=4)
        for _ in range(20):
            assert server.ask(b"a") == b"A"
        found = scraped(address)
        assert total(found, "pymux_messages_in_total") == 40
        assert total(found, "pymux_accepted_total") == 40
        assert total(found, "pymux_processes") == 2
        counters = [key for key in before if key[0].endswith("_total")]
        assert all(found[key] >= before[key] for key in counters)


# --- Prometheus -------------------------------------------------------------------


@contextlib.contextmanager
def prometheus(folder, target):
    """A real Prometheus that scrapes an address each second; a function that asks."""
    port = util.free_port()
    (folder / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s"},
                "rule_files": [str(EXAMPLES / "alerts.yml")],
                "scrape_configs": [
                    {
                        "job_name": "pymux",
                        "static_configs": [{"targets": ["{}:{}".format(*target)]}],
                    }
                ],
            }
        )
    )
    child = subprocess.Popen(
        [
            shutil.which("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def query(text):
        """The value of an expression; None: there is none yet."""
        asked = urllib.parse.quote(text)
        url = f"http://127.0.0.1:{port}/api/v1/query?query={asked}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                found = json.load(answer)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return None
        return float(found[0]["value"][1]) if found else None

    try:
        yield query
    finally:
        child.kill()
        child.wait()


@needs("prometheus")
@pytest.mark.timeout(240)
def test_sums_in_prometheus_are_what_the_clients_counted(tmp_path, metrics):
    """Over a roll and a kill -9: no answer is missing, and no counter goes back."""
    _, address = metrics
    workers = f"pymux.Workers(2, metrics={address!r})"
    answered = sent = 0
    with (
        supervised(tmp_path, workers=workers, framing="pymux.Lines()") as server,
        prometheus(tmp_path, address) as query,
    ):

        def agrees():
            sums = "messages_in", "messages_out", "bytes_in", "bytes_out"
            found = [query(f"sum(pymux_{name}_total)") for name in sums]
            return found == [answered, answered, sent, sent]

        for step in range(3):
            for _ in range(20):
                with util.connect(server.address) as sock:
                    data = b"abc\n" * 50
                    sock.sendall(data)
                    assert util.recv_exactly(sock, len(data)) == data.upper()
                    answered, sent = answered + 50, sent + len(data)
            if step == 0:
                server.roll(2)
            elif step == 1:
                # Between a send and its count, a kill would take the count along.
                util.wait_until(agrees, timeout=60)
                since = len(server.log)
                os.kill(max(server.workers().values()), signal.SIGKILL)
                server.wait_for("serves", since=since)
        util.wait_until(agrees, timeout=60)
        assert query("sum(pymux_accepted_total)") == 60
        assert query('max(resets(pymux_messages_in_total{job="pymux"}[1h]))') == 0
        assert query('up{job="pymux"}') == 1


@needs("promtool")
@pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout: no examples")
@pytest.mark.parametrize(
    "what", ["check config prometheus.yml", "test rules alerts_test.yml"]
)
def test_the_example_pleases_promtool(what):
    run = subprocess.run(["promtool", *what.split()], cwd=EXAMPLES, capture_output=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(not EXAMPLES.exists(), reason="not a checkout: no examples")
def test_each_alert_asks_for_figures_that_there_are(pages):
    attach(pages.slot(0)).close()
    found = {name for name, _ in values(exposition(pages.read()))}
    asked = set(re.findall(r"pymux_\w+", (EXAMPLES / "alerts.yml").read_text()))
    told = {"pymux_turn_seconds", "pymux_outside_seconds"}  # in a description
    assert asked - told <= found
