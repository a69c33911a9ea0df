"""A server over TLS, which takes a renewed certificate when it is told to.

    python examples/tls.py CERT KEY [PORT]

Both files are PEM, CERT with the chain behind the certificate, as certbot's
fullchain.pem. It answers lines by their capitals. On SIGHUP it reads both files again:
new connections have the new certificate, and open ones go on.

    $ python examples/tls.py cert.pem key.pem &
    $ python -m pymux connect --tls --ca cert.pem localhost:9000
    $ kill -HUP %1
"""

import signal
import ssl
import sys

import pymux


def upper(conn: pymux.Connection, line: bytes) -> bytes:
    return line.upper()


def context_from(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def main(cert: str, key: str, port: int = 9000) -> None:
    with pymux.Server(
        upper,
        ("127.0.0.1", port),
        framing=pymux.Lines(),
        ssl=context_from(cert, key),
        limits=pymux.Limits(handshake_timeout=10.0),
    ) as server:

        def renew(*_: object) -> None:
            try:
                server.ssl = context_from(cert, key)
            except OSError as error:  # a file that is missing, or half written
                print("the old certificate stays:", error, file=sys.stderr)

        signal.signal(signal.SIGHUP, renew)
        print("tls on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or not all(map(str.isdigit, sys.argv[3:])):
        sys.exit("usage: python examples/tls.py CERT KEY [PORT]")
    try:
        main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a file, a key, or a port that is taken
        sys.exit(str(error))
