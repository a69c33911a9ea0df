"""The command line: `pymux info`, the version, and the addresses it takes."""

import platform
import re

import pytest

import pymux

from . import inside
from .commands import finish


def test_info_tells_what_a_report_should_say(pymux_command):
    code, out, err = finish(pymux_command("info"))
    assert (code, err) == (0, "")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines())
    assert re.match(r"\d+\.\d+", rows["pymux"])
    assert rows["python"].endswith(platform.python_version())
    assert rows["kernel"].startswith(platform.system())
    assert re.match(r"\d+|unlimited", rows["descriptors"])
    assert rows["compiler"]
    for name in ("epoll", "kqueue", "poll", "select"):
        works = rows[f"backend {name}"] == "works"
        assert works == (name in pymux.backends())
        assert works or rows[f"backend {name}"].startswith("missing: ")


def test_the_version_is_printed(pymux_command):
    code, out, _ = finish(pymux_command("--version"))
    assert code == 0
    assert re.fullmatch(r"pymux \d+\.\d+\.\d+\S*\n", out)


def test_the_command_is_installed_under_its_name():
    from importlib.metadata import distribution

    (entry,) = [
        point
        for point in distribution("pymux-io").entry_points
        if point.group == "console_scripts"
    ]
    assert (entry.name, entry.load()) == ("pymux", inside.command)


@pytest.mark.parametrize(
    "text, value",
    [
        ("127.0.0.1:8093", ("127.0.0.1", 8093)),
        ("[::1]:8093", ("::1", 8093)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        (":80", ("", 80)),
        ("localhost:0", ("localhost", 0)),
        ("unix:/tmp/x", "/tmp/x"),
        ("unix:a:b", "./a:b"),
    ],
)
def test_addresses_are_read(text, value):
    assert inside.parse_address(text).value == value
