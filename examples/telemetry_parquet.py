r"""Readings of many sensors into a Parquet file, with no Python object for a reading.

    pip install pyarrow
    python examples/telemetry_parquet.py FILE [PORT]

A sensor connects and sends a number a line. A batch has the lines of all sensors, and
pyarrow takes it as a column without a copy: checking, converting and writing are a few
calls a batch. A line that is no number is answered; the others are not. Ctrl-C ends it.

    $ python examples/telemetry_parquet.py readings.parquet &
    $ printf '21.5\nwarm\n' | python -m pymux connect 127.0.0.1:9000
    a number is needed
    $ kill -INT %1
    $ python -c "import pyarrow.parquet as p; print(p.read_table('readings.parquet'))"
"""

import contextlib
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.compute import MatchSubstringOptions, call_function

import pymux

SCHEMA = pa.schema(
    {"sensor": pa.uint64(), "time": pa.timestamp("ms"), "reading": pa.float64()}
)
NUMBER = MatchSubstringOptions(r"^[+-]?[0-9]{1,15}(\.[0-9]{1,15})?$")
ZERO = pa.scalar(0, pa.uint64())
ANSWER, NO_ANSWER = pa.scalar(b"a number is needed"), pa.scalar(None, pa.binary())
ROW_GROUP = 100_000


class Recorder:
    """Writes what it has received as row groups of a Parquet file."""

    def __init__(self, path: str) -> None:
        self.file = pq.ParquetWriter(path, SCHEMA)
        self.waiting: list[pa.RecordBatch] = []
        self.rows = 0

    @pymux.batched(min_messages=4096, max_delay=0.1)
    def received(self, batch: pymux.Batch) -> None:
        lines = pa.array(batch)
        # A copy, as all that is kept: the memory of the batch is used again when this
        # function has returned, however long the rows wait.
        sensors = call_function("add", [pa.array(batch.arrow_ids), ZERO])
        try:
            readings = lines.cast(pa.string()).cast(pa.float64())
        except pa.ArrowInvalid:  # some line is no number
            good = call_function("match_substring_regex", [lines], NUMBER)
            batch.reply_data(call_function("if_else", [good, NO_ANSWER, ANSWER]))
            readings = lines.filter(good).cast(pa.string()).cast(pa.float64())
            sensors = sensors.filter(good)
        now = pa.scalar(int(time.time() * 1000), SCHEMA.field("time").type)
        times = pa.repeat(now, len(readings))
        self.waiting.append(
            pa.RecordBatch.from_arrays([sensors, times, readings], schema=SCHEMA)
        )
        self.rows += len(readings)
        if self.rows >= ROW_GROUP:
            self.write()

    def write(self) -> None:
        self.file.write_table(pa.Table.from_batches(self.waiting, SCHEMA))
        self.waiting.clear()
        self.rows = 0

    def close(self) -> None:
        self.write()
        self.file.close()


def main(path: str, port: str = "9000") -> None:
    limits = pymux.Limits(max_connections=10_000, idle_timeout=600)
    with (
        contextlib.closing(Recorder(path)) as recorder,
        contextlib.suppress(KeyboardInterrupt),
        pymux.Server(
            recorder, ("127.0.0.1", int(port)), framing=pymux.Lines(), limits=limits
        ) as server,
    ):
        print("sensors on port", server.address[1], flush=True)
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not all(map(str.isdigit, sys.argv[2:])):
        sys.exit("usage: python examples/telemetry_parquet.py FILE [PORT]")
    try:
        main(*sys.argv[1:])
    except (OSError, ValueError) as error:  # a port that is taken
        sys.exit(str(error))
