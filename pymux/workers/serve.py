"""`serve` with workers: from the caller's arguments to a supervisor."""

from __future__ import annotations

import dataclasses
import pickle
import socket
import sys
from collections.abc import Callable
from typing import Any

from ..server.server import Server
from ..values.endpoint import Endpoint, listen_settings
from ..values.stats import Stats
from ..values.workers import Workers, check_workers
from .child import Task, in_worker
from .cpus import usable_cpus
from .references import Reference, main_of_process, refer, refer_to_maker
from .sockets import Place, bind_all
from .supervisor import Ready, Supervisor, check_can_supervise
from .watchdog import check_can_measure

__all__ = ["LINGER", "serve_with_workers"]

LINGER = 20.0  # seconds; with 5 to drain they fit the 30 of Kubernetes


def serve_with_workers(
    handler: Any,
    address: Any,
    workers: Workers | int | str,
    *,
    linger: float | None = None,
    ssl: Any = None,
    on_error: Any = None,
    setup: Reference | None = None,
    on_ready: Callable[[Ready], Any] | None = None,
    **options: Any,
) -> Stats:
    """Serve in several processes until a signal; return the figures of all.

    Args:
        handler: a handler that has a name, or "module:name".
        workers: how many, or `Workers`.
        linger: seconds over which a worker that leaves spreads its last connections;
            None is LINGER.
        ssl, on_error: functions that have a name, or "module:name"; the first makes
            the context.
        setup: what each worker calls before it makes its server.
        on_ready: called once, when every worker is ready.
        options: further arguments of `Server`.

    Raises:
        OSError: the server cannot listen on an address; Windows.
        TypeError, ValueError: an argument is wrong, or no worker can be given it.
        RuntimeError: this is not the main thread, or a worker; or a worker could not
            start.
    """
    value = check_workers(workers)
    if in_worker():
        raise RuntimeError(
            "this process is a worker, which has imported a module that serves with "
            "workers again; put that call under: if __name__ == '__main__':"
        )
    check_can_supervise()
    check_can_measure(value)
    count = usable_cpus() if value.count == "auto" else int(value.count)
    try:
        task, settings = _task_of(handler, address, ssl, on_error, setup, options)
    except (TypeError, ValueError) as error:  # the caller's; our frames tell nothing
        raise error.with_traceback(None) from None
    places = bind_all(settings)
    try:
        task.endpoints = [_by_name(*pair) for pair in zip(task.endpoints, places)]
        pickled = _pickled(task)
        told = {
            "argv": sys.argv,
            "main": main_of_process() if b"__main__" in pickled else None,
            "names": [place.addresses for place in places],
        }
        supervisor = Supervisor(
            value,
            count,
            places,
            told,
            pickled,
            linger=LINGER if linger is None else linger,
            drain_timeout=options.get("drain_timeout", 5.0),
            on_ready=on_ready,
        )
        try:
            return supervisor.run()
        except RuntimeError as error:
            if error is supervisor.slots.error:  # the user's, as above
                raise error.with_traceback(None) from None
            raise
    finally:
        for place in places:
            place.close()


def _task_of(
    handler: Any,
    address: Any,
    ssl: Any,
    on_error: Any,
    setup: Reference | None,
    options: dict[str, Any],
) -> tuple[Task, list[Any]]:
    """Check the arguments as `Server` does; return the task and the settings."""
    where: list[Any] = list(address) if isinstance(address, list) else [address]
    reference = None if handler is None else refer("handler", handler)
    made: dict[str, Reference] = {}
    context = None
    if ssl is not None:
        made["ssl"] = refer_to_maker("ssl", ssl)
        context = _stand_in_context()
    if on_error is not None:
        made["on_error"] = refer("on_error", on_error)
    sent = []
    checked = []
    for one in where:
        if isinstance(one, Endpoint) and one.handler is not None:
            name: Any = refer("an endpoint's handler", one.handler)
            sent.append(dataclasses.replace(one, handler=name))
            checked.append(dataclasses.replace(one, handler=_stand_in(one.handler)))
        else:
            sent.append(one)
            checked.append(one)
        if isinstance(one, Endpoint) and one.ssl is not None:
            raise TypeError(
                f"ssl of {one!r} cannot be given to a worker; give serve(ssl=) a "
                "function that makes the context"
            )
    Server(
        _stand_in(handler),
        checked,
        ssl=context,
        on_error=None if isinstance(on_error, str) else on_error,
        **options,
    )
    known = ("framing", "reply_framing", "limits", "require_close_notify", "backlog")
    listening = {
        name: options[name]
        for name in (*known, "reuse_port", "mode")
        if name in options
    }
    settings = listen_settings(checked, ssl=context, **listening)
    return Task(reference, sent, dict(options), made, setup), settings


def _stand_in(handler: Any) -> Any:
    """A handler for the checks of arguments: a worker imports that of a string."""
    return _nothing if isinstance(handler, (str, Reference)) else handler


def _nothing(conn: Any, data: bytes) -> None:
    """Answer nothing."""


def _stand_in_context() -> Any:
    """A context for the checks of arguments: the worker makes the true one."""
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _by_name(one: Any, place: Place) -> Any:
    """An address that was a socket by the name of the socket."""
    end = one if isinstance(one, Endpoint) else None
    given = one if end is None else end.address
    if not isinstance(given, socket.socket):
        return one
    name = place.addresses[0]
    return name if end is None else dataclasses.replace(end, address=name)


def _pickled(task: Task) -> bytes:
    """Pickle a task.

    Raises:
        TypeError: an option cannot be pickled; the error names the option.
    """
    try:
        return pickle.dumps(task)
    except Exception as error:
        for name, value in task.options.items():
            try:
                pickle.dumps(value)
            except Exception:
                raise TypeError(
                    f"{name} is {value!r}, which a worker cannot be given: {error}"
                ) from None
        raise TypeError(f"a worker cannot be given the arguments: {error}") from None
