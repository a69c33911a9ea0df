"""The machine, the versions, and what the system allows here."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import resource
import ssl
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from . import build

PACKAGES = ("pymux-io", "uvloop", "gevent", "trio", "twisted", "numpy")


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpu_list(text: str) -> set[int]:
    """Read a kernel list such as `0-3,8`."""
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


class Cpus(NamedTuple):
    """Who runs where, as lists for taskset; None where there is but one CPU."""

    server: str | None
    load: str | None
    unpinned: str | None  # for a server that may use more than one


@functools.cache
def cpus() -> Cpus:
    """CPUs for server and load: of different cores if any are."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cpus(None, None, None)
    server = usable[0]
    topology = f"/sys/devices/system/cpu/cpu{server}/topology/thread_siblings_list"
    siblings = _cpu_list(_read(topology))
    load = next((c for c in usable[1:] if c not in siblings), usable[1])
    several = [c for c in usable if c != load or len(usable) == 2]
    return Cpus(str(server), str(load), ",".join(map(str, several)))


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts() -> dict[str, object]:
    """What a reader needs to judge the figures by."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "virtual": "hypervisor" in _read("/proc/cpuinfo"),
        "libc": " ".join(platform.libc_ver()),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "somaxconn": _read("/proc/sys/net/core/somaxconn"),
        "load_average": os.getloadavg()[0],
        "server_cpu": cpus().server,
        "load_cpu": cpus().load,
    }


def versions() -> dict[str, str]:
    """Of the interpreter, the compiler and each package that is installed."""
    found = {"python": f"{platform.python_implementation()} {sys.version.split()[0]}"}
    found["openssl"] = ssl.OPENSSL_VERSION.removeprefix("OpenSSL ")
    first = subprocess.run(
        [*build.compiler(), "--version"], capture_output=True, text=True, check=False
    )
    found["cc"] = first.stdout.partition("\n")[0]
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "-C", str(build.HERE), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found
