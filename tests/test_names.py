"""The names of the package: what can be imported, its defaults, its refusals."""

import dataclasses
import inspect
import typing

import pytest

import pymux

NAMES = [
    "serve",
    "Server",
    "batched",
    "connect",
    "Mux",
    "Batch",
    "Later",
    "Connection",
    "Raw",
    "Lines",
    "LengthPrefix",
    "Varint",
    "Fixed",
    "Scanner",
    "Splitter",
    "Limits",
    "Credentials",
    "Detached",
    "Endpoint",
    "Proxy",
    "Workers",
    "Group",
    "Nats",
    "Redis",
    "sleep",
    "timeout",
    "to_thread",
    "spawn",
    "Spawned",
    "Event",
    "Queue",
    "Cancelled",
    "Stats",
    "backends",
    "ConnectionClosed",
    "BackendUnavailable",
    "Selector",
    "Address",
    "Framing",
    "Handler",
]

SERVER = (
    "(handler, address=('127.0.0.1', 8093), *, framing=None,"
    " reply_framing=None, ssl=None, limits=None, require_close_notify=True,"
    " backend=None, backlog=None, reuse_port=False, mode=384, drain_timeout=5.0,"
    " spin=0.0, arena_size=262144, max_messages=4096,"
    " slow_handler=None, on_error=None, proxy=None)"
)
SIGNATURES = {
    "Server": SERVER,
    "serve": SERVER.replace("proxy=None", "workers=None, linger=None, proxy=None"),
    "aio.serve": SERVER.replace(" spin=0.0,", ""),
    "batched": "(handler=None, *, min_messages=1, max_delay=0.0)",
    "connect": "(address, *, framing=None, reply_framing=None, ssl=None, limits=None,"
    " server_hostname=None, require_close_notify=True, timeout=None)",
    "aio.connect": "(address, *, framing=None, reply_framing=None, ssl=None,"
    " limits=None, server_hostname=None, require_close_notify=True, timeout=None,"
    " backend=None)",
    "dial": "(address, *, framing=None, reply_framing=None, ssl=None, limits=None,"
    " server_hostname=None, require_close_notify=True, timeout=None)",
    "Mux": "(backend=None, *, arena_size=262144, max_messages=4096, spin=0.0)",
    "Later.reply": "(self, replies)",
    "Later.reply_data": "(self, data, offsets=None, *, mask=None)",
    "Later.fail": "(self, error, row=None)",
    "Mux.listen": "(self, address, *, framing=None, reply_framing=None, ssl=None,"
    " limits=None, handler=None, require_close_notify=True, backlog=None,"
    " reuse_port=False, half_open=False, mode=384, proxy=None)",
    "Mux.connect": "(self, address, *, framing=None, reply_framing=None, ssl=None,"
    " limits=None, handler=None, server_hostname=None, require_close_notify=True,"
    " half_open=False, timeout=None, proxy=None)",
    "Mux.harvest": "(self, timeout=None, *, min_messages=1, max_delay=0.0)",
    "Mux.send_many": "(self, conns, data, *, skip_over=None)",
    "Mux.call_later": "(self, delay, fn, *args)",
    "Mux.call_threadsafe": "(self, fn, *args)",
    "Raw": "()",
    "Lines": "(delimiter=b'\\n', max_size=65536)",
    "LengthPrefix": "(width=4, byteorder='big', max_size=1048576, *, offset=0,"
    " adjust=0, keep_head=False)",
    "Varint": "(max_size=1048576, *, offset=0, keep_head=False)",
    "Scanner": "(address, keep=None, max_size=1048576)",
    "Splitter": "(factory, max_size=1048576)",
    "Fixed": "(size)",
    "Limits": "(*, max_connections=None, max_per_peer=None, high_water=65536,"
    " low_water=16384, max_output=16777216, idle_timeout=None, message_timeout=None,"
    " close_timeout=30.0, keepalive=None,"
    " send_buffer=None, notsent_lowat=None, handshake_timeout=30.0,"
    " max_handshakes=1024)",
    "Endpoint": "(address, *, framing=None, reply_framing=None, ssl=None,"
    " limits=None, handler=None, server_hostname=None,"
    " require_close_notify=True, backlog=None, reuse_port=False, mode=384,"
    " source_address=None, proxy=None)",
    "Proxy": "(trusted, *, timeout=5.0)",
    "Workers": "(count='auto', *, handover=True, grace=0.0, start_timeout=30.0,"
    " watchdog=30.0, max_memory=None, max_age=None, metrics=None, health=None)",
    "Group": "(name, backplane=None, *, drop_slow=False, on_gap=None)",
    "Group.send": "(self, data)",
    "Nats": "(address, *, ssl=None, limits=None, user=None, password=None, keep=1000,"
    " keep_bytes=1048576)",
    "Redis": "(address, *, ssl=None, limits=None, user=None, password=None, keep=1000,"
    " keep_bytes=1048576)",
    "Selector": "(backend=None)",
    "Selector.register": "(self, fileobj, events, data=None)",
    "Selector.unregister": "(self, fileobj)",
    "Selector.modify": "(self, fileobj, events, data=None)",
    "Selector.select": "(self, timeout=None)",
    "Queue": "(maxsize=None)",
    "sleep": "(seconds)",
    "spawn": "(coroutine)",
    "timeout": "(seconds)",
    "to_thread": "(fn, *args, timeout=None)",
}

