"""`started` and `stopping`: a handler is told when its mux begins and stops."""

import errno
import threading

import pytest

import pymux

from . import util
from .serving import Hooked, Parting
from .util import Boom

LOCAL = ("127.0.0.1", 0)


def test_the_hooks_frame_the_life_of_a_server_in_its_thread(backend):
    handler = Hooked()
    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"hello") == b"hello"
        util.wait_until(lambda: "closed" in handler.names())
    assert handler.names() == ["started", "opened", "closed", "stopping"]
    assert {thread.split()[0] for _, thread in handler.told} == {"pymux"}
    assert {type(mux) for mux in handler.muxes} == {pymux.Mux}


def test_a_timer_that_started_sets_runs(backend):
    ticks = []

    class Ticking:
        def started(self, mux):
            mux.call_later(0.001, ticks.append, mux)

        def received(self, conn, data):
            return None

    with util.serving(Ticking(), backend):
        util.wait_until(lambda: ticks)


def test_a_good_bye_reaches_every_peer_before_the_end(backend, place):
    handler = Parting()
    with util.serving(handler, backend, place) as server:
        socks = [util.connect(server.address) for _ in range(5)]
        util.wait_until(lambda: len(handler.conns) == 5)
    for sock in socks:
        assert util.until_end(sock) == (b"good-bye", None)
        sock.close()
    assert handler.names()[6:] == ["stopping"] + ["closed"] * 5


def test_a_good_bye_of_any_size_is_read_to_its_end(backend):
    text = bytes(range(256)) * 20_000

    class Long(Parting):
        def stopping(self, mux):
            mux.send_many(self.conns, text)

    handler = Long()
    with util.serving(handler, backend, drain_timeout=60) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: handler.conns)
        server.call_threadsafe(lambda mux: server.stop())
        assert util.until_end(sock) == (text, None)
        sock.close()


def test_a_batch_handler_has_its_hooks_as_attributes(backend):
    told = []

    @pymux.batched
    def handler(batch):
        batch.reply(batch.messages)

    handler.started = lambda mux: told.append("started")
    handler.stopping = lambda mux: told.append("stopping")
    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"hello") == b"hello"
    assert told == ["started", "stopping"]


def test_an_object_that_takes_batches_has_hooks(backend):
    class Batches(Hooked):
        @pymux.batched
        def received(self, batch):
            batch.reply(batch.messages)

    handler = Batches()
    with util.serving(handler, backend) as server:
        assert util.everything(server.address, b"hello") == b"hello"
        util.wait_until(lambda: "closed" in handler.names())
    assert handler.names() == ["started", "opened", "closed", "stopping"]


def test_each_handler_of_a_server_is_told_once(backend):
    one, two = Hooked(), Hooked()
    where = [
        pymux.Endpoint(LOCAL, handler=one),
        pymux.Endpoint(LOCAL, handler=two),
        pymux.Endpoint(LOCAL, handler=one),
    ]
    with pymux.Server(None, where, backend=backend) as server:
        util.settle(server)
        server.stop(5)
        server.stop(1)
    assert one.names() == two.names() == ["started", "stopping"]


def test_a_handler_that_begins_to_listen_later_is_told(backend):
    late = Hooked()
    with util.serving(lambda conn, data: data, backend) as server:
        listener = util.in_server(server, lambda mux: mux.listen(LOCAL, handler=late))
        util.in_server(server, lambda mux: mux.listen(LOCAL, handler=late))
        assert util.everything(listener.address, b"hello") == b"hello"
        util.wait_until(lambda: "closed" in late.names())
    assert late.names() == ["started", "opened", "closed", "stopping"]


def test_what_a_hook_connects_belongs_to_its_handler(backend):
    class Calling(Hooked):
        def __init__(self, address):
            super().__init__()
            self.address = address
            self.got = []

        def started(self, mux):
            mux.connect(self.address).send(b"hello")

        def received(self, conn, data):
            self.got.append(data)

    with util.serving(lambda conn, data: data.upper()) as upper:
        callers = Calling(upper.address), Calling(upper.address)
        where = [pymux.Endpoint(LOCAL, handler=one) for one in callers]
        with pymux.Server(None, where, backend=backend):
            util.wait_until(lambda: all(one.got for one in callers))
    assert [one.got for one in callers] == [[b"HELLO"], [b"HELLO"]]


def test_an_error_of_a_hook_goes_to_on_error_and_ends_nothing(backend):
    told = []

    class Raising(Hooked):
        def started(self, mux):
            raise Boom("of started")

        def stopping(self, mux):
            super().stopping(mux)
            mux.send_many(self.conns, b"good-bye")
            raise Boom("of stopping")

    handler = Raising()
    with util.serving(
        handler, backend, on_error=lambda conn, error: told.append((conn, str(error)))
    ) as server:
        sock = util.connect(server.address)
        util.wait_until(lambda: handler.conns)
    assert util.until_end(sock) == (b"good-bye", None)
    sock.close()
    assert told == [(None, "of started"), (None, "of stopping")]


def test_an_error_of_a_hook_is_logged_without_on_error(backend, logged):
    class Raising(Hooked):
        def started(self, mux):
            raise Boom

    with util.serving(Raising(), backend) as server:
        util.settle(server)
    (record,) = logged
    assert record.exc_info[0] is Boom


