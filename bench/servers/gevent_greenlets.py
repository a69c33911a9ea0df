"""gevent: a greenlet for each connection, calls that look blocking."""

from common import HOST, READ, announce, answers, arguments, no_delay
from gevent.server import StreamServer

args = arguments()


def talk(sock, address):
    """Serve one connection to its end."""
    no_delay(sock)
    answer = answers(args)
    try:
        while data := sock.recv(READ):
            reply = answer(data)
            if reply:
                sock.sendall(reply)
    except OSError:
        pass


if args.backlog:
    StreamServer.backlog = args.backlog
server = StreamServer((HOST, args.port), talk)
server.start()
announce(server.address)
server.serve_forever()