STATS = [
    "backend",
    "connections",
    "listeners",
    "accepted",
    "connected",
    "closed",
    "reset",
    "refused",
    "refused_per_peer",
    "messages_in",
    "messages_out",
    "bytes_in",
    "bytes_out",
    "queued",
    "discarded",
    "harvests",
    "buffers",
    "arenas_held",
    "accept_pauses",
    "tls_handshakes",
    "tls_resumed",
    "tls_failed",
    "moved_in",
    "moved_out",
    "given_away",
    "protocol_errors",
    "timeouts_idle",
    "timeouts_close",
    "enobufs",
    "proxy_refused",
    "shortages",
    "handshake_pauses",
    "backplane_dropped",
]


def written(function):
    """A signature as text, without annotations."""
    signature = inspect.signature(function)
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]
    return str(
        signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_importable_from_the_package(name):
    assert hasattr(pymux, name)
    assert name in pymux.__all__


def test_all_lists_only_what_exists():
    assert [name for name in pymux.__all__ if not hasattr(pymux, name)] == []


@pytest.mark.parametrize("module", [pymux, pymux.aio])
def test_dir_shows_the_public_names_alone(module):
    names = [name for name in dir(module) if not name.startswith("__")]
    assert names == sorted(module.__all__)
    assert {"__doc__", "__file__"} <= set(dir(module))


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_a_signature_is_the_one_of_the_contract(name):
    found = pymux
    for part in name.split("."):
        found = getattr(found, part)
    assert written(found) == SIGNATURES[name]


@pytest.mark.parametrize(
    "call",
    [
        pymux.serve,
        pymux.Server.__init__,
        pymux.Mux.listen,
        pymux.Mux.connect,
        pymux.connect,
        pymux.aio.serve,
        pymux.aio.connect,
        pymux.batched,
    ],
    ids=lambda call: call.__qualname__,
)
def test_annotations_can_be_read_while_a_program_runs(call):
    assert typing.get_type_hints(call).keys() - {"return"} <= set(
        inspect.signature(call).parameters
    )


@pytest.mark.parametrize(
    "value", [pymux.Raw(), pymux.Lines(), pymux.LengthPrefix(), pymux.Limits()]
)
def test_framings_and_limits_are_frozen_dataclasses(value):
    assert dataclasses.is_dataclass(value)
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))