def test_system_exit_in_started_ends_the_server_which_is_told_so(backend):
    class Leaving(Hooked):
        def started(self, mux):
            super().started(mux)
            raise SystemExit(3)

    handler = Leaving()
    with pytest.raises(SystemExit):
        pymux.Server(handler, LOCAL, backend=backend).run()
    assert handler.names() == ["started", "stopping"]


def test_a_server_that_an_error_ends_says_good_bye(backend):
    class Leaving(Parting):
        def received(self, conn, data):
            raise SystemExit(3)

        def stopping(self, mux):
            super().stopping(mux)
            raise SystemExit(4)

    handler = Leaving()
    server = pymux.Server(handler, LOCAL, backend=backend)
    raised = []

    def run():
        try:
            server.run()
        except SystemExit as error:
            raised.append(error.code)

    thread = threading.Thread(target=run)
    thread.start()
    util.wait_until(lambda: handler.muxes)
    with util.connect(server.address) as other:
        util.wait_until(lambda: handler.conns)
        with util.connect(server.address) as sock:
            sock.sendall(b"go")
            thread.join()
        assert util.recv_exactly(other, 8) == b"good-bye"
    assert raised == [3]
    assert handler.names()[-3:] == ["stopping", "closed", "closed"]


def test_stop_in_a_hook_returns_at_once(backend):
    class Stopping(Hooked):
        def started(self, mux):
            super().started(mux)
            server.stop()

        def stopping(self, mux):
            super().stopping(mux)
            server.stop(0)

    handler = Stopping()
    server = pymux.Server(handler, LOCAL, backend=backend)
    server.run()
    assert handler.names() == ["started", "stopping"]


@pytest.mark.parametrize("hook", ["started", "stopping"])
def test_a_hook_may_close_the_mux_and_not_harvest(backend, hook):
    handler = Hooked()
    raised = []

    def close(mux):
        handler.keep(hook)
        with pytest.raises(RuntimeError, match="handler or timer"):
            mux.harvest(0)
        raised.append(True)
        mux.close()

    setattr(handler, hook, close)
    server = pymux.Server(handler, LOCAL, backend=backend)
    server.start()
    if hook == "stopping":
        util.settle(server)
        server.stop()
    server.wait()
    assert raised
    assert handler.names() == ["started", "stopping"]


def test_a_server_that_never_ran_tells_nobody(backend):
    handler = Hooked()
    server = pymux.Server(handler, LOCAL, backend=backend)
    server.stop()
    with util.listening() as taken:
        busy = pymux.Server(handler, taken.getsockname(), backend=backend)
        with pytest.raises(OSError) as info:
            busy.start()
    assert info.value.errno == errno.EADDRINUSE
    assert handler.told == []


def test_a_mux_tells_a_handler_in_its_first_harvest_and_in_its_close(backend):
    handler = Parting()
    with pymux.Mux(backend) as mux:
        listener = mux.listen(LOCAL, handler=handler)
        assert handler.told == []
        mux.harvest(0)
        assert handler.names() == ["started"]
        sock = util.connect(listener.address)
        while not handler.conns:
            mux.harvest(10)
    assert util.recv_exactly(sock, 8) == b"good-bye"
    sock.close()
    assert handler.names() == ["started", "opened", "stopping", "closed"]
    assert handler.muxes == [mux, mux]


def test_a_listen_that_fails_and_a_connect_start_nobody(mux):
    handler = Hooked()
    with util.listening() as taken:
        with pytest.raises(OSError):
            mux.listen(taken.getsockname(), handler=handler)
        conn = mux.connect(taken.getsockname(), handler=handler)
        while conn not in handler.conns:
            mux.harvest(10)
        conn.abort()
        while handler.conns:
            mux.harvest(10)
    assert handler.names() == ["opened", "closed"]


def test_system_exit_in_stopping_leaves_a_close_that_is_done(backend):
    class Leaving(Hooked):
        def stopping(self, mux):
            raise SystemExit(3)

    mux = pymux.Mux(backend)
    listener = mux.listen(LOCAL, handler=Leaving())
    mux.harvest(0)
    with pytest.raises(SystemExit):
        mux.close()
    with pytest.raises(ConnectionRefusedError):
        util.connect(listener.address)


@pytest.mark.parametrize("hook", ["started", "stopping"])
def test_an_async_hook_is_a_type_error_that_names_it(hook):
    async def given(mux):
        return None

    handler = Hooked()
    setattr(handler, hook, given)
    with pytest.raises(TypeError, match=f"{hook} of .* is async"):
        pymux.Server(handler, LOCAL)


@pytest.mark.parametrize("hook", ["started", "stopping"])
def test_a_hook_of_other_arguments_is_a_type_error_that_names_ours(hook):
    class Wrong:
        def received(self, conn, data):
            return data

    setattr(Wrong, hook, lambda self: None)
    with pytest.raises(TypeError, match=rf"{hook} of .*Wrong takes .*{hook}\(mux\)"):
        pymux.Server(Wrong(), LOCAL)


def test_a_hook_that_is_misspelt_is_a_type_error():
    class Wrong:
        def received(self, conn, data):
            return data

        def stoping(self, mux):
            """Never called."""

    with pytest.raises(TypeError, match=r"stoping looks like stopping\(mux\)"):
        pymux.Server(Wrong(), LOCAL)


def test_attributes_of_these_names_that_are_no_functions_are_left_alone(backend):
    class Plain:
        started = 12.5
        stopping = False

        def received(self, conn, data):
            return data

    with util.serving(Plain(), backend) as server:
        assert util.everything(server.address, b"hello") == b"hello"
