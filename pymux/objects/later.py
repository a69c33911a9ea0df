"""Answers to a batch that come later, from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..engine.answers import (
    Columns,
    block_of,
    check_count,
    columns_of,
    columns_of_list,
    copies_of,
    gapless,
    sizes_in,
)
from ..engine.owed import Debt, Debts
from ..engine.owner import FORKED
from ..engine.splitting import NO_COLUMNS
from ..values.errors import no_copy

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..engine.engine import Engine
    from .arrow import ArrowArray

__all__ = ["Later"]


class Later:
    """The answers that a batch is owed, made by `Batch.later`.

    `reply` or `reply_data` gives them, once, all together, from any thread. They
    leave in the mux's next harvest.

    Order
        A connection gets its answers in the order of its messages. Those to a later
        batch wait for those to an earlier one, connection by connection; others do
        not wait. What is sent in another way (`Connection.send`, the `reply` of a
        later batch) does not wait.
    While answers are owed
        A connection does not close at its peer's end of stream, `idle_timeout` does
        not end it, and `stop` waits for it within its time. Its messages that are not
        answered (length + 64 bytes each) pause reading over `Limits.high_water`, and
        reading goes on under `low_water`. Memory of answers in the meantime is
        bounded by what the program makes of that.
    Without answers
        A `Later` that is dropped unanswered closes its connections with
        ECONNABORTED; the error is reported as one of the handler. A `Later` that is
        kept and never answered keeps its connections until they are lost or the
        server stops.
    After the end
        What is given to a connection that has ended is discarded, and so is all of it
        after the mux has closed.

    Attributes:
        ids: the connection's id of each message: a read-only memoryview of uint64,
            which stays valid.

    >>> import queue, threading, pymux
    >>> jobs = queue.SimpleQueue()
    >>> @pymux.batched
    ... def handler(batch):
    ...     jobs.put((bytes(batch.data), batch.later()))
    >>> def work():
    ...     while job := jobs.get():
    ...         data, later = job
    ...         later.reply_data(data.upper())
    >>> threading.Thread(target=work).start()
    >>> with pymux.Server(handler, ("127.0.0.1", 0)) as server:
    ...     with pymux.connect(server.address) as client:
    ...         client.send(b"hello")
    ...         client.recv()
    b'HELLO'
    >>> jobs.put(None)
    """

    __slots__ = ("_debt", "_engine", "ids")

    ids: memoryview

    def __init__(self, engine: Engine, service: Any, arena: Any, rows: int) -> None:
        if engine.debts is None:
            engine.debts = Debts(engine)
        self._engine = engine
        debt = Debt(service, arena, rows)
        self.ids = debt.column()
        self._debt = debt  # last: from here on, a `Later` that is lost has failed

    def _owe(self) -> None:
        """Tell the engine."""
        debts = self._engine.debts
        if debts is not None:
            self._engine.settle_here(debts.owe, self._debt)

    def __len__(self) -> int:
        """Return the number of messages."""
        return self._debt.rows

    def __repr__(self) -> str:
        state = "given" if self._debt.given else "owed"
        return f"<Later of {self._debt.rows} messages, {state}>"

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: TypeError."""
        raise no_copy(self)

    def __del__(self) -> None:
        debt = getattr(self, "_debt", None)
        if debt is None or debt.handed:
            return
        engine = self._engine
        debts = engine.debts
        if debts is None or engine.thread == FORKED:
            return
        error = RuntimeError(
            "a Later was dropped without answers; "
            "call its reply(), reply_data() or fail()"
        )
        engine.settle_soon(debts.fail, debt, error, True)  # it may be anywhere now

    # --- answers ----------------------------------------------------------

    def reply(self, replies: Sequence[Buffer | None]) -> None:
        """Answer every message, each with one frame. Any thread may call.

        Args:
            replies: for each message a bytes-like object, or None for no answer. The
                bytes are copied now.

        Raises:
            ValueError: the wrong number of replies, or a size that the framing of the
                connections cannot carry; nothing is sent. Where the connections have
                several framings, the size is found wrong only in the mux's thread,
                and closes all connections of the batch, as an error of the handler.
            TypeError: a reply that is not bytes-like; nothing is sent.
            RuntimeError: the answers were given before, or this process is a fork.
        """
        self._check()
        replies = replies if type(replies) is list else list(replies)
        check_count(replies, self._debt.rows)
        self._give(columns_of_list(copies_of(replies)))

    def reply_data(
        self,
        data: Buffer | ArrowArray,
        offsets: Sequence[int] | Buffer | None = None,
        *,
        mask: Sequence[bool] | Buffer | None = None,
    ) -> None:
        """Answer every message from one buffer. Any thread may call.

        Args:
            data: as in `Batch.reply_data`. The bytes are copied now.
            offsets: as in `Batch.reply_data`.
            mask: as in `Batch.reply_data`.

        Raises:
            ValueError, TypeError: something does not fit; nothing is sent. For sizes
                see `reply`.
            RuntimeError: the answers were given before, or this process is a fork.
        """
        self._check()
        self._give(columns_of(data, offsets, mask, self._debt.rows, self._cut))

    def _cut(self) -> tuple[Any, int]:
        """Return the offsets of the batch, as a C array, and the bytes of its data."""
        debt = self._debt
        if debt.ends is None:
            raise TypeError(NO_COLUMNS)
        ends = gapless(debt.ends, debt.gap, debt.rows)
        return ends, ends[debt.rows]

    def _give(self, columns: Columns) -> None:
        """Give the answers."""
        engine, debt = self._engine, self._debt
        checked = len(columns[0]) <= debt.service.reply_limit or (
            debt.service.check_sizes(sizes_in(columns, debt.rows))
        )
        block = block_of(columns, debt.ids, debt.rows)
        with engine.lock:
            self._check()
            debt.given, debt.checked = True, checked
        self._settle("pay", debt, block)
        debt.handed = True

    # --- without answers ----------------------------------------------------

    def fail(self, error: BaseException, row: int | None = None) -> None:
        """Close connections as if a handler had raised `error`. Any thread may call.

        For all rows this takes the place of the reply. The connections close, and the
        error is told as that of a batch handler that raises: to `on_error`, else to
        the log. For one row, `fail` comes before the reply, may be repeated, and tells
        nobody, as `Connection.fail`; what the reply has for the row is discarded.

        Args:
            error: the cause, which `closed` gets as the `__cause__` of its
                ``OSError(ECONNABORTED)``.
            row: the number of a message, from 0 on; None for all.

        Raises:
            TypeError: the error is no exception object, or `row` is no int.
            IndexError: there is no such row.
            RuntimeError: the answers were given before, or this process is a fork.
        """
        if not isinstance(error, BaseException):
            raise TypeError(f"the error is {error!r}; an exception object is needed")
        debt = self._debt
        if row is not None:
            self._check()
            if not 0 <= row < debt.rows:
                raise IndexError(f"row {row} of {debt.rows}; rows count from 0")
            self._settle("fail_one", self.ids[row], error)
            return
        with self._engine.lock:
            self._check()
            debt.given = True
        self._settle("fail", debt, error, True)
        debt.handed = True

    def _check(self) -> None:
        if self._debt.given:
            raise RuntimeError("the answers were given before; once is all it takes")
        if self._engine.thread == FORKED:
            self._engine.check()

    def _settle(self, name: str, *args: Any) -> None:
        """Call a method of the engine's debts in the mux's thread."""
        debts = self._engine.debts
        if debts is not None:
            self._engine.settle(getattr(debts, name), *args)
