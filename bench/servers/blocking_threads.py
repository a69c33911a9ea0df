"""A thread for each connection, and blocking calls."""

import threading

from common import READ, answers, arguments, listener, no_delay

args = arguments()


def talk(sock):
    """Serve one connection to its end."""
    no_delay(sock)
    answer = answers(args)
    with sock:
        try:
            while data := sock.recv(READ):
                reply = answer(data)
                if reply:
                    sock.sendall(reply)
        except OSError:
            pass


server = listener(args)
while True:
    conn, _ = server.accept()
    threading.Thread(target=talk, args=(conn,), daemon=True).start()
