"""Answers that are owed: those to batches whose handler answers later.

A debt is the answers that the rows of one batch are owed. While a connection has a
debt, the core neither closes it at its peer's end nor lets its idle clock run. Answers
leave in the order of a connection's debts, whatever order they are given in: those to
a later batch wait for those to an earlier one, connection by connection.

The messages of debts count as messages that were not taken yet: over a connection's
high water, reading pauses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .._core import ffi
from .bounds import ids_where
from .log import ANSWERS, COUNT, LENGTHS, Block, sizes_of
from .ops import ANSWERED, HOLD, OWED, RELEASE

__all__ = ["Debt", "Debts"]

NOTHING: Block = (LENGTHS, b"", b"", b"", None)


class Debt:
    """The answers that the rows of one batch are owed.

    Attributes:
        service: the rows' service.
        rows: their number.
        ids: the connection of each row, as a C array of uint64.
        ends: the offsets of the messages, with gaps; None: they have no columns.
        gap: the width of the gap behind each message.
        sizes: bytes that count as not taken, by the id of a connection that has not
            had its answers of this debt yet.
        given: answers are being given, or the rows fail. Its lock is the engine's.
        handed: that is done: the mux's thread has it, or is called with it.
        block: the answers for the log, once the mux's thread has them.
        checked: each answer fits the framing of its connection.
    """

    __slots__ = (
        "block",
        "checked",
        "ends",
        "gap",
        "given",
        "handed",
        "ids",
        "rows",
        "service",
        "sizes",
    )

    def __init__(self, service: Any, arena: Any, rows: int) -> None:
        self.service: Any = service
        self.rows: int = rows
        self.ids: Any
        self.ends: Any
        self.gap: int
        self.sizes: dict[int, int]
        self.ids, self.ends, self.gap, self.sizes = arena.owed(rows)
        self.given: bool = False
        self.handed: bool = False
        self.block: Block | None = None
        self.checked: bool = False

    def column(self) -> memoryview:
        """Return a read-only view of the connection's id of each row."""
        size = 8 * self.rows
        return memoryview(ffi.buffer(self.ids, size)).toreadonly().cast("Q")


class _Account:
    """The debts to one connection.

    Attributes:
        debts: oldest first.
        size: bytes of messages that are not answered, as they count.
        water: (high water, low water) of the connection, once it was asked for.
        held: reading pauses.
    """

    __slots__ = ("debts", "held", "size", "water")

    def __init__(self) -> None:
        self.debts: list[Debt] = []
        self.size: int = 0
        self.water: tuple[int, int] | None = None
        self.held: bool = False


