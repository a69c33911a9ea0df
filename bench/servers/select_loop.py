"""The lesson's select() loop, made to survive, otherwise as it is.

What was mended: accepted sockets do not block, an answer is added to the one
that is pending, what a partial send leaves stays queued, a connection that ends
leaves every list, and one whose descriptor select() cannot take is closed.
"""

import select

from common import answers, arguments, listener, no_delay

FD_SETSIZE = 1024

args = arguments()
server = listener(args, backlog=5)
server.setblocking(False)
rlist = [server]
wlist = []
wdata = {}
answer = {}


def forget(sock):
    """Take a connection out of all the lists, and close it."""
    rlist.remove(sock)
    if sock in wlist:
        wlist.remove(sock)
    wdata.pop(sock, None)
    del answer[sock]
    sock.close()


while True:
    readable, writable, _ = select.select(rlist, wlist, [])
    for sock in readable:
        if sock is server:
            conn, address = server.accept()
            conn.setblocking(False)
            no_delay(conn)
            if conn.fileno() >= FD_SETSIZE:
                conn.close()
                continue
            rlist.append(conn)
            answer[conn] = answers(args)
            continue
        try:
            data = sock.recv(1024)
        except OSError:
            data = b""
        if not data:
            forget(sock)
            continue
        reply = answer[sock](data)
        if sock in wdata:
            wdata[sock] += reply
        elif reply:
            wlist.append(sock)
            wdata[sock] = reply
    for sock in writable:
        if sock not in wdata:
            continue
        try:
            sent = sock.send(wdata[sock])
        except BlockingIOError:
            continue
        except OSError:
            forget(sock)
            continue
        wdata[sock] = wdata[sock][sent:]
        if not wdata[sock]:
            wlist.remove(sock)
            del wdata[sock]
