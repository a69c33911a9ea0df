"""A model server: questions of many clients are answered by one matrix product.

    pip install numpy
    python examples/model.py [PORT]

A question is 64 float32, little-endian, and its answer 8 float32. Under load a batch
has hundreds of questions, and the model runs once for all of them; a lone question
waits 2 ms at most.
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
    questions = np.frombuffer(batch.data, "<f4")  # no copy
    answers = model(questions.reshape(-1, INPUTS))
    offsets = [ANSWER * k for k in range(len(batch) + 1)]
    batch.reply_data(answers.tobytes(), offsets)


def main(port: int = 9000) -> None:
    with pymux.Server(
        handler,
        ("127.0.0.1", port),
        framing=pymux.Fixed(QUESTION),
        reply_framing=pymux.Fixed(ANSWER),
    ) as server:
        print("model on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*map(int, sys.argv[1:]))
