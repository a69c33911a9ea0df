"""Every access of the tests to what is private in the package.

Tests use the public names. A few must wait for a moment that nothing public tells
of, or bring about a state that only bad luck brings. Their ways are the functions
here, so when something inside moves, this file alone changes.
"""

import contextlib
from types import SimpleNamespace
from unittest import mock

import pytest

import pymux.cli.main
from pymux.cli import arguments, bench, descriptors, limits, words
from pymux.cli import talk as conversation
from pymux.engine import backends, clock, engine, gil, locks, openssl, tls_hello
from pymux.handlers import current, threads
from pymux.objects import suspend
from pymux.server import channel, giver, linger, taker
from pymux.server import server as servers
from pymux.values import addresses, endpoint
from pymux.workers import cpus, sockets

# -- parts that have tests of their own -----------------------------------------------

parse_url = addresses.parse_url
connect_settings = endpoint.connect_settings
listen_settings = endpoint.listen_settings
RLock = locks.RLock
Giver = giver.Giver
Taker = taker.Taker
usable_cpus = cpus.usable_cpus
Linger = linger.Linger
bind_all = sockets.bind_all


def hello(highest, lowest):
    """What an heir says first, that speaks these versions."""
    return channel.frame(channel.HELLO, highest, lowest)


def batch(number, records, count=None):
    """The frame in which a giver sends these records, or claims another count."""
    body = b"".join(channel.SIZE.pack(len(one)) + one for one in records)
    count = len(records) if count is None else count
    return channel.frame(channel.BATCH, number, count, body)


def acknowledgement(number, count, bits):
    """The frame in which an heir says which of a batch it has."""
    return channel.frame(channel.ACK, number, count, bits)


# -- the command line -----------------------------------------------------------------

command = pymux.cli.main.main
describe = words.describe
parse_address = arguments.parse_address
parse_framing = arguments.parse_framing
parse_limit = limits.parse_limit
limits_from = limits.limits_from
raise_limit = descriptors.raise_limit
format_address = addresses.format_address


@contextlib.contextmanager
def standard_input(blocks):
    """For a block: the input of `pymux connect`, whose waits end by events alone."""
    with (
        mock.patch.object(conversation, "_blocks", lambda: iter(blocks)),
        mock.patch.object(conversation, "_LONGEST_WAIT", 600),
    ):
        yield


def bench_patience(seconds):
    """For a block: how long `pymux bench` waits for connections and last answers."""
    return mock.patch.object(bench, "PATIENCE", seconds)


@contextlib.contextmanager
def standard_error(number):
    """For a block: what this process writes to standard error goes to a descriptor."""
    with open(number, "w", closefd=False) as stream, mock.patch("sys.stderr", stream):
        yield


def on_a_bsd():
    """For a block: paths of sockets may be as long as on the BSDs and macOS."""
    return mock.patch.object(addresses, "_BSD", True)


# -- the clock ------------------------------------------------------------------------

shift_clock = clock.shift


@contextlib.contextmanager
def stopped_clock():
    """For a block: the package's clock shows what `.now` of the given object says."""
    time = SimpleNamespace(now=1000.0)
    with mock.patch.object(clock, "now", lambda: time.now):
        yield time


# -- a mux ----------------------------------------------------------------------------


def engine_of(one):
    """The engine beneath a mux, a client or a server; None before a server has one."""
    plan = getattr(one, "_plan", None)
    return one._engine if plan is None else plan.engine


def is_freed(one):
    """Whether a mux, a client or a server has closed and given its memory back."""
    return engine_of(one).c is None


def connections(mux):
    """The connections that a mux or server has now, in any order."""
    return [conn for conn in engine_of(mux).table if conn is not None]


def is_in_the_core(mux):
    """Whether a harvest of this mux is inside the C core."""
    return mux._engine.state.name == "IN_CORE"


def harvests(mux):
    """`stats().harvests`, which may be asked for in any thread at any time."""
    return mux._engine.counts.harvests


def listeners(mux):
    """`stats().listeners`, in any thread."""
    return mux._engine.stats().listeners


def own(mux, thread):
    """Let a mux belong to the thread with this ident; to nobody for None."""
    mux._engine.thread = thread


def kept_causes(mux):
    """How many exceptions a mux keeps for ends that it has not reported."""
    return len(mux._engine.causes)


def submit(mux):
    """Hand what was sent to the core now, and not at the next harvest."""
    mux._engine.submit()


