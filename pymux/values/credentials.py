"""Who is at the other end of a Unix socket."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Credentials"]


class Credentials(NamedTuple):
    """The process at the other end of a Unix socket, when it connected or listened.

    The system tells them, so the peer cannot lie. A process may since have ended, or
    have handed its socket to another one; on Linux the numbers are those of this
    side's namespaces.

    Attributes:
        pid: the process; None where the OS does not tell (FreeBSD before 13).
        uid: its effective user.
        gid: its effective group.

    >>> Credentials(pid=4711, uid=1000, gid=1000).uid
    1000
    """

    pid: int | None
    uid: int
    gid: int
