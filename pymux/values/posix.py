"""os, signal and socket, for modules that run on POSIX alone.

mypy looks at each module as Windows has it too. There these lack names, so they have no
type of their own.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["os", "signal", "sockets"]

if sys.platform != "win32":
    import os
    import signal
    import socket as sockets
else:
    import os as windows_os
    import signal as windows_signal
    import socket as windows_socket

    os: Any = windows_os
    signal: Any = windows_signal
    sockets: Any = windows_socket
