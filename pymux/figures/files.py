"""Where the files of pages are, and which of them are alive.

Who makes a file holds a lock of it (flock) as long as it lives. The kernel releases
the lock however the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from typing import Any

__all__ = [
    "claim",
    "is_live",
    "live_files",
    "no_files",
    "open_file",
    "runtime_folder",
]

if sys.platform != "win32":
    import fcntl
else:
    fcntl: Any = None

SUFFIX = ".stats"


def no_files() -> OSError:
    """Return the error of a system without such files."""
    return OSError(errno.ENOTSUP, "processes cannot read each other's figures here")


def runtime_folder() -> str:
    """Return the folder for this process's file, and make it if need be.

    It is the service's RUNTIME_DIRECTORY, else `pymux` in the user's XDG_RUNTIME_DIR,
    else a folder of the user's in the system's for temporary files.

    Raises:
        OSError: the folder cannot be made, or another user could write there.
    """
    if sys.platform == "win32":
        raise no_files()
    folder = _folders()[0]
    if not os.environ.get("RUNTIME_DIRECTORY"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)
        mine = found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not stat.S_ISDIR(found.st_mode) or not mine:
            text = "another user may have made it; its mode has to be 0700"
            raise PermissionError(errno.EPERM, text, folder)
    return folder


def _folders() -> list[str]:
    """List the folders that may have files of this user, the preferred one first."""
    if sys.platform == "win32":
        raise no_files()
    found = []
    service = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if service:
        found.append(service)
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if session and os.path.isdir(session):
        found.append(os.path.join(session, "pymux"))
    found.append(os.path.join(tempfile.gettempdir(), f"pymux-{os.geteuid()}"))
    return found


def claim(path: str) -> tuple[int, str]:
    """Make an empty file that only this user may open, and lock it.

    A file that is left over at the path is replaced. Where a live process has the
    path, another name is found: two containers may have the same process ids.

    Returns:
        The descriptor, and the path.

    Raises:
        OSError: the file cannot be made.
    """
    if sys.platform == "win32":
        raise no_files()
    folder = os.path.dirname(path) or "."
    fd, made = tempfile.mkstemp(prefix=".", suffix=SUFFIX, dir=folder)  # mode 0600
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_left_over(folder)
        stem, free, k = path.removesuffix(SUFFIX), path, 1
        while os.path.lexists(free) and _is_live_at(free):
            k += 1
            free = f"{stem}-{k}{SUFFIX}"
        os.rename(made, free)
        return fd, free
    except BaseException:
        os.close(fd)
        os.unlink(made)
        raise


def _remove_left_over(folder: str) -> None:
    """Remove files of this user whose makers were killed."""
    for path in _files_in(folder):
        if not _is_live_at(path):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _files_in(folder: str) -> list[str]:
    """List the files of this user in a folder."""
    if sys.platform == "win32":
        raise no_files()
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                about = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid():
                    found.append(entry.path)
    return found


def open_file(path: str) -> int:
    """Open a file to be read; return the descriptor.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    if sys.platform == "win32":
        raise no_files()
    # Without O_NONBLOCK a FIFO would wait here for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no file of figures", path)
    return fd


def is_live(fd: int) -> bool:
    """True if the process that has made the file, or a worker of it, lives."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _is_live_at(path: str) -> bool:
    try:
        fd = open_file(path)
    except OSError:
        return os.path.lexists(path)  # it is not ours to remove
    try:
        return is_live(fd)
    finally:
        os.close(fd)


def live_files() -> list[str]:
    """List the files of this user's live processes, in no order."""
    if sys.platform == "win32":
        return []
    found = [path for folder in _folders() for path in _files_in(folder)]
    return [path for path in found if _is_live_at(path)]
