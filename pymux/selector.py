"""A selector with the standard library's interface, on pymux's backends.

The core reports all ready descriptors in one array of numbers: descriptor << 2 |
events. `register` makes every pair that `select` may return for a descriptor, so a
ready descriptor costs one look-up.
"""

from __future__ import annotations

import errno
import os
import selectors
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from .engine.backends import choose, select_limit, unavailable
from .values.checks import number

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["Selector"]

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
BOTH = READ | WRITE
SUBSETS = ((), (READ,), (WRITE,), (READ, WRITE, BOTH))  # indexed by events
ROOM = 256  # ready descriptors that a first wait has room for

_wait = lib.pmx_ready_wait
_look = lib.pmx_ready_look
_set = lib.pmx_watch_set
_unpack = ffi.unpack

Key = selectors.SelectorKey
# twice as fast as the named tuple's own __new__, which calls it
_new: Callable[..., Key] = tuple.__new__
Room = tuple[Any, Any, int]  # a wait's pmx_ready *, its array, the array's size


def number_of(fileobj: Any, keys: dict[int, Key]) -> int:
    """Return the descriptor of a file object, even of one that was closed after its
    registration. Raise ValueError if the object has none."""
    if isinstance(fileobj, int):
        number = fileobj
    else:
        try:
            number = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            number = -1
    if number >= 0:
        return number
    for key in list(keys.values()):
        if key.fileobj is fileobj:
            return key.fd
    raise ValueError(f"Invalid file object: {fileobj!r}")


def _free_in(place: Any, free: Any = lib.pmx_watch_free) -> None:
    if place[0]:
        free(place[0])


class _Map(Mapping["FileDescriptorLike", Key]):
    """A read-only mapping of registered file objects and descriptors to keys."""

    def __init__(self, keys: dict[int, Key]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, fileobj: Any) -> Key:
        key = self._keys.get(number_of(fileobj, self._keys))
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return key

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)


