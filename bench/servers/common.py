"""What every server here shares: the command line, the listener, the answers.

Each server upper-cases what it receives. Under ``--framing raw`` it answers the
bytes as they come; under ``--framing lines`` it cuts out each line and answers
it by itself. ``--payload echo`` answers raw bytes unchanged, so that nothing but
their way through the server is measured. A server prints ``listening on HOST:PORT``
when it accepts, and runs until it is killed.
"""

import argparse
import resource
import socket
import ssl
import threading

HOST = "127.0.0.1"
READ = 65536  # bytes asked of recv by those who have to name a figure


def arguments(payloads=("upper", "echo"), backlog=0):
    """The small command line that all servers have."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--framing", choices=("raw", "lines"), default="raw")
    parser.add_argument("--payload", choices=payloads, default=payloads[0])
    parser.add_argument(
        "--backlog", type=int, default=backlog, help="default: as its kind does"
    )
    parser.add_argument(
        "--compute", action="store_true", help="a second thread never pauses"
    )
    parser.add_argument("--tls", metavar="PEM", help="a certificate and its key")
    parser.add_argument("--backend", help="pymux only: epoll, poll, select")
    parser.add_argument("--spin", help="pymux only: seconds, or auto")
    args = parser.parse_args()
    if args.payload == "echo" and args.framing == "lines":
        parser.error("--payload echo answers raw bytes: leave out --framing lines")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.compute:
        threading.Thread(target=compute, daemon=True).start()
    return args


def announce(address):
    """Say where the server listens, as soon as it does."""
    print(f"listening on {address[0]}:{address[1]}", flush=True)


def listener(args, backlog=128):
    """A listening socket, announced; `backlog` unless the arguments say."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, args.port))
    sock.listen(args.backlog or backlog)
    announce(sock.getsockname())
    return sock


def context(args):
    """The context of a server over TLS, or None."""
    if not args.tls:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(args.tls)
    return made


def no_delay(sock):
    """Send small answers at once: no server waits for acknowledgements."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def answers(args):
    """A function for one connection: received bytes in, bytes to send out."""
    if args.framing == "lines":
        return line_answers()
    return bytes if args.payload == "echo" else bytes.upper  # `bytes` copies no bytes


def line_answers():
    """The same for lines: what follows the last one is kept for later."""
    tail = b""

    def answer(data):
        nonlocal tail
        *lines, tail = (tail + data).split(b"\n")
        return b"".join([line.upper() + b"\n" for line in lines])

    return answer


def compute():
    """The thread that never waits: plain Python arithmetic."""
    total = 0
    while True:
        for number in range(1000):
            total += number * number
