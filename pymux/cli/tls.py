"""TLS on the command line: contexts from files, and errors in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from .words import Failure, as_typed, in_words

if TYPE_CHECKING:
    import ssl

__all__ = ["context_to_connect", "context_to_serve"]


def context_to_serve(cert: str, key: str | None) -> ssl.SSLContext:
    """The context of a server with a certificate, and the chain to its root.

    Args:
        cert: the path of the certificate and, behind it, the chain, in PEM.
        key: the path of the key; None means that it stands in `cert`.

    Raises:
        Failure: a file cannot be read or used.
    """
    tls = _ssl()
    _can_read(cert)
    if key is not None:
        _can_read(key)
    key_file = as_typed(key or cert)
    context: ssl.SSLContext = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)

    def no_password() -> NoReturn:
        raise Failure(f"the key in {key_file} is encrypted; one without is needed")

    try:
        context.load_cert_chain(cert, key, no_password)
    except tls.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"the key in {key_file} does not fit the certificate in"
            raise Failure(f"{text} {as_typed(cert)}") from None
        _has_certificates(cert)
        if _is_of_files(error):
            raise Failure(f"no private key in PEM in {key_file}") from None
        raise Failure(
            f"the certificate in {as_typed(cert)} is of no use: {in_words(error)}"
        ) from None
    return context


def context_to_connect(ca: str | None) -> ssl.SSLContext | bool:
    """What `ssl=` is to be: True, or a context that trusts the authorities in a file.

    Raises:
        Failure: the file cannot be read or used.
    """
    if ca is None:
        return True
    tls = _ssl()
    _can_read(ca)
    _has_certificates(ca)
    context: ssl.SSLContext = tls.create_default_context(cafile=ca)
    return context


def _ssl() -> Any:
    try:
        import ssl
    except ImportError:
        raise Failure("this Python was built without the ssl module") from None
    return ssl


def _can_read(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise Failure(f"cannot read {as_typed(path)}: {error.strerror}") from None
    except ValueError as error:
        raise Failure(f"cannot read {as_typed(path)}: {error}") from None


def _has_certificates(path: str) -> None:
    tls = _ssl()
    try:
        tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except tls.SSLError:
        raise Failure(f"no certificate in PEM in {as_typed(path)}") from None


def _is_of_files(error: ssl.SSLError) -> bool:
    """Whether OpenSSL did not understand a file."""
    return error.reason is None or error.library in ("PEM", "ASN1")
