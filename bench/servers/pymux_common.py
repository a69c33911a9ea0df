"""How every pymux server here is served."""

import threading

from common import HOST, announce, arguments

import pymux

FRAMINGS = {"raw": pymux.Raw(), "lines": pymux.Lines()}


def serve(handler, framing=None, payload="upper"):
    """Serve until killed; `framing` overrules the command line's."""
    args = arguments(payload)
    spin = "auto" if args.spin == "auto" else float(args.spin or 0)
    with pymux.Server(
        handler,
        (HOST, args.port),
        framing=framing or FRAMINGS[args.framing],
        backend=args.backend,
        backlog=args.backlog or None,
        spin=spin,
    ) as server:
        announce(server.address)
        threading.Event().wait()