class Debts:
    """The debts of an engine. All calls are for the mux's thread.

    Attributes:
        at_work: a call is being made; it may be a signal handler that calls again.
        waiting: calls of other threads, with their arguments.
    """

    def __init__(self, engine: Any) -> None:
        self.at_work: bool = False
        self.waiting: deque[tuple[Callable[..., Any], Any]] = deque()
        self._engine = engine
        self._accounts: dict[int, _Account] = {}

    def owe(self, debt: Debt) -> None:
        """Note a new debt."""
        accounts, least, ops = self._accounts, debt.service.high_water, []
        # First: where a signal handler raises below, the connections fail, and are
        # not to end before as if they had been answered.
        self._log([id | OWED for id in debt.sizes])
        for id, size in debt.sizes.items():
            account = accounts.get(id)
            if account is None:
                account = accounts[id] = _Account()
            account.debts.append(debt)
            account.size += size
            if account.size > least and not account.held and self._is_over(id, account):
                account.held = True
                ops.append(id | HOLD)
        self._log(ops)

    def _is_over(self, id: int, account: _Account) -> bool:
        """True if the messages of a connection that are not answered are over its
        high water."""
        if account.water is None:
            account.water = self._engine.water_of(id)
        return account.water is not None and account.size > account.water[0]

    def pay(self, debt: Debt, block: Block) -> None:
        """Send the answers of a debt, those that an earlier debt holds back as soon as
        that is paid.

        Args:
            debt: a debt without answers.
            block: a piece for each row, without its place in the column of ids where
                the row has no answer.
        """
        engine = self._engine
        if debt.block is not None:  # a signal handler raised in the same call
            return
        try:
            if not debt.checked or engine.switched:
                self._check(debt, block)
        except ValueError as error:
            self.fail(debt, error, True)
            return
        try:
            self._pay(debt, block)
        except BaseException as error:  # of a signal handler: who has an answer?
            self._end(debt, error)
            for account in list(self._accounts.values()):
                if account.debts[0].block is not None:
                    self._pay(account.debts[0], account.debts[0].block)
            raise

    def _check(self, debt: Debt, block: Block) -> None:
        """Raise ValueError if an answer does not fit its connection's framing."""
        for id, size in sizes_of(block):
            if id:
                self._engine.check_reply(id, size)

    def _pay(self, debt: Debt, block: Block) -> None:
        debt.block = block
        payable: dict[Debt, None] = {debt: None}
        while payable:
            first = next(iter(payable))
            payable.update(self._send(first))
            del payable[first]

    def _send(self, debt: Debt) -> dict[Debt, None]:
        """Send what no earlier debt holds back; return the debts that can follow.

        All of it is logged in one step. Only then the books follow: where a signal
        handler raises meanwhile, the connections that are left fail.
        """
        accounts, sizes = self._accounts, debt.sizes
        ready: list[int] = []
        ops: list[int] = []
        for id, size in sizes.items():
            account = accounts.get(id)
            if account is None:  # the connection has ended
                ready.append(id)
            elif account.debts[0] is debt:
                ready.append(id)
                low = account.water[1] if account.water else 0
                if account.held and account.size - size <= low:
                    ops.append(id | RELEASE)
                if len(account.debts) == 1:
                    ops.append(id | ANSWERED)
        self._log(ops, self._block(debt, ready))
        followers: dict[Debt, None] = {}
        for id in ready:
            size = sizes.pop(id)
            account = accounts.get(id)
            if account is None:
                continue
            account.size -= size
            if account.held and account.water and account.size <= account.water[1]:
                account.held = False
            if len(account.debts) == 1:
                del accounts[id]
                continue
            del account.debts[0]
            if account.debts[0].block is not None:
                followers[account.debts[0]] = None
        return followers

    def _block(self, debt: Debt, ready: list[int]) -> Block | None:
        """Return the answers of a debt to some of its connections, and keep those to
        the others."""
        assert debt.block is not None
        shape, ids, bounds, data, keep = debt.block
        rows = shape & COUNT
        if not rows or not ready:
            return None
        if len(ready) < len(debt.sizes):
            chosen = set(ready)
            column = ffi.unpack(ffi.cast("uint64_t *", ids), rows)
            now = bytes(id in chosen for id in column)
            rest = ids_where(ids, bytes(not flag for flag in now))
            debt.block = shape, rest, bounds, data, keep
            ids = ids_where(ids, now)
        return shape | ANSWERS, ids, bounds, data, keep

    def _log(self, ops: list[int], block: Block | None = None) -> None:
        """Log a block, if there is one, and operations behind it."""
        log = self._engine.log
        log.settle()
        entries: list[Any] = [part for op in ops for part in (op, b"")]
        if block is not None:
            entries = [0, block, *entries]
            log.specials += 1
        log.entries += entries

    # --- without answers ----------------------------------------------------

    def fail(self, debt: Debt, error: BaseException, told: bool) -> None:
        """Close the connections of a debt that gets no answers.

        Args:
            debt: a debt; one that has its answers is left alone.
            error: the cause.
            told: report the error as one of the handler, if a connection was open.
        """
        if debt.block is not None:  # its answers came before
            return
        if self._end(debt, error) and told and debt.service.dispatcher is not None:
            what = f"a Later of the handler {debt.service.dispatcher.name}"
            debt.service.dispatcher.report_or_leave(None, error, what)

    def _end(self, debt: Debt, error: BaseException) -> bool:
        """Close the connections of a debt; True if one was open."""
        was_open = False
        for id in list(debt.sizes):
            was_open = self.fail_one(id, error) or was_open
        self._pay(debt, NOTHING)
        return was_open

    def fail_one(self, id: int, error: BaseException) -> bool:
        """Close a connection, as if its handler had raised; True if it was open."""
        engine = self._engine
        conn = engine.table[id & 0xFFFFFFFF]
        if conn is None or conn.id != id or conn.closed:
            return False
        engine.objects.fail(conn, error)
        return True

    def forget(self, id: int) -> None:
        """Forget what a connection that has ended was owed; the core discards it."""
        self._accounts.pop(id, None)
