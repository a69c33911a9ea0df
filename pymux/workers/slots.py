"""The slots of a server with workers, and what happens to each.

A slot is the place of one worker, with sockets of its own where the system spreads
connections over sockets.

state       the slot has       ends by
----------  -----------------  ---------------------------------------------------------
starting    an heir            READY: serving. Death or time out: a retry, later and
                               later; at the first start, the end of the server
serving     a worker           SIGHUP, age, memory: replacing. Death: covered
replacing   a worker, an heir  READY: the heir serves, the worker leaves. Else the
                               worker stays, and the roll stops
covered     a cover            READY of a new worker. A neighbour listens on the slot's
                               sockets meanwhile
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..engine.notices import tell
from ..values.posix import signal
from ..values.workers import Workers
from .covers import cover_slots, covers_no_more, uncover
from .gifts import begin_gift, giver_to, tell_gift
from .process import Process, how_it_ended, tell_death, tell_end
from .renewals import Renewals
from .scales import Scales
from .shares import pass_on, share
from .slot import SETTLED, Slot, let_listen
from .sockets import Place, shared_socks

__all__ = ["Slots"]

LAST_CHANCE = 1.0  # seconds after a failed gift in which its heir may turn out dead
LEAST_PATIENCE = 1.0  # seconds in which a gift asks those that cannot leave now
PATIENCE = 5.0  # seconds after the time of a worker that is to end


class Slots:
    """All slots, and the order in which workers are replaced.

    Args:
        workers: how the workers are replaced.
        places: the addresses.
        spawn: starts a process for a slot.
        stop_after: (linger, seconds to drain) of a worker that leaves.

    Attributes:
        all: the slots, by number.
        processes: every process that has not ended, by its number.
        error: why the server could not start; None if it has not failed.
        first: the server is starting for the first time.
        stopping: the server stops.
        grace: it will stop soon, and no worker is replaced any more.
    """

    def __init__(
        self,
        workers: Workers,
        places: list[Place],
        spawn: Callable[[int], Process],
        stop_after: tuple[float, float | None],
    ) -> None:
        self._workers = workers
        self._places = places
        self._spawn = spawn
        self._linger, self._drain = stop_after
        self.all: list[Slot] = []
        self.processes: dict[int, Process] = {}
        self.error: Exception | None = None
        self.first: bool = True
        self.stopping: bool = False
        self.grace = False
        self._renewals = Renewals()
        self._scales = Scales()

    # --- starting -----------------------------------------------------------

    def begin(self, count: int) -> None:
        """Make the slots and start a worker in each.

        Raises:
            OSError: an address cannot be bound.
        """
        for _ in range(count):
            self._add()
        for slot in self.all:
            self._start(slot)

    def _add(self) -> Slot:
        slot = Slot(len(self.all), [])
        self.all.append(slot)
        for number, place in enumerate(self._places):
            slot.socks += [(number, sock) for sock in place.bind_slot()]
        self._scales.add()
        return slot

    def _start(self, slot: Slot) -> None:
        slot.retry = None
        try:
            process = self._spawn(slot.number)
        except OSError as error:  # no memory, processes or descriptors
            if self.first:
                raise
            then = slot.try_again()
            text = "a worker for slot %d could not be started: %s; %s"
            tell("worker_failed", text, slot.number, error, then)
            if slot is self._renewals.now:
                self._stop_roll()
            return
        slot.heir = process
        process.by = process.born + self._workers.start_timeout
        self.processes[process.pid] = process

    def became_ready(self, process: Process) -> None:
        """A worker has said that it is ready."""
        slot = self.all[process.slot]
        if slot.heir is not process or not process.can_serve:
            return
        process.by = None
        if not self.first:
            self._go_on()
            return
        if not all(one.heir is not None and one.heir.ready for one in self.all):
            return
        try:
            for place in self._places:
                place.listen(place.shared)
            for slot in self.all:
                self._promote(slot)
        except OSError as error:
            self.fail(error)
            return
        self.first = False
        self.cover()
        self._go_on()

    def _promote(self, slot: Slot) -> None:
        """Let the heir serve, and the worker before leave."""
        new, old = slot.heir, slot.worker
        assert new is not None
        if not slot.listening:
            for number, sock in slot.socks:
                self._places[number].listen([sock])
            slot.listening = True
        slot.heir, slot.worker = None, new
        slot.grow_old(self._workers.max_age)
        self._let_accept(slot)
        tell("worker", "%s serves", new)
        if old is not None:
            self._hand_over(old, new)

    def _let_accept(self, slot: Slot) -> None:
        """Let a slot's worker listen on the sockets, and the neighbour no more."""
        assert slot.worker is not None
        self._scales.introduce(slot.worker, [one.worker for one in self.all])
        share([slot.worker], self.all, self._places)
        let_listen(slot.worker, slot, slot.socks + shared_socks(self._places))
        self._scales.let_read(slot.worker, slot.number)
        uncover(slot)

    def _hand_over(self, old: Process, new: Process) -> None:
        """Let a worker accept nothing more, and give its connections to another."""
        tell("worker", "%s takes over from %s", new, old)
        if not self._workers.handover:
            self._let_leave(old)
            return
        begin_gift(old, new, max(self._linger, LEAST_PATIENCE))
        covers_no_more(old, self.all)

    def gave(self, process: Process) -> None:
        """A worker has given its connections, or could not give all."""
        if process.heir is None or process.gave is None or process.leaving:
            return
        if tell_gift(process):
            self._let_leave(process)
            self._go_on()
        else:  # the heir may have died, and the worker serve again
            process.stop_at = time.monotonic() + LAST_CHANCE

    def _serve_again(self, slot: Slot, dead: Process) -> bool:
        """Let the worker that was giving to an heir that has died serve on."""
        mine = [one for one in self.processes.values() if one.slot == slot.number]
        old = giver_to(dead, mine)
        if old is None:
            return False
        old.heir = old.gave = old.stop_at = old.gives_since = None
        slot.worker = old
        self._let_accept(slot)
        return True

    def _let_leave(self, process: Process) -> None:
        """Tell a worker to accept nothing more, to linger, and to end."""
        process.leaving = True
        process.stop_at = None
        linger = self._linger
        if process.gives_since is not None:  # part of it has gone by
            linger = max(linger + process.gives_since - time.monotonic(), 0.0)
        process.send("stop", None, linger, self.stopping)
        if process.gone:
            return  # its time is set
        process.by = None
        if self._drain is not None:
            span = linger + self._drain + PATIENCE
            process.by = time.monotonic() + span
        covers_no_more(process, self.all)

    # --- replacing ------------------------------------------------------------

    def roll(self) -> None:
        """Replace every worker, slot by slot. Calls during a roll are one more roll."""
        if self.stopping or self.grace:
            return
        if self._renewals.roll():
            tell("worker", "the workers are replaced, slot by slot")
        self._go_on()

    def asked(self, process: Process) -> None:
        """A worker has got SIGTERM: replace it, unless the server stops."""
        slot = self.all[process.slot]
        if slot.worker is process:
            self.renew(slot, "it was sent SIGTERM")

    def renew(self, slot: Slot, why: str) -> None:
        """Replace one worker, after those that are to be replaced already."""
        slot.old_at = None
        if self.stopping or self.grace or not self._renewals.add(slot):
            return
        tell("worker", "%s is replaced: %s", slot.worker, why)
        self._go_on()

    def _may_end(self, slot: Slot) -> bool:
        """Whether the slot's worker may end now: not while another one gives to it."""
        return giver_to(slot.worker, self.processes.values()) is None

    def _go_on(self) -> None:
        """Do what has waited for the end of a gift, and renew the next slot."""
        if self.first or self.stopping:
            return
        for slot in self.all:
            heir = slot.heir
            if not self._may_end(slot):
                continue
            if not slot.wanted:
                self._leave_slot(slot)
            elif heir is not None and heir.can_serve:
                self._promote(slot)
                self.cover()
                if slot is self._renewals.now:
                    self._renewals.now = None
        wanted = [slot for slot in self.all if slot.wanted]
        slot_now = self._renewals.next(wanted, self._may_end)
        if slot_now is None:
            return
        if slot_now.heir is None:
            self._start(slot_now)
        else:  # it may have the old code
            slot_now.heir.superseded = True
            slot_now.heir.kill()

    def _stop_roll(self) -> None:
        """The new code does not start. A roll that was asked for meanwhile begins."""
        self._renewals.stop_roll()
        self._go_on()

    # --- ends -------------------------------------------------------------------

    def ended(self, process: Process) -> None:
        """A process has ended, and was waited for."""
        del self.processes[process.pid]
        slot = self.all[process.slot]
        covers_no_more(process, self.all)
        self._scales.ended(process)
        if process is slot.heir:
            slot.heir = None
            if self.stopping or process.leaving:
                pass
            elif process.superseded:
                self._start(slot)
            else:
                self._could_not_start(slot, process)
        elif process is slot.worker:
            slot.worker = None
            if not self.stopping:
                self._died(slot, process)
        elif process.status and not self.stopping:
            tell_death(process, "")
        elif not self.stopping:
            tell_end(process)
        self.cover()
        self._go_on()

    def went_silent(self, process: Process) -> None:
        """A worker has closed its control socket, and should end at once."""
        if not process.leaving:
            process.silent_at = time.monotonic() + LAST_CHANCE

    def _is_gone(self, process: Process) -> None:
        """A worker serves no more, but its process goes on: replace it, and kill it."""
        process.silent_at, process.gone = None, True
        process.by = time.monotonic() + PATIENCE
        slot = self.all[process.slot]
        text = "%s serves no more, but its process has not ended; it has %g s to end%s"
        then = ""
        if process is slot.heir:
            process.why = process.why or "its process has not ended"
            process.kill()
        elif process is slot.worker:
            slot.worker = None
            if slot.heir is None and slot.wanted and not self.stopping:
                then = "; " + slot.try_again()
        tell("worker_died", text, process, PATIENCE, then)
        if not self.stopping:
            covers_no_more(process, self.all)
            self._serve_again(slot, process)
            self.cover()
            self._go_on()

    def _could_not_start(self, slot: Slot, process: Process) -> None:
        assert process.status is not None
        why = process.why or how_it_ended(process.status)
        trace = process.trace or process.stack()
        if self.first:
            error = RuntimeError(f"worker {slot.number} could not start: {why}")
            if trace:
                error.add_note(trace)
            self.fail(error)
            return
        if slot.worker is not None:
            then = f"{slot.worker} stays"
            slot.calm_down()
            slot.grow_old(self._workers.max_age)
        else:
            then = slot.try_again()
        text = "%s could not start: %s; %s%s"
        tell("worker_failed", text, process, why, then, trace and "\n" + trace)
        if slot is self._renewals.now:
            self._stop_roll()

    def _died(self, slot: Slot, process: Process) -> None:
        if process.age >= SETTLED:
            slot.failures = 0
        starts = slot.heir is None and slot.wanted
        then = slot.try_again() if starts else ""
        tell_death(process, then)
        if self._serve_again(slot, process):
            tell("worker", "%s serves on, with its connections", slot.worker)

    def fail(self, error: Exception) -> None:
        """The server cannot start: end every worker."""
        if self.error is None:
            self.error = error
        self.kill()

    def cover(self) -> None:
        """Let neighbours listen for slots whose worker does not, and only there."""
        if self.first or self.stopping:
            return
        self._scales.show(self.all)
        cover_slots(self.all, self._scales)

    def pass_on(self, full: set[int]) -> None:
        """Let workers that are full look whether others have places now."""
        pass_on(self.all, self._places, self._scales.loads(), full)

    # --- more, fewer, none --------------------------------------------------------

    def more(self) -> None:
        """Have one worker more."""
        if self.first or self.stopping:
            return
        for slot in self.all:
            if not slot.wanted:
                slot.wanted = True
                if slot.worker is None:
                    self._start(slot)
                else:
                    slot.grow_old(self._workers.max_age)
                break
        else:
            try:
                self._start(self._add())
            except OSError as error:
                tell("worker_failed", "there cannot be one worker more: %s", error)
        share(self.processes.values(), self.all, self._places)

    def fewer(self) -> None:
        """Have one worker less, but not none. A neighbour covers its slot."""
        wanted = [slot for slot in self.all if slot.wanted]
        if self.first or self.stopping or len(wanted) == 1:
            return
        slot = wanted[-1]
        slot.wanted, slot.retry, slot.old_at = False, None, None
        if slot.heir is not None:
            slot.heir.leaving = True
            slot.heir.kill()
        if slot is self._renewals.now:
            self._renewals.now = None
        self._go_on()

    def _leave_slot(self, slot: Slot) -> None:
        """Let the worker of a slot that is not wanted give to a neighbour, and end."""
        old, slot.worker = slot.worker, None
        share(self.processes.values(), self.all, self._places)
        if old is None:
            return
        tell("worker", "%s leaves", old)
        others = [one for one in self.all if one.wanted and one.worker is not None]
        # One that stands still now may go on: `old` serves until then.
        heir = max(others, key=lambda one: one.accepts, default=None)
        if heir is None or heir.worker is None:
            self._let_leave(old)
        else:
            self._hand_over(old, heir.worker)
        self.cover()

    def stop(self, linger: float) -> None:
        """Let every worker accept nothing more, linger, drain and end."""
        self.stopping = True
        self._linger = linger
        self._scales.show(self.all, stopping=True)
        self._renewals.clear()
        for slot in self.all:
            slot.retry = slot.old_at = None
        for process in list(self.processes.values()):
            if process.ready:
                self._let_leave(process)
            else:
                process.leaving = True
                process.kill(signal.SIGTERM)
                process.by = time.monotonic() + PATIENCE
            process.kill(signal.SIGCONT)
        self.close()

    def kill(self) -> None:
        """End every process at once."""
        self.stopping = True
        for slot in self.all:
            slot.retry = slot.old_at = None
        for process in self.processes.values():
            process.kill()
        self.close()

    def close(self) -> None:
        """Close the sockets, so that nobody waits at them for ever."""
        for slot in self.all:
            for _, sock in slot.socks:
                sock.close()
            slot.socks = []
        for place in self._places:
            place.close()
        self._scales.close()

    @property
    def rolling(self) -> bool:
        """Whether workers are being replaced."""
        return self._renewals.at_work and not self.stopping

    @property
    def over(self) -> bool:
        """Whether the server has stopped and every process has ended."""
        return self.stopping and not self.processes

    # --- time ---------------------------------------------------------------------

    @property
    def next_time(self) -> float | None:
        """When `tick` has something to do; None: never."""
        times = [process.by for process in self.processes.values()]
        times += [process.stop_at for process in self.processes.values()]
        times += [process.silent_at for process in self.processes.values()]
        for slot in self.all:
            times += slot.retry, slot.old_at
        return min((one for one in times if one is not None), default=None)

    def tick(self) -> None:
        """Do what is due: retries, ends of processes that are late, old age."""
        now = time.monotonic()
        for process in list(self.processes.values()):
            if process.stop_at is not None and process.stop_at <= now:
                self._let_leave(process)
                self._go_on()
            if process.silent_at is not None and process.silent_at <= now:
                self._is_gone(process)
            if process.by is None or process.by > now:
                continue
            process.by = None
            if not process.ready:
                span = self._workers.start_timeout
                process.why = process.why or f"not ready within {span:g} s"
            else:
                tell("worker_died", "%s does not end in time, and is killed", process)
            process.kill()
        for slot in self.all:
            if slot.retry is not None and slot.retry <= now:
                self._start(slot)
            if slot.old_at is not None and slot.old_at <= now:
                self.renew(slot, f"it is {self._workers.max_age:g} s old")
