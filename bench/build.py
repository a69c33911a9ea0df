"""The C programs, compiled on first use and when a source is newer; a certificate."""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE / "build"
FLAGS = "-std=c11 -O3 -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes"


def compiler() -> list[str]:
    """What `CC` says, else `cc`."""
    return shlex.split(os.environ.get("CC", "cc"))


@functools.cache
def load(tls: bool = False) -> Path:
    """The load generator."""
    names = ("load.c", "client.c", "hist.c", "pattern.c", "proc.c")
    return _build("load", [HERE / name for name in names], tls)


@functools.cache
def epoll(tls: bool = False) -> Path:
    """The yardstick, servers/epoll.c."""
    return _build("epoll", [HERE / "servers" / "epoll.c"], tls)


@functools.cache
def figures() -> Path:
    """What counting costs a turn, figures.c with the core."""
    core = HERE.parent / "csrc"
    sources = [HERE / "figures.c", *core.glob("*.c")]
    flags = ["-std=c11", "-O3", "-I", str(core)]
    program, fresh = OUTPUT / "figures", OUTPUT / f"figures.{os.getpid()}"
    OUTPUT.mkdir(exist_ok=True)
    command = [*compiler(), *flags, "-o", str(fresh), *map(str, sources), "-lpthread"]
    subprocess.run(command, check=True)
    fresh.replace(program)
    return program


@functools.cache
def without_tls() -> str | None:
    """Why nothing can run over TLS here, or None."""
    if importlib.util.find_spec("trustme") is None:
        return "trustme is not installed"
    include = "#include <openssl/ssl.h>\n"
    command = [*compiler(), "-E", "-x", "c", "-"]
    tried = subprocess.run(command, input=include, capture_output=True, text=True)
    return "OpenSSL's headers (libssl-dev) are missing" if tried.returncode else None


@functools.cache
def certificate() -> Path:
    """A certificate and its key, for every server over TLS: P-256, made by trustme."""
    import trustme

    pem = OUTPUT / "certificate.pem"
    if not pem.exists():
        OUTPUT.mkdir(exist_ok=True)
        issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
        fresh = OUTPUT / f"certificate.{os.getpid()}"
        issued.private_key_and_cert_chain_pem.write_to_path(fresh)
        fresh.replace(pem)
    return pem


def _build(name: str, sources: list[Path], tls: bool) -> Path:
    flags, libraries = FLAGS.split(), []
    if tls:
        name = f"{name}-tls"
        sources = [*sources, HERE / "wire.c"]
        flags, libraries = [*flags, "-DBENCH_TLS"], ["-lssl", "-lcrypto"]
    program = OUTPUT / name
    inputs = [*sources, *HERE.glob("*.h")]
    if program.exists() and program.stat().st_mtime > max(
        path.stat().st_mtime for path in inputs
    ):
        return program
    OUTPUT.mkdir(exist_ok=True)
    fresh = OUTPUT / f"{name}.{os.getpid()}"  # never half a program
    command = [*compiler(), *flags, "-o", str(fresh), *map(str, sources)]
    subprocess.run([*command, *libraries], check=True)
    fresh.replace(program)
    return program