def test_fixed_is_a_frozen_dataclass():
    fixed = pymux.Fixed(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fixed.size = 4


def test_framings_compare_by_value():
    assert pymux.Lines() == pymux.Lines(b"\n", 65536)
    assert pymux.Lines() != pymux.Lines(b"\r\n")
    assert hash(pymux.Fixed(4)) == hash(pymux.Fixed(4))


def test_limits_are_keyword_only():
    with pytest.raises(TypeError):
        pymux.Limits(10)


def test_stats_is_a_dataclass_with_the_promised_fields():
    assert [field.name for field in dataclasses.fields(pymux.Stats)] == STATS


def test_the_errors_are_what_one_would_catch():
    assert issubclass(pymux.ConnectionClosed, ConnectionError)
    assert issubclass(pymux.BackendUnavailable, OSError)


@pytest.mark.parametrize(
    "make, shown",
    [
        (lambda: pymux.Lines(b""), "1"),
        (lambda: pymux.Lines(b"12345678901234567"), "16"),
        (lambda: pymux.Lines(max_size=-7), "-7"),
        (lambda: pymux.LengthPrefix(5), "5"),
        (lambda: pymux.LengthPrefix(0), "0"),
        (lambda: pymux.LengthPrefix(16), "16"),
        (lambda: pymux.LengthPrefix("4"), "'4'"),
        (lambda: pymux.LengthPrefix(4, "middle"), "middle"),
        (lambda: pymux.LengthPrefix(max_size=-7), "-7"),
        (lambda: pymux.Fixed(0), "0"),
        (lambda: pymux.Fixed(-7), "-7"),
        (lambda: pymux.Limits(max_connections=0), "0"),
        (lambda: pymux.Limits(max_connections=-7), "-7"),
        (lambda: pymux.Limits(high_water=-7), "-7"),
        (lambda: pymux.Limits(low_water=-7), "-7"),
        (lambda: pymux.Limits(high_water=100, low_water=200), "200"),
        (lambda: pymux.Limits(max_output=-7), "-7"),
        (lambda: pymux.Limits(idle_timeout=-7.0), "-7"),
        (lambda: pymux.Limits(close_timeout=-7.0), "-7"),
        (lambda: pymux.Limits(idle_timeout=float("nan")), "nan"),
        (lambda: pymux.Limits(keepalive=(0, 10, 5)), "idle is 0"),
        (lambda: pymux.Limits(keepalive=(60, -1, 5)), "interval is -1"),
        (lambda: pymux.Limits(keepalive=(60, 10, 128)), "count is 128"),
    ],
)
def test_a_value_out_of_range_is_named_in_a_value_error(make, shown):
    with pytest.raises(ValueError, match=shown):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: pymux.Lines("\n"),
        lambda: pymux.Lines(max_size="many"),
        lambda: pymux.Fixed("4"),
        lambda: pymux.Fixed(2.5),
        lambda: pymux.Limits(high_water="64k"),
        lambda: pymux.Limits(idle_timeout="soon"),
        lambda: pymux.Limits(keepalive=True),
        lambda: pymux.Limits(keepalive=60),
        lambda: pymux.Limits(keepalive=(60, 10)),
        lambda: pymux.Limits(keepalive=(60.5, 10, 5)),
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error(make):
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize(
    "options",
    [
        {"arena_size": 0},
        {"arena_size": -7},
        {"max_messages": 0},
        {"max_messages": -7},
        {"spin": -1.0},
        {"spin": "fast"},
    ],
)
def test_a_mux_refuses_nonsense_and_shows_it(backend, options):
    (value,) = options.values()
    with pytest.raises(ValueError, match=str(value)):
        pymux.Mux(backend, **options)


@pytest.mark.parametrize("option", ["framing", "limits"])
@pytest.mark.parametrize("value", ["lines", 4, pymux.Lines])
def test_a_framing_or_limits_of_another_type_is_a_type_error(mux, option, value):
    with pytest.raises(TypeError):
        mux.listen(("127.0.0.1", 0), **{option: value})
    with pytest.raises(TypeError):
        mux.connect(("127.0.0.1", 9), **{option: value})
    assert mux.stats().listeners == 0


def test_a_harvest_refuses_nonsense(mux):
    with pytest.raises(ValueError):
        mux.harvest(0, min_messages=0)
    with pytest.raises(ValueError):
        mux.harvest(0, max_delay=-1.0)
