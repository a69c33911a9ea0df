"""What OpenSSL's codes mean, as the exceptions that `ssl` itself raises."""

from __future__ import annotations

import ctypes
import ssl
from typing import Any

from .._core import lib
from .openssl import openssl

__all__ = ["error_from_code"]

CUT: int = lib.PMX_TLS_CUT
# Of a code of OpenSSL: the library, and its reason.
SHIFT, MASK = (23, 0x7FFFFF) if ssl.OPENSSL_VERSION_INFO >= (3,) else (24, 0xFFF)
LIB_SSL = 20
VERIFY_FAILED = 134  # a reason of LIB_SSL
# X509_V_ERR_HOSTNAME_MISMATCH and ..._IP_ADDRESS_MISMATCH: `ssl` says for what.
MISMATCH = {62: "Hostname mismatch", 64: "IP address mismatch"}
# Libraries whose name in `ssl` is not the first word of what OpenSSL calls them.
LIBRARIES = {"digital envelope routines": "EVP", "common libcrypto routines": "CRYPTO"}
# What OpenSSL says from 3.2 on, and what `ssl` calls the same reasons.
SSLV3 = "ssl/tls alert", "sslv3 alert"


def error_from_code(code: int, verified: int, hostname: str | None) -> Any:
    """Return the `ssl.SSLError` of a connection that TLS has ended.

    Args:
        code: OpenSSL's, or PMX_TLS_CUT.
        verified: the result of the peer's verification, X509_V_...
        hostname: the name that the peer was verified for.
    """
    error: Any
    if code == CUT:
        text = "the stream ended without close_notify: it may have been cut"
        error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, text)
        error.library, error.reason = "SSL", "UNEXPECTED_EOF_WHILE_READING"
        return error
    where = _text("ERR_lib_error_string", ctypes.c_ulong, code)
    library = LIBRARIES.get(where, where.split(" ")[0].upper())
    text = _text("ERR_reason_error_string", ctypes.c_ulong, code)
    reason = text.replace(*SSLV3).upper().replace(" ", "_").replace("-", "_")
    text = f"[{library}: {reason}] {text}"
    if code >> SHIFT & 0xFF != LIB_SSL or code & MASK != VERIFY_FAILED:
        error = ssl.SSLError(ssl.SSL_ERROR_SSL, text)
    else:
        why = _text("X509_verify_cert_error_string", ctypes.c_long, verified)
        if verified in MISMATCH:
            why = f"{MISMATCH[verified]}, certificate is not valid for {hostname!r}."
        error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"{text}: {why}")
        error.verify_code, error.verify_message = verified, why
    error.library, error.reason = library, reason
    return error


def _text(function: str, kind: Any, number: int) -> str:
    """Return what a function of OpenSSL says of a number."""
    library = openssl()
    found = None
    if library is not None:
        call = library[function]
        call.restype, call.argtypes = ctypes.c_char_p, [kind]
        found = call(number)
    return found.decode("ascii", "replace") if found else f"code {number}"
