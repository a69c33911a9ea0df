"""Rooms of three workers over a real broker that everything happens to.

    python -m tests.rooms_chaos [--broker nats|redis] [--seconds 25] [--seed 1]

The broker is killed and started again, the broker and the workers are stopped for a
while, at times that the seed decides, while a member at each worker talks. In the end
each listener must have heard each message, in order, or have been told that it is lost;
and of its own worker's messages none is. It ends with a summary, and with 1 otherwise.
"""

import argparse
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

import pymux

from .brokers import KINDS, LINES, running

NAMES = "abc"
PATIENCE = 30  # seconds until the last ones are heard, or told of


def talk(worker, name, end, sent):
    """Say something every millisecond, until the end; note how much."""
    count = 0
    with pymux.connect(("127.0.0.1", worker.port), framing=LINES) as client:
        while time.monotonic() < end:
            for _ in range(5):
                client.send(b"%s %d %s" % (name.encode(), count, b"x" * 200))
                count += 1
            time.sleep(0.005)
        sent[name] = count
        client.send_eof()
        for _ in client:
            pass


def strike(broker, workers, chance):
    """Have one thing happen; its name."""
    what = chance.choice(["killed", "killed for long", "stopped", "worker stopped"])
    if what.startswith("killed"):
        broker.kill()
        time.sleep(chance.uniform(0, 2) if "long" in what else 0)
        broker.start()
    elif what == "stopped":
        broker.send_signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0, 1.5))
        broker.send_signal(signal.SIGCONT)
    else:
        worker = chance.choice(workers)
        worker.send_signal("SIGSTOP")
        time.sleep(chance.uniform(0, 2))
        worker.send_signal("SIGCONT")
    return what


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", choices=KINDS, default="nats")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    happened, sent = [], {}
    with tempfile.TemporaryDirectory() as folder:
        broker = KINDS[args.broker](pathlib.Path(folder))
        if args.broker == "redis":
            broker.impatient()
        with running(broker, len(NAMES)) as workers:
            end = time.monotonic() + args.seconds
            threads = [
                threading.Thread(target=talk, args=(worker, name, end, sent))
                for worker, name in zip(workers, NAMES)
            ]
            for thread in threads:
                thread.start()
            while time.monotonic() < end - 1:
                time.sleep(chance.uniform(0.2, 2))
                happened.append(strike(broker, workers, chance))
            for thread in threads:
                thread.join()
            total = sum(sent.values())
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                known = [sum(map(worker.heard.count, NAMES)) for worker in workers]
                lost = [worker.heard.lost for worker in workers]
                if [a + b for a, b in zip(known, lost)] == [total] * len(NAMES):
                    break
                time.sleep(0.1)
            good = all(a + b == total for a, b in zip(known, lost))
            for worker, name in zip(workers, NAMES):
                good &= worker.heard.is_in_order()
                good &= worker.heard.count(name) == sent[name]
    print(f"{args.broker}, seed {args.seed}: {len(happened)} strikes ({happened})")
    print(f"{total} sent; heard {known}, told of as lost {lost}")
    print("every message is accounted for" if good else "NOT every message is")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
