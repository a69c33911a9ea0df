"""The server of floods and of the soak, in a process of its own, so that its memory,
its processor time and its descriptors are nobody else's.

    python -m tests.flood_server OPTIONS

where OPTIONS is a JSON object. Its first line is its address, in JSON; for each line
it is sent it says a JSON object: its figures. It stops at the end of its input.
"""

import errno
import gc
import json
import os
import ssl
import sys
import time

import pymux

from . import util

PAGE = os.sysconf("SC_PAGE_SIZE")
FRAMINGS = {
    "raw": pymux.Raw,
    "lines": pymux.Lines,
    "prefix": pymux.LengthPrefix,
    "fixed": pymux.Fixed,
}


def resident():
    """Bytes of memory of this process, 0 where it cannot be told."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def descriptors():
    """How many descriptors are open, 0 where it cannot be told."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:  # none left to look with
        return 0


def name_of(error):
    """ECONNRESET and so on; of an error of TLS its reason: its number is OpenSSL's."""
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    return errno.errorcode[error.errno]


class Handler:
    """Answers as it is asked to, and counts by which errors connections end.

    `echo` gives back what came; `grow` answers each message with that many bytes,
    as a number in it says; `part` closes after the first answer; `shout` sends to
    everybody, whether they read or not.
    """

    def __init__(self, kind):
        self.kind = kind
        self.everybody = set()
        self.ends = {}

    def opened(self, conn):
        self.everybody.add(conn)

    def received(self, conn, data):
        if self.kind == "grow" and data.isdigit():
            return b"x" * int(data)
        if self.kind == "part":
            conn.close()
        elif self.kind == "shout" and data.isdigit():
            conn.mux.send_many(self.everybody - {conn}, b"x" * int(data))
            return b"done"
        return data

    def closed(self, conn, error):
        self.everybody.discard(conn)
        name = "end" if error is None else name_of(error)
        self.ends[name] = self.ends.get(name, 0) + 1


def secured(certificate=None, num_tickets=2):
    """A context of a server with a certificate and its key in one file, or None."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.num_tickets = num_tickets
    return context


async def sleeper(conn):
    """Takes nothing of what comes."""
    await pymux.sleep(1e6)


def main():
    """Serve until the input ends."""
    options = json.loads(sys.argv[1])
    if "nofile" in options:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["nofile"], hard))
    kind, sizes = options.get("framing", ["lines", {}])
    handler = counting = Handler(options.get("handler", "echo"))
    if options.get("form") == "sleeper":
        handler = sleeper
    elif "form" in options:
        handler = util.in_form(options["form"], bytes)
    with pymux.Server(
        handler,
        ("127.0.0.1", 0),
        framing=FRAMINGS[kind](**sizes),
        ssl=secured(**options.get("tls", {})),
        limits=pymux.Limits(**options.get("limits", {})),
        backend=options.get("backend"),
        drain_timeout=0,
    ) as server:
        print(json.dumps(server.address), flush=True)
        for line in sys.stdin:
            if line == "collect\n":
                gc.collect()
            # in this order: who is among the ends is none of the connections
            ends = dict(counting.ends)
            figures = vars(server.stats())
            figures.update(
                ends=ends,
                resident=resident(),
                descriptors=descriptors(),
                cpu=time.process_time(),
            )
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
