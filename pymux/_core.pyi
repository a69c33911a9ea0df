"""The compiled core, as cffi presents it: `lib` is csrc/pymux.h."""

from typing import Any

class _Lib:
    PMX_RAW: int
    PMX_LINES: int
    PMX_PREFIX: int
    PMX_FIXED: int
    PMX_VARINT: int
    PMX_SCANNER: int
    PMX_SEND: int
    PMX_SEND_EOF: int
    PMX_CLOSE: int
    PMX_FAIL: int
    PMX_ABORT: int
    PMX_PAUSE: int
    PMX_RESUME: int
    PMX_HOLD: int
    PMX_RELEASE: int
    PMX_WAITS: int
    PMX_KEPT: int
    PMX_TAKEN: int
    PMX_SWITCH: int
    PMX_LENGTHS: int
    PMX_OFFSETS32: int
    PMX_OFFSETS64: int
    PMX_SHARED: int
    PMX_DELIMITED: int
    PMX_SPANS: int
    PMX_ROWS: int
    PMX_WOKEN: int
    PMX_INTERRUPTED: int
    PMX_OTHER_ROWS: int
    PMX_LARGE: int
    PMX_GAPS: int
    PMX_DRAINED: int
    PMX_GATHERING: int
    PMX_MESSAGES_SHIFT: int
    PMX_FOR_EVER: int
    PMX_LOOK: int
    PMX_READABLE: int
    PMX_WRITABLE: int

    @staticmethod
    def pmx_backend_name(index: int, /) -> Any: ...
    @staticmethod
    def pmx_backend_probe(name: Any, /) -> int: ...
    @staticmethod
    def pmx_compiler() -> Any: ...
    @staticmethod
    def pmx_select_limit() -> int: ...
    @staticmethod
    def pmx_open(
        mux: Any, backend: Any, max_messages: int, arena_size: int, spin_ns: int, /
    ) -> int: ...
    @staticmethod
    def pmx_open_small(
        mux: Any, backend: Any, max_messages: int, arena_size: int, /
    ) -> int: ...
    @staticmethod
    def pmx_wakeup_open(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_shut(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_close(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_dispose(mux: Any, /) -> None: ...
    @staticmethod
    def pmx_keep_wakeup(mux: Any, wakeup: Any, /) -> int: ...
    @staticmethod
    def pmx_wakeup_close(wakeup: Any, /) -> None: ...
    @staticmethod
    def pmx_name(mux: Any, /) -> Any: ...
    @staticmethod
    def pmx_fileno(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_forked(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_counts(mux: Any, /) -> Any: ...
    @staticmethod
    def pmx_add_service(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_configure(
        mux: Any,
        service: int,
        min_messages: int,
        max_delay_ns: int,
        leave_gaps: int,
        /,
    ) -> int: ...
    @staticmethod
    def pmx_listen(
        mux: Any,
        endpoint: Any,
        policy: Any,
        backlog: int,
        reuse_port: int,
        mode: int,
        listener: Any,
        /,
    ) -> int: ...
    @staticmethod
    def pmx_listen_on(mux: Any, sock: int, policy: Any, listener: Any, /) -> int: ...
    @staticmethod
    def pmx_unlisten(mux: Any, listener: int, /) -> int: ...
    @staticmethod
    def pmx_listener_address(mux: Any, listener: int, name: Any, /) -> int: ...
    @staticmethod
    def pmx_connect(
        mux: Any, endpoints: Any, count: int, policy: Any, id: Any, /
    ) -> int: ...
    @staticmethod
    def pmx_addresses(mux: Any, id: int, names: Any, /) -> int: ...
    @staticmethod
    def pmx_policy_of(mux: Any, id: int, policy: Any, /) -> int: ...
    @staticmethod
    def pmx_pending(mux: Any, id: int, /) -> int: ...
    @staticmethod
    def pmx_queued(mux: Any, id: int, /) -> int: ...
    @staticmethod
    def pmx_unacknowledged(mux: Any, id: int, /) -> int: ...
    @staticmethod
    def pmx_harvest(turn: Any, /) -> int: ...
    @staticmethod
    def pmx_exchange(
        turn: Any,
        timeout_ns: int,
        shape: int,
        ids: Any,
        bounds: Any,
        data: Any,
        size: int,
        /,
    ) -> int: ...
    @staticmethod
    def pmx_submit(turn: Any, /) -> int: ...
    @staticmethod
    def pmx_next_timeout(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_drain(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_stopping(mux: Any, id: int, /) -> int: ...
    @staticmethod
    def pmx_reset_all(mux: Any, error: int, /) -> int: ...
    @staticmethod
    def pmx_wakeup_by_pipe(on: int, /) -> None: ...
    @staticmethod
    def pmx_shift_clock(ms: int, /) -> None: ...
    @staticmethod
    def pmx_wakeup_fd(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_wakeup(mux: Any, /) -> int: ...
    @staticmethod
    def pmx_check_offsets(offsets: Any, width: int, n: int, size: int, /) -> int: ...
    @staticmethod
    def pmx_close_gaps(arena: Any, /) -> None: ...
    @staticmethod
    def pmx_arena_new(capacity: int, rows: int, /) -> Any: ...
    @staticmethod
    def pmx_arena_free(arena: Any, /) -> None: ...
    @staticmethod
    def pmx_arena_drop(arena: Any, /) -> None: ...
    @staticmethod
    def pmx_watch_open(watch: Any, backend: Any, /) -> int: ...
    @staticmethod
    def pmx_watch_shut(watch: Any, /) -> None: ...
    @staticmethod
    def pmx_watch_free(watch: Any, /) -> None: ...
    @staticmethod
    def pmx_watch_name(watch: Any, /) -> Any: ...
    @staticmethod
    def pmx_watch_fileno(watch: Any, /) -> int: ...
    @staticmethod
    def pmx_watch_set(watch: Any, number: int, had: int, wanted: int, /) -> int: ...
    @staticmethod
    def pmx_ready_new(watch: Any, room: int, /) -> Any: ...
    @staticmethod
    def pmx_ready_free(ready: Any, /) -> None: ...
    @staticmethod
    def pmx_ready_wait(ready: Any, timeout_ns: int, /) -> int: ...
    @staticmethod
    def pmx_ready_look(ready: Any, /) -> int: ...

ffi: Any
lib: _Lib
