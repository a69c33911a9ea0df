"""A model server: questions of many clients are answered by one matrix product.

    pip install numpy
    python examples/model.py [PORT]

A question is 64 float32 behind their length in four bytes (little-endian, 256), and
its answer 8 float32 likewise. Under load a batch has hundreds of questions, and the
model runs once for all; a lone question waits 2 ms at most. What is no question ends
its connection and disturbs no other.
"""

import contextlib
import sys

import numpy as np

import pymux

INPUTS, OUTPUTS = 64, 8
QUESTION, ANSWER = 4 * INPUTS, 4 * OUTPUTS  # bytes
WEIGHTS = np.random.default_rng(1).standard_normal((INPUTS, OUTPUTS), dtype="<f4")


def model(questions: np.ndarray) -> np.ndarray:
    """A row for each question; your model comes here."""
    return np.tanh(questions @ WEIGHTS)


@pymux.batched(min_messages=64, max_delay=0.002)
def handler(batch: pymux.Batch) -> None:
    lengths = np.diff(batch.offsets)
    good = lengths == QUESTION
    if good.all():  # no copy
        data = np.frombuffer(batch.data, "<f4")
    else:
        for row in np.flatnonzero(~good):
            batch.conns[row].abort()
        data = np.frombuffer(batch.data, np.uint8)[np.repeat(good, lengths)].view("<f4")
    answers = model(data.reshape(-1, INPUTS))
    # Nothing for a connection that was ended: what is sent to one is dropped.
    offsets = np.concatenate([[0], np.cumsum(np.where(good, ANSWER, 0))])
    batch.reply_data(answers.tobytes(), offsets.astype(np.int32).data)


def main(port: int = 9000) -> None:
    framing = pymux.LengthPrefix(4, "little", max_size=QUESTION)
    with pymux.Server(handler, ("127.0.0.1", port), framing=framing) as server:
        print("model on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*map(int, sys.argv[1:]))
