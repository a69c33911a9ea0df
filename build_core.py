"""Describe the extension `pymux._core` to cffi.

The declarations are the text between the two markers of csrc/pymux.h, so that
there is one place where the C API stands. Nothing here imports pymux.
"""

import os
import sys
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"


def declarations() -> str:
    """The cdef: what stands between the markers of pymux.h."""
    text = (CSRC / "pymux.h").read_text(encoding="utf-8")
    return text.split("/* cdef begin */")[1].split("/* cdef end */")[0]


def relative(path: Path) -> str:
    """A path that setuptools accepts: relative, with forward slashes."""
    return path.relative_to(ROOT).as_posix()


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "pymux._core",
    '#include "pymux.h"',
    sources=[relative(path) for path in sorted(CSRC.glob("*.c"))],
    depends=[relative(path) for path in sorted(CSRC.glob("*.h"))],
    include_dirs=["csrc"],
    extra_compile_args=(
        [] if os.name == "nt" else ["-std=c11", "-O3", "-fvisibility=hidden"]
    ),
    libraries=["ws2_32"] if sys.platform == "win32" else [],
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffibuilder.compile(verbose=True)