class Selector(selectors.BaseSelector):
    """A `selectors.BaseSelector` on any of pymux's backends.

    A Selector replaces any selector of the standard library, under asyncio too::

        asyncio.SelectorEventLoop(pymux.Selector())

    Any thread may register, modify, unregister and close while others are in `select`.
    On epoll and kqueue a change reaches the `select` calls that wait already; poll and
    select watch the descriptors registered when the wait began. After a fork, parent
    and child share an epoll, a kqueue is closed in the child, and poll and select work
    in both separately.

    Args:
        backend: a name of `backends()`; None takes the environment's
            ``PYMUX_BACKEND``, else the best that works.

    Raises:
        ValueError: the backend is unknown.
        BackendUnavailable: this machine lacks the backend.

    >>> import selectors, socket
    >>> ours, theirs = socket.socketpair()
    >>> with Selector() as selector, ours, theirs:
    ...     key = selector.register(ours, selectors.EVENT_READ, data="mine")
    ...     _ = theirs.send(b"hello")
    ...     for key, events in selector.select(timeout=5):
    ...         print(key.data, events == selectors.EVENT_READ)
    mine True
    """

    def __init__(self, backend: str | None = None) -> None:
        name = choose(backend)
        # The finalizer comes first: a signal handler may raise right after the call.
        self._place = ffi.gc(ffi.new("pmx_watch **"), _free_in)
        error = lib.pmx_watch_open(self._place, name or ffi.NULL)
        if error:
            raise unavailable(backend, -error)
        self._watch = self._place[0]
        self._backend = str(ffi.string(lib.pmx_watch_name(self._watch)).decode())
        self._keys: dict[int, Key] = {}
        self._map = _Map(self._keys)
        self._closed = False
        # from descriptor << 2 | events to the pair that select() returns
        self._pairs: dict[int, tuple[Key, int]] = {}
        self._pair_of = self._pairs.__getitem__
        self._rooms: list[Room] = [self._room(ROOM)]  # rooms that no thread uses

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._keys)} registered"
        return f"<pymux.Selector {self._backend}, {state}>"

    @property
    def backend(self) -> str:
        """The name of the backend.

        >>> with Selector("select") as selector:
        ...     selector.backend
        'select'
        """
        return self._backend

    @property
    def fileno(self) -> Callable[[], int]:
        """``fileno()``: the descriptor of an epoll or kqueue.

        The descriptor is readable when `select` would report something. As in the
        standard library, a selector on poll or select has no such attribute.

        Raises:
            AttributeError: the backend has no descriptor.
            ValueError: the selector is closed.

        >>> with Selector("poll") as selector:
        ...     hasattr(selector, "fileno")
        False
        """
        number = lib.pmx_watch_fileno(self._watch)
        if number == -errno.EBADF:
            raise self._error(-number)
        if number < 0:
            raise AttributeError(f"backend {self._backend} has no descriptor")
        return lambda: int(number)

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> Key:
        """Watch a file object.

        Args:
            fileobj: a descriptor, or an object with `fileno()`.
            events: `selectors.EVENT_READ`, `selectors.EVENT_WRITE`, or both.
            data: any object, kept in the key.

        Returns:
            The `selectors.SelectorKey` that `select` returns for the file object.

        Raises:
            ValueError: events or the file object are wrong.
            KeyError: the file object is registered already.
            OSError: the backend cannot watch the file object: a closed one, a regular
                file on epoll, a number over select's limit.

        >>> with Selector() as selector:
        ...     selector.register(0, 8)
        Traceback (most recent call last):
        ValueError: Invalid events: 8
        """
        if (not events) or (events & ~BOTH):
            raise ValueError(f"Invalid events: {events!r}")
        number = number_of(fileobj, self._keys)
        key = _new(Key, (fileobj, number, events, data))
        if self._keys.setdefault(number, key) is not key:
            raise KeyError(f"{fileobj!r} (FD {number}) is already registered")
        for subset in SUBSETS[events]:
            self._pairs[number << 2 | subset] = (key, subset)
        error = _set(self._watch, number, 0, events)
        if error:
            self._forget(key)
            raise self._error(-error)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> Key:
        """Stop watching a file object, which may have been closed meanwhile.

        Args:
            fileobj: the registered object, or its descriptor.

        Returns:
            The key of the file object.

        Raises:
            KeyError: the file object is not registered.
            ValueError: fileobj has no descriptor.
        """
        key = self._keys.get(number_of(fileobj, self._keys))
        if key is None or not self._forget(key):
            raise KeyError(f"{fileobj!r} is not registered")
        _set(self._watch, key.fd, key.events, 0)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> Key:
        """Change the events and the data of a file object.

        If the backend refuses, the file object is no longer registered.

        Args:
            fileobj: the registered object, or its descriptor.
            events: `selectors.EVENT_READ`, `EVENT_WRITE` or both.
            data: any object, kept in the key.

        Returns:
            The new key.

        Raises:
            KeyError: the file object is not registered.
            ValueError: events or the file object are wrong.
            OSError: as in `register`.
        """
        old = self._keys.get(number_of(fileobj, self._keys))
        if old is None:
            raise KeyError(f"{fileobj!r} is not registered")
        if events == old.events and data is old.data:
            return old
        if (not events) or (events & ~BOTH):
            raise ValueError(f"Invalid events: {events!r}")
        number = old.fd
        key = _new(Key, (old.fileobj, number, events, data))
        self._keys[number] = key
        for subset in SUBSETS[events]:
            self._pairs[number << 2 | subset] = (key, subset)
        if events != old.events:
            error = _set(self._watch, number, old.events, events)
            for subset in SUBSETS[old.events]:
                if subset & ~events:
                    self._pairs.pop(number << 2 | subset, None)
            if error:
                self._forget(key)
                raise self._error(-error)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[Key, int]]:
        """Wait until a file object is ready.

        A signal does not end the wait unless its handler raises (PEP 475).

        Args:
            timeout: seconds, rounded up to the backend's resolution, on Linux
                nanoseconds; 0 or less does not wait; None waits for ever.

        Returns:
            A list of ``(key, events)``, empty when the time is over. On kqueue a
            descriptor that is ready both ways may have two entries.

        Raises:
            ValueError: the selector is closed.
            OSError: a descriptor was closed (select).

        >>> with Selector() as selector:
        ...     selector.select(timeout=0)
        []
        """
        try:
            room = self._rooms.pop()
        except IndexError:
            room = self._room(ROOM)
        ready, found, size = room
        if timeout is None:
            count = _wait(ready, -1)
        else:
            try:
                span = 0 if timeout <= 0 else ceil(timeout * 1e9)
            except (TypeError, ArithmeticError):  # a Decimal, an infinity
                span = max(ceil(number("timeout", timeout) * 1e9), 0)
            count = _wait(ready, span) if span else _look(ready)
        if count and not 0 < count < size:
            room, count = self._wait_again(room, count)
            found = room[1]
        if not count:
            self._rooms.append(room)
            return []
        try:
            if count == 1:
                pairs = [self._pairs[found[0]]]
            else:
                pairs = [*map(self._pair_of, _unpack(found, count))]
        except KeyError:  # another thread has just changed a descriptor
            known = map(self._pairs.get, _unpack(found, count))
            pairs = [pair for pair in known if pair]
        self._rooms.append(room)
        return pairs

    def close(self) -> None:
        """Close the backend and forget every file object.

        A `select` that runs in another thread goes on to its end.

        >>> selector = Selector()
        >>> selector.close()
        >>> selector.get_map() is None
        True
        """
        self._closed = True
        lib.pmx_watch_shut(self._watch)
        self._keys.clear()
        self._pairs.clear()

    def get_key(self, fileobj: FileDescriptorLike) -> Key:
        """Return the key of a registered file object.

        Args:
            fileobj: the registered object, or its descriptor.

        Returns:
            The `selectors.SelectorKey`.

        Raises:
            KeyError: the file object is not registered.
            RuntimeError: the selector is closed.
        """
        if self._closed:
            raise RuntimeError("Selector is closed")
        return self._map[fileobj]

    def get_map(self) -> Mapping[FileDescriptorLike, Key]:
        """Return a read-only mapping of file objects to keys; None after `close`."""
        # The standard selectors return None too, which their type does not say.
        return None if self._closed else self._map  # type: ignore[return-value]

    # --- registration ---------------------------------------------------

    def _forget(self, key: Key) -> bool:
        """Remove a key; True if it was registered. The key goes last, since another
        thread may then register the number again."""
        number = key.fd
        for subset in SUBSETS[key.events]:
            self._pairs.pop(number << 2 | subset, None)
        return self._keys.pop(number, None) is not None

    # --- waiting --------------------------------------------------------

    def _room(self, size: int) -> Room:
        ready = lib.pmx_ready_new(self._watch, size)
        if not ready:
            raise MemoryError
        ready = ffi.gc(ready, lib.pmx_ready_free)
        return ready, ready.found, size

    def _wait_again(self, room: Room, count: int) -> tuple[Room, int]:
        """Wait again for the remaining time after a signal, or with a larger room if
        the room was full."""
        while True:
            ready, _, size = room
            if count == -errno.EINTR:  # the signal handler has run by now
                count = _wait(ready, ready.left_ns)
            elif count < 0:
                raise self._error(-count)
            elif count == size < 2 * len(self._keys):  # kqueue: two entries a key
                room = self._room(2 * len(self._keys))
                count = _wait(room[0], 0)
            else:
                return room, count

    def _error(self, number: int) -> Exception:
        if self._closed:
            return ValueError("I/O operation on closed selector")
        if self._backend == "select" and number == errno.ENOSPC:
            return OSError(number, f"backend select: {select_limit()}")
        return OSError(number, os.strerror(number))
