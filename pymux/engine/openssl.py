"""Which engine drives TLS in this process: "adopted" or "portable".

An adopted connection costs no call into Python: the core drives the `SSL` inside the
`ssl.SSLObject`, by the functions of the OpenSSL that this interpreter's `ssl` uses.
They are looked up here, by name, in what `_ssl` links: pymux needs no header of
OpenSSL, and brings none. A portable connection is driven through its `SSLObject`
(tls_portable.py), wherever adoption is not possible or this suite has not run: a later
`ssl` might verify a peer in Python, behind the handshake, which adoption would skip.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import sysconfig
from typing import Any, NamedTuple

from .._core import ffi, lib
from ..values.errors import BackendUnavailable
from .locks import RLock

__all__ = ["NO_SSL", "Choice", "asked_for", "openssl", "openssl_version", "tls_engine"]

# The interpreters on which the whole suite has run with adopted connections. In
# free-threaded builds `ssl` locks each object, and the core cannot take those locks.
VERIFIED = {
    "cpython": ("CPython", (3, 11), (3, 15)),
    "pypy": ("PyPy", (3, 11), (3, 11)),
}
ACCEPTED = ("adopt", "portable")

NO_SSL = "this Python was built without the ssl module"


class Choice(NamedTuple):
    """The engine of a process.

    Attributes:
        adopts: True if the core drives OpenSSL itself.
        reason: why, in words.
    """

    adopts: bool
    reason: str

    @property
    def name(self) -> str:
        """ "adopted" or "portable"."""
        return "adopted" if self.adopts else "portable"


_lock: Any = RLock()
_chosen: Choice | None = None
_library: Any = None  # of `ctypes`; kept, since OpenSSL calls the core from now on
_told = False  # the core has the functions


def tls_engine() -> Choice:
    """Choose the engine, once a process; from then on return the same.

    Raises:
        BackendUnavailable: there is no `ssl`; or PYMUX_TLS is "adopt", and adoption is
            impossible.
        ValueError: PYMUX_TLS is neither "adopt" nor "portable".
    """
    global _chosen
    with _lock:
        if _chosen is None:
            _chosen = _choose(os.environ.get("PYMUX_TLS") or None)
        return _chosen


def openssl_version() -> str | None:
    """Return the version of OpenSSL in words; None without `ssl`."""
    try:
        import ssl
    except ImportError:
        return None
    return ssl.OPENSSL_VERSION


def openssl() -> Any:
    """Return the library that has OpenSSL's functions, as `ctypes` loads it.

    Only where the core has taken them: the connections of this process are adopted.
    """
    return _library


def asked_for(address: int) -> str | None:
    """Return the server that the peer of an adopted `SSL` has asked for, by SNI."""
    import ctypes

    call = _library.SSL_get_servername
    call.restype, call.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int]
    name = call(address, 0)  # TLSEXT_NAMETYPE_host_name
    return None if name is None else name.decode("ascii", "replace")


def _choose(wish: str | None) -> Choice:
    """Choose the engine.

    Args:
        wish: the value of PYMUX_TLS.
    """
    if wish is not None and wish not in ACCEPTED:
        names = " and ".join(ACCEPTED)
        raise ValueError(f"PYMUX_TLS is {wish!r}; {names} are accepted")
    if openssl_version() is None:
        raise BackendUnavailable(errno.ENOTSUP, NO_SSL)
    if wish == "portable":
        return Choice(False, "PYMUX_TLS is portable")
    version = None if wish == "adopt" else _unverified()
    if version is not None:
        return Choice(False, f"{version}; PYMUX_TLS=adopt tries adoption")
    obstacle = _take_functions()
    if obstacle is None:
        why = "PYMUX_TLS is adopt" if wish else f"{_version()} is verified"
        return Choice(True, why)
    if wish == "adopt":
        text = f"PYMUX_TLS is adopt, but {obstacle}"
        raise BackendUnavailable(errno.ENOTSUP, text)
    return Choice(False, obstacle)


def _version() -> str:
    """Return the name and the version of this interpreter."""
    known = VERIFIED.get(sys.implementation.name)
    name = known[0] if known else sys.implementation.name
    free = " free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{name} {sys.version_info[0]}.{sys.version_info[1]}{free}"


def _unverified() -> str | None:
    """Say that this interpreter is not among those that were verified, or None."""
    known = VERIFIED.get(sys.implementation.name)
    free = sysconfig.get_config_var("Py_GIL_DISABLED")
    if known and not free and known[1] <= sys.version_info[:2] <= known[2]:
        return None
    each = ", ".join(
        f"{name} {a[0]}.{a[1]}" + (f" to {b[0]}.{b[1]}" if a != b else "")
        for name, a, b in VERIFIED.values()
    )
    return f"{_version()} is not verified yet ({each} are)"


def _take_functions() -> str | None:
    """Give OpenSSL's functions to the core; return None, or what prevents it."""
    global _library, _told
    if not _told:
        try:
            import ctypes

            library = ctypes.CDLL(_linked_by_ssl())
        except Exception as error:  # ctypes may fail for many reasons
            return f"OpenSSL cannot be looked up: {error}"
        names = _names()
        addresses = [_address(ctypes, library, name) for name in names]
        for name, address in zip(names[: lib.pmx_tls_optional()], addresses):
            if not address:
                return f"this Python's ssl does not show its OpenSSL: no {name}"
        number = lib.pmx_tls_use(ffi.new("uint64_t[]", addresses), len(addresses))
        if number:
            return f"the core does not take OpenSSL's functions: {os.strerror(-number)}"
        _library, _told = library, True
    if not _is_noted():
        return "this Python's ssl uses another OpenSSL than the one that was found"
    return None


def _linked_by_ssl() -> str | None:
    """Return the path of the extension that links OpenSSL; None: the interpreter."""
    name = "_pypy_openssl" if sys.implementation.name == "pypy" else "_ssl"
    return getattr(importlib.import_module(name), "__file__", None)


def _names() -> list[str]:
    """Return the names of the functions that the core needs."""
    names: list[str] = []
    while lib.pmx_tls_function(len(names)):
        names.append(ffi.string(lib.pmx_tls_function(len(names))).decode())
    return names


def _address(ctypes: Any, library: Any, name: str) -> int:
    """Return the address of a function, 0 if it is lacking."""
    try:
        function = getattr(library, name)
    except AttributeError:
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _is_noted() -> bool:
    """True if the core notes an object that `ssl` makes."""
    import ssl

    bio = ssl.MemoryBIO()
    notes = lib.pmx_tls_noted()
    before = notes.count
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made = context.wrap_bio(bio, bio, server_hostname="localhost")
    return bool(notes.count == before + 1 and notes.last and made is not None)
