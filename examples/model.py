"""A model server: questions of many clients are answered by one matrix product.

    pip install numpy
    python examples/model.py [PORT]

A question is 64 float32, little-endian, and its answer 8 float32. Under load a batch
has hundreds of questions, and the model runs once for all of them; a lone question
waits 2 ms at most. The model runs in a thread of its own, as one on a GPU would, and
the server serves meanwhile.

    $ python examples/model.py &
    $ head -c 256 /dev/zero | python -m pymux connect 127.0.0.1:9000 | od -v -An -f
               0               0               0               0
               0               0               0               0
"""

import queue
import sys
import threading

import numpy as np

import pymux

INPUTS, OUTPUTS = 64, 8
QUESTION, ANSWER = 4 * INPUTS, 4 * OUTPUTS  # bytes
WEIGHTS = np.random.default_rng(1).standard_normal((INPUTS, OUTPUTS), dtype="<f4")


def model(questions: np.ndarray) -> np.ndarray:
    """A row for each question; your model comes here."""
    return np.tanh(questions @ WEIGHTS)


jobs: queue.SimpleQueue[tuple[memoryview, pymux.Later]] = queue.SimpleQueue()


@pymux.batched(min_messages=64, max_delay=0.002)
def handler(batch: pymux.Batch) -> None:
    jobs.put((batch.data, batch.later()))  # the view keeps the memory


def answer(data: memoryview, later: pymux.Later) -> None:
    try:
        questions = np.frombuffer(data, "<f4")  # no copy
        answers = model(questions.reshape(-1, INPUTS))
        offsets = [ANSWER * k for k in range(len(later) + 1)]
        later.reply_data(answers.tobytes(), offsets)
    except Exception as error:  # the clients of this batch are told, others go on
        later.fail(error)


def work() -> None:
    while True:
        answer(*jobs.get())


def main(port: int = 9000) -> None:
    threading.Thread(target=work, daemon=True).start()
    with pymux.Server(
        handler,
        ("127.0.0.1", port),
        framing=pymux.Fixed(QUESTION),
        reply_framing=pymux.Fixed(ANSWER),
    ) as server:
        print("model on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 2 or not all(map(str.isdigit, sys.argv[1:])):
        sys.exit("usage: python examples/model.py [PORT]")
    try:
        main(*map(int, sys.argv[1:]))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:  # a port that is taken, or is none
        sys.exit(str(error))
