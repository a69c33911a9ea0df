"""`pymux info`: the facts that a report of a problem should state."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from ..engine.backends import compiler, reasons
from ..engine.openssl import NO_SSL, openssl_version, tls_engine
from ..values.errors import BackendUnavailable
from .console import say
from .descriptors import describe_limit


def run_info(args: argparse.Namespace) -> int:
    """Print the versions, the backends and the limits of this machine."""
    known = reasons()
    rows = [
        ("pymux", version()),
        ("python", f"{platform.python_implementation()} {platform.python_version()}"),
        *(
            (f"backend {name}", "works" if reason is None else f"missing: {reason}")
            for name, reason in known.items()
        ),
        (
            "kernel",
            " ".join([platform.system(), platform.release(), platform.machine()]),
        ),
        ("openssl", openssl_version() or f"missing: {NO_SSL}"),
        ("tls", tls()),
        ("descriptors", describe_limit()),
        ("compiler", compiler()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")
    return 0


def tls() -> str:
    """Say which engine drives TLS, and why."""
    try:
        engine = tls_engine()
    except (BackendUnavailable, ValueError) as error:
        return f"unavailable: {getattr(error, 'strerror', None) or error}"
    return f"{engine.name}: {engine.reason}"


def version() -> str:
    try:
        return importlib.metadata.version("pymux-io")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
