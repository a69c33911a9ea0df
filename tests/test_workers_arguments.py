"""`Workers`, and what `serve(workers=)` refuses."""

import os
import subprocess
import sys

import pytest

import pymux

from . import inside

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"count": 0}, ValueError, "count is 0; it must be from 1 to 1024"),
        ({"count": "all"}, ValueError, "count is 'all'; an int or 'auto' is needed"),
        ({"count": 1.5}, TypeError, "count is 1.5; an int from 1 to 1024 or 'auto'"),
        ({"handover": 1}, TypeError, "handover is 1; True or False is needed"),
        ({"grace": -1}, ValueError, "grace is -1; it must be 0 or more seconds"),
        ({"grace": None}, TypeError, "grace is None; 0 or more seconds are needed"),
        ({"start_timeout": 0}, ValueError, "start_timeout is 0; seconds above 0"),
        ({"watchdog": 0}, ValueError, "watchdog is 0; seconds above 0 or None"),
        ({"max_age": "1h"}, TypeError, "max_age is '1h'; 0 or more seconds"),
        ({"max_memory": 0}, ValueError, "max_memory is 0; it must be from 1"),
        ({"metrics": "host:80"}, ValueError, "'host:80' is a str"),
        ({"health": 80}, TypeError, "80"),
    ],
)
def test_workers_refuses_what_cannot_be(options, error, text):
    with pytest.raises(error) as caught:
        pymux.Workers(**options)
    assert text in str(caught.value)


def test_workers_is_a_frozen_value():
    assert pymux.Workers(2) == pymux.Workers(2)
    assert hash(pymux.Workers(2)) == hash(pymux.Workers(2))
    with pytest.raises(AttributeError):
        pymux.Workers().count = 3


def refused(error, handler, **options):
    options.setdefault("workers", 1)
    with pytest.raises(error) as caught:
        pymux.serve(handler, ("127.0.0.1", 0), **options)
    return str(caught.value)


class Game:
    def received(self, conn, data):
        return data


game = Game()
upper = lambda conn, data: data.upper()  # noqa: E731


def test_an_instance_is_refused_with_the_string_to_give():
    text = refused(TypeError, game)
    assert text.endswith(f"give the string '{__name__}:game'")


def test_a_lambda_is_refused_with_the_string_to_give():
    text = refused(TypeError, upper)
    assert text.endswith(f"give the string '{__name__}:upper'")


def test_a_local_function_is_refused():
    def local(conn, data):
        return data

    text = refused(TypeError, local)
    assert "which a worker cannot find by its name; give it a name in a module" in text
    assert text.endswith("""the string "module:name", like 'app:handler'""")


def test_a_string_that_names_nothing_is_refused():
    assert "a string is 'module:name', like 'app:handler'" in refused(ValueError, "app")


def test_a_context_is_refused_where_a_function_that_makes_it_is_needed(papers):
    text = refused(TypeError, "app:handler", ssl=papers.server())
    assert "a function that makes it" in text


def test_an_option_that_cannot_be_pickled_is_named():
    class Local(pymux.Limits):
        pass

    text = refused(TypeError, "app:handler", limits=Local())
    assert text.startswith("limits is ")
    assert "which a worker cannot be given" in text


def test_other_arguments_are_checked_as_server_does():
    assert "workers is 0" in refused(ValueError, "app:handler", workers=0)
    assert "drain_timeout is -1" in refused(ValueError, "app:handler", drain_timeout=-1)


def cgroup(root, lines, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(8)), raising=False
    )


def test_auto_is_a_worker_for_each_cpu_of_the_affinity(eight_cpus, tmp_path):
    assert inside.usable_cpus(tmp_path) == 8


@pytest.mark.parametrize(
    "lines, files, expected",
    [
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, 8),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, 8),
        ("0::/a\n", {"a/cpu.max": "1600000 100000\n"}, 8),
        (
            "3:cpu,cpuacct:/x\n",
            {
                "cpu/x/cpu.cfs_quota_us": "150000\n",
                "cpu/x/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            "3:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_auto_keeps_to_the_quota_of_the_cgroup(
    lines, files, expected, eight_cpus, tmp_path
):
    cgroup(tmp_path, lines, files)
    assert inside.usable_cpus(tmp_path) == expected


def fails(tmp_path, handler, main="if __name__ == '__main__'"):
    """What a script says that cannot serve with workers: (its one traceback, what the
    worker adds). Of pymux, the first has only the call itself."""
    (tmp_path / "main.py").write_text(
        f"import pymux\n{main}:\n"
        f"    pymux.serve({handler}, ('127.0.0.1', 0), workers=1)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, _, added = done.stderr.strip().partition("\nin the worker:\n")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert names(said) == ["main.py", "run.py", "serve.py"]
    return said, added


def names(text):
    return [
        os.path.basename(line.split('"')[1])
        for line in text.splitlines()
        if 'File "' in line
    ]


def test_a_module_that_raises_is_one_traceback_of_the_users_lines(tmp_path):
    (tmp_path / "app.py").write_text("import broken\n")
    (tmp_path / "broken.py").write_text("x = 1 / 0\n")
    said, added = fails(tmp_path, "'app:handler'")
    assert said.endswith("ZeroDivisionError: division by zero (broken.py, line 1)")
    assert names(added) == ["app.py", "broken.py"]


def test_a_module_or_name_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "app.py").write_text("")
    for handler, text in (
        ("'nothing:handler'", "ModuleNotFoundError: No module named 'nothing'"),
        ("'app:handler'", "AttributeError: module 'app' has no 'handler'"),
    ):
        said, added = fails(tmp_path, handler)
        line = f"RuntimeError: worker 0 could not start: {text}"
        assert (said.splitlines()[-1], added) == (line, "")


def test_a_script_that_serves_when_it_is_imported_is_told_what_to_write(tmp_path):
    said, added = fails(
        tmp_path, "mine", "def mine(conn, data):\n    return data\nif True"
    )
    assert "put that call under: if __name__ == '__main__'" in said.splitlines()[-1]
    assert names(added) == ["main.py"]


def test_a_handler_without_a_name_is_one_line_with_the_string_to_give(tmp_path):
    said, _ = fails(tmp_path, "lambda conn, data: data")
    assert said.endswith("the string \"module:name\", like 'app:handler'")
