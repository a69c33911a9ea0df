"""How every pymux server here is served: in the main thread, as by pymux.serve."""

import threading
import time

from common import HOST, announce, arguments, context

import pymux

FRAMINGS = {"raw": pymux.Raw(), "lines": pymux.Lines()}


def serve(handler, echo=None, framing=None, payload="upper"):
    """Serve until killed.

    `echo` is the handler under ``--payload echo``, `framing` overrules the command
    line's.
    """
    args = arguments((payload, "echo") if echo else (payload,))
    server = pymux.Server(
        echo if args.payload == "echo" else handler,
        (HOST, args.port),
        framing=framing or FRAMINGS[args.framing],
        ssl=context(args),
        backend=args.backend,
        backlog=args.backlog or None,
        spin="auto" if args.spin == "auto" else float(args.spin or 0),
    )
    threading.Thread(target=announce_bound, args=(server,), daemon=True).start()
    server.run()


def announce_bound(server):
    """Announce the address once there is one; then this thread is gone."""
    while True:
        try:
            announce(server.address)
            return
        except RuntimeError:  # not bound yet
            time.sleep(0.001)
