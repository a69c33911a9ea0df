"""Describe the extension `pymux._core` to cffi.

The declarations are the text between the two markers of the public headers, so that
there is one place where the C API stands. Nothing here imports pymux.
"""

import os
import sys
import sysconfig
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
HEADERS = [
    "stats.h",
    "pymux.h",
    "moving.h",
    "watch.h",
    "tls.h",
    "proxy.h",
    "arrow.h",
    "load.h",
]


def declarations() -> str:
    """The cdef: what stands between the markers of the public headers."""
    texts = [(CSRC / name).read_text(encoding="utf-8") for name in HEADERS]
    return "".join(
        text.split("/* cdef begin */")[1].split("/* cdef end */")[0] for text in texts
    )


def relative(path: Path) -> str:
    """A path that setuptools accepts: relative, with forward slashes."""
    return path.relative_to(ROOT).as_posix()


def compile_args() -> list[str]:
    """What the compiler is told beside what Python was built with."""
    if sys.platform == "win32" and not sysconfig.get_platform().startswith("mingw"):
        return ["/std:c11"]
    # Solaris hides most of its API from a compiler that is strict about C
    dialect = "gnu11" if sys.platform.startswith("sunos") else "c11"
    args = [f"-std={dialect}", "-O3", "-fvisibility=hidden"]
    # No path of this machine in the debugging information: two builds are the same.
    args += [
        f"-ffile-prefix-map={place}=." for place in sorted({str(ROOT), os.getcwd()})
    ]
    if sys.platform.startswith("linux"):
        args.append("-fstack-protector-strong")
        # A sanitizer sees less of what goes through the checked functions.
        if "-fsanitize" not in os.environ.get("CFLAGS", ""):
            # Some distributions' Python brings a value of its own.
            args += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
    return args


def link_args() -> list[str]:
    """What the linker is told: on Linux, addresses of functions are read-only."""
    if sys.platform.startswith("linux"):
        return ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]
    return []


def libraries() -> list[str]:
    """What holds the sockets, where libc does not."""
    if sys.platform == "win32":
        return ["ws2_32"]
    return ["socket", "nsl"] if sys.platform.startswith("sunos") else []


ffibuilder = FFI()
ffibuilder.cdef(declarations())
# Drives the TLS objects whose OpenSSL the core cannot reach: pymux/engine/tls*.py.
ffibuilder.cdef('extern "Python" void pymux_tls(pmx_tls_work *);')
ffibuilder.set_source(
    "pymux._core",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=[relative(path) for path in sorted(CSRC.glob("*.c"))],
    depends=[relative(path) for path in sorted(CSRC.glob("*.h"))],
    include_dirs=["csrc"],
    extra_compile_args=compile_args(),
    extra_link_args=link_args(),
    libraries=libraries(),
)

if __name__ == "__main__":
    os.chdir(ROOT)
    ffibuilder.compile(verbose=True)