def forget_the_last_warning(server):
    """The next pause of accepting is warned of, as if much time had gone by."""
    engine_of(server).notices._kinds.clear()


def kinds_told(server):
    """How many kinds of lines in the log a server remembers."""
    return len(engine_of(server).notices._kinds)


def take_signals(mux):
    """Let a mux take the wakeup descriptor of signals, as that of `serve` does."""
    mux._engine.takes_signals = True


def wakeup_descriptor(mux):
    """The descriptor to which a signal writes."""
    return mux._engine.wakeup_fd


def fail_in_harvest(server, error):
    """Let the next harvest of a server raise this."""

    def fail(*args):
        raise error

    engine = engine_of(server)
    engine.harvest = engine.exchange = fail


def run_something_in_each_turn(mux):
    """Let each turn of a mux behave as if a timer had run in it."""
    mux._engine._run_due = lambda: True


def keep_the_gil(mux, turns=8):
    """For some turns, as beside a thread that computes."""
    mux._engine.gil._call = gil.exchange_holding_the_gil()
    mux._engine.gil.left = turns


def notice_a_busy_gil(mux):
    """Let a mux notice that another thread has held the GIL for long."""
    mux._engine.turn.done_ns = 0
    mux._engine.gil.look(mux._engine.counts)


missing_backend = backends.missing


def fail_beside(monkeypatch, errors):
    """Have the second family of "localhost" fail with these errors first."""
    real = engine.Engine.listen_beside

    def listen_beside(self, *args, **options):
        return errors.pop(0) if errors else real(self, *args, **options)

    monkeypatch.setattr(engine.Engine, "listen_beside", listen_beside)


# -- a server -------------------------------------------------------------------------

run_until_signal = servers.run_until_signal


@contextlib.contextmanager
def locks_held(server):
    """Hold each lock of a server and of its mux."""
    with server._plan.lock, server._joining, engine_of(server).lock:
        yield


def has_ended(server):
    """Whether a server's thread has ended."""
    return server._ended.is_set()


def patience(seconds):
    """For a block: how long `stop` waits, once its time is over, for a handler that
    does not return."""
    return mock.patch.object(servers, "PATIENCE", seconds)


def allow_no_time(server):
    """Take the drain time of a server away after its construction."""
    server._plan._drain_timeout = 0


def draining_calls(fn):
    """For a block: a server that begins to drain calls fn(), and does no more."""
    return mock.patch.object(engine.Engine, "drain", lambda engine: fn())


# -- coroutine handlers ---------------------------------------------------------------


def has_untaken(conn):
    """Whether messages of the connection wait for its coroutine."""
    return bool(conn._buffer.untaken)


running_asyncio = current.running_asyncio


@contextlib.contextmanager
def own_threads():
    """In this block `to_thread` has threads of its own, which are given.

    Theirs are `threads()`, how many there are, and `busy()`, how many calls they
    have not finished.
    """
    workers = _Workers()
    with mock.patch.object(threads, "WORKERS", workers):
        yield workers


class _Workers(threads.ThreadPool):
    def threads(self):
        return self._threads

    def busy(self):
        return self._busy


def grace(seconds):
    """For a block: how long coroutines may clean up when their server ends."""
    return mock.patch("pymux.handlers.coroutine.GRACE", seconds)


def keeps_spawned(mux):
    """Whether a mux still keeps anything of spawned coroutines."""
    engine = mux._engine
    return bool(engine.nurseries or engine.guests)


def keeps_ends(mux):
    """Whether a mux still keeps coroutines that know of the end of a connection."""
    return bool(mux._engine.aware)


def waits_to_drain(mux):
    """How many coroutines wait in `drain` for another coroutine's connection."""
    return sum(map(len, engine_of(mux).guests.values()))


def cancel_now(spawned):
    """Cancel a spawned coroutine inside this call, as the end of a connection does."""
    spawned._task.cancel_now("a test")


def suspending_by_generators():
    """For a block: as on an interpreter that makes no native suspending coroutine."""
    return mock.patch.object(suspend, "_NATIVE", False)


suspending = suspend.suspending

# -- a client -------------------------------------------------------------------------


def is_closed(client):
    """Whether a client has closed."""
    return client._closed


def is_entered(client):
    """Whether a call is inside the client, in any thread."""
    return bool(client._inside)


def has_queued(client):
    """Whether the client has output that the kernel has not taken."""
    return bool(client._engine.counts.queued)


