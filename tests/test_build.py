"""Building the package: what it says where it cannot, and the same bytes twice.

Without a network: `setup.py` is run as pip's backend runs it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]

try:
    import setuptools
except ImportError:
    setuptools = None

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="without the source"),
    pytest.mark.skipif(
        setuptools is None or int(setuptools.__version__.split(".")[0]) < 77,
        reason="needs setuptools 77",
    ),
    pytest.mark.skipif(os.name != "posix", reason="sets CC"),
]

# As setup.py, but with headers nowhere.
WITHOUT_HEADERS = """
import runpy, sys
import setuptools
from distutils import sysconfig
sysconfig.get_python_inc = lambda *args, **options: "/nonexistent/include"
sys.argv[0] = "setup.py"
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of what the package is built from."""
    return copy_to(tmp_path / "tree")


def copy_to(place):
    place.mkdir()
    for name in ("setup.py", "build_core.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, place)
    for name in ("README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, place)
    leave = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "build")
    for name in ("csrc", "pymux"):
        shutil.copytree(ROOT / name, place / name, ignore=leave)
    return place


def run(tree, *command, **environment):
    """A command of setup.py: its exit code, and what it printed as errors."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr.strip()


def test_a_missing_compiler_is_named_in_the_last_line(tree):
    code, errors = run(tree, "setup.py", "-q", "build_ext", CC="/nonexistent/cc")
    assert code == 1
    last = errors.splitlines()[-1]
    assert last.startswith("error: pymux needs a C compiler: '/nonexistent/cc' was not")
    assert "apt-get install gcc" in last
    assert "xcode-select --install" in last
    assert "Visual Studio" in last
    assert "Traceback" not in errors


@pytest.mark.skipif(not shutil.which(COMPILER), reason="needs a C compiler")
def test_missing_headers_are_named_in_the_last_line(tree):
    code, errors = run(tree, "-c", WITHOUT_HEADERS, "-q", "build_ext")
    assert code == 1
    last = errors.splitlines()[-1]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert last.startswith(f"error: pymux needs the headers of Python {version}")
    assert "apt-get install python3-dev" in last
    assert "Traceback" not in errors


@pytest.mark.skipif(not shutil.which(COMPILER), reason="needs a C compiler")
def test_what_does_not_compile_is_left_to_the_compiler_to_tell(tree):
    with open(tree / "csrc" / "mux.c", "a") as file:
        file.write("#error so it is\n")
    code, errors = run(tree, "setup.py", "-q", "build_ext")
    assert code == 1
    assert "so it is" in errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: the C core of pymux was not built")
    assert "Traceback" not in errors


@pytest.mark.parametrize("umask", ["077", "002"])
def test_an_sdist_depends_on_neither_umask_nor_place_nor_time(tmp_path, umask):
    made = []
    for name, mask in (("one", "022"), ("other place", umask)):
        tree = copy_to(tmp_path / name)
        if umask == mask:
            for path in (tree / "csrc").iterdir():
                path.chmod(0o600)
                os.utime(path, (1, 1))
        shell = f'umask {mask} && exec "$0" setup.py -q sdist'
        subprocess.run(
            ["sh", "-c", shell, sys.executable],
            cwd=tree,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1000000000"},
            capture_output=True,
            check=True,
        )
        (archive,) = (tree / "dist").iterdir()
        made.append(archive.read_bytes())
    assert made[0] == made[1]
