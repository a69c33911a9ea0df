"""How the core is compiled on the systems that these tests do not run on."""

import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "build_core.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="without the source")


@pytest.fixture(scope="module")
def build_core():
    """The build script, imported; which compiles nothing."""
    spec = importlib.util.spec_from_file_location("build_core", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("platform", "tag", "option", "libraries"),
    [
        ("linux", "linux-x86_64", "-std=c11", []),
        ("darwin", "macosx-14.0-arm64", "-std=c11", []),
        ("win32", "win-amd64", "/std:c11", ["ws2_32"]),
        ("win32", "mingw_x86_64_ucrt", "-std=c11", ["ws2_32"]),
        ("sunos5", "solaris-2.11-i86pc.64bit", "-std=gnu11", ["socket", "nsl"]),
    ],
)
def test_the_core_is_c11_and_linked_with_what_holds_sockets(
    monkeypatch, build_core, platform, tag, option, libraries
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sysconfig, "get_platform", lambda: tag)
    assert build_core.compile_args()[0] == option
    assert build_core.libraries() == libraries