def held_bytes(client):
    """Bytes that the client has taken in and `recv` has not returned."""
    return client._inbox.size


def all_is_acknowledged(client):
    """Whether the peer has acknowledged all output, or the OS does not tell."""
    return client._unacknowledged() in (0, None)


def is_in_client(frame, *names):
    """Whether this frame of the interpreter is in a call of a client's with one of
    these names."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename == pymux.client.client.__file__ and code.co_name in names:
            return True
        frame = frame.f_back
    return False


# -- pymux.aio ------------------------------------------------------------------------


def outgoing_muxes():
    """The muxes of outgoing connections, of every loop."""
    from pymux.aio import outgoing

    return [engine.mux() for engine in list(outgoing._ENGINES.values())]


def loop_of(mux):
    """The asyncio loop that harvests a mux."""
    return mux._engine.loop


def looks_at_replies(mux):
    """Whether there are read ends of pipes, and replies are looked at for them."""
    engine = engine_of(mux)
    return bool(engine.receivers), engine.services[0].large < 0


def places_in_use(mux):
    """How many connections an outgoing mux keeps anything of."""
    return sum(place is not None for place in mux._engine.table)


def keeps_tasks(mux):
    """Whether a mux keeps coroutines that no connection has any more."""
    dispatchers = [service.dispatcher for service in mux._engine.services]
    return any(one.orphans for one in dispatchers if one is not None)


def end_of(server):
    """What an asyncio server's end completes: a future."""
    return server._ended


def own_no_warning(server):
    """Drop a server that was left open without its warning."""
    server._left_open = False


def lose_the_calls(server):
    """Cancel what the loop is to call for a server, as a signal's handler may."""
    engine = engine_of(server)
    for handle in (engine._flush, engine._next, engine._timer):
        if handle is not None:
            handle.cancel()


def lingers(seconds):
    """For a block: how long a loop's end waits for its outgoing connections."""
    return mock.patch("pymux.aio.outgoing.LINGER", seconds)


def freeing_raises(error):
    """For a block: a mux that closes raises this before it is freed."""
    return mock.patch.object(engine.Engine, "free", side_effect=error)


def watching_raises(error):
    """For a block: a mux in an asyncio loop has no descriptor to watch."""
    return mock.patch("pymux.aio.loop.LoopEngine.fileno", side_effect=error)


def slice_is_over_raises(error):
    """For a block: a signal's handler raises instead of each call that ends a doze."""
    name = "pymux.aio.loop.LoopEngine._slice_is_over"
    return mock.patch(name, side_effect=error)


def dialling_raises(error):
    """For a block: connecting is cut short once the connection has begun."""
    return mock.patch.object(engine.Engine, "note_framings", side_effect=error)


# -- a selector -----------------------------------------------------------------------


def has_spare_memory(selector):
    """Whether memory for a wait is left over: none is while a thread waits."""
    return bool(selector._rooms)


# -- TLS ------------------------------------------------------------------------------


def choose_tls_again():
    """Let the next use of TLS look at PYMUX_TLS anew."""
    openssl._chosen = None


@contextlib.contextmanager
def tls_chosen_again(monkeypatch):
    """For a block: the engine that PYMUX_TLS asks for, or the test is skipped."""
    choose_tls_again()
    try:
        tls_engine()
    except pymux.BackendUnavailable as error:
        pytest.skip(error.strerror)
    yield
    monkeypatch.undo()
    choose_tls_again()


@contextlib.contextmanager
def openssl_lacks(name):
    """For a block: the OpenSSL that is looked up lacks a function."""
    found = openssl._address

    def address(ctypes, library, function):
        return 0 if function == name else found(ctypes, library, function)

    with (
        mock.patch.object(openssl, "_told", False),
        mock.patch.object(openssl, "_address", address),
    ):
        yield


def openssl_is_another():
    """For a block: what `ssl` makes is not noted."""
    return mock.patch.object(openssl, "_is_noted", lambda: False)


def tls_engine():
    """Which engine drives TLS: (adopts, reason)."""
    return openssl.tls_engine()


def kept_objects(mux):
    """How many objects of `ssl` a mux or a server's mux keeps."""
    engine = engine_of(mux)
    return 0 if engine.tls is None else len(engine.tls.kept)


server_name_in = tls_hello.server_name_in


def __getattr__(name):
    """`Portable` is loaded with `ssl`, which a plain mux does without."""
    if name == "Portable":
        from pymux.engine.tls_portable import Portable

        return Portable
    raise AttributeError(name)
