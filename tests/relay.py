"""A bad link: packets between two TUN devices, some late, some lost, some overtaken.

    python -m tests.relay NAMESPACE NAMESPACE DELAY LOSS REORDER

Says `ready` when the devices pmx0 and pmx1 exist; `cut` and `mend` are its commands.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

from .network import set_namespace

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MOST = 65536


def tun(namespace, device):
    """A TUN device in a namespace."""
    set_namespace(f"/run/netns/{namespace}")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(fd, TUNSETIFF, request)
    return fd


def relay(ends, delay, loss, reorder):
    """Carry packets until the commands end."""
    rng = random.Random(93)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    late = []  # (when due, its number, where to, packet)
    number = 0
    cut = False
    watch = select.poll()
    for fd in (*ends, 0):
        watch.register(fd, select.POLLIN)
    while True:
        timeout = None
        if late:
            timeout = max(0.0, (late[0][0] - time.monotonic()) * 1000)
        for fd, _ in watch.poll(timeout):
            if fd == 0:
                command = sys.stdin.readline()
                if not command:
                    return
                cut = command == "cut\n"
                print(command, end="", flush=True)
                continue
            for _ in range(64):
                try:
                    packet = os.read(fd, MOST)
                except BlockingIOError:
                    break
                if cut or rng.random() < loss:
                    continue
                wait = 0.0 if rng.random() < reorder else delay
                number += 1
                due = time.monotonic() + wait
                heapq.heappush(late, (due, number, other[fd], packet))
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, _, to, packet = heapq.heappop(late)
            if not cut:
                try:
                    os.write(to, packet)
                except OSError:  # its queue is full, or it is down: lost
                    continue


if __name__ == "__main__":
    a, b, *weather = sys.argv[1:]
    devices = [tun(a, "pmx0"), tun(b, "pmx1")]
    print("ready", flush=True)
    relay(devices, *map(float, weather))
