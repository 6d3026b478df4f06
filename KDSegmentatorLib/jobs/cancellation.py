"""Whether the worker should stop: its owner asks it to, the system does, or the owner is gone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from KDSegmentatorLib.errors import CancelledError

_STDIN = 0

if sys.platform == "win32":
    import ctypes
    import msvcrt

    _BROKEN_PIPE = 109
    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel.PeekNamedPipe.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )

    def stdin_closed() -> bool:
        """Return whether nobody holds the other end of the pipe at standard input any more.

        It is asked again and again, and not read by a thread: while one waits in a read, Windows lets no other call on
        the pipe through, and the start-up code of numpy's libraries makes such a call and hangs (numpy issue 24290).
        """
        try:
            handle = msvcrt.get_osfhandle(_STDIN)
        except OSError:  # there is none
            return False
        peeked = _kernel.PeekNamedPipe(handle, None, 0, None, None, None)
        return not peeked and ctypes.get_last_error() == _BROKEN_PIPE

else:
    import select

    def stdin_closed() -> bool:
        """Return whether nobody holds the other end of the pipe at standard input any more."""
        readable, _, _ = select.select([_STDIN], [], [], 0)
        return bool(readable) and not os.read(_STDIN, 1024)


class Cancellation:
    """Whether the work should stop, for the library's ``cancel`` arguments.

    Args:
        file: asks to stop by being there.
        owner_gone: returns whether nobody waits for the result any more.
    """

    def __init__(self, file: Path, owner_gone: Callable[[], bool] = lambda: False) -> None:
        self._file = str(file)
        self._owner_gone = owner_gone
        self._requested = False

    def listen(self) -> None:
        """Take the system's requests to end (Ctrl-C, SIGTERM) for requests to stop, from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def request(self) -> None:
        """Ask to stop."""
        self._requested = True

    def requested(self) -> bool:
        """Return whether to stop."""
        if not self._requested and (os.path.exists(self._file) or self._owner_gone()):  # noqa: PTH110 - asked often
            self._requested = True
        return self._requested

    def check(self) -> None:
        """Stop if that was asked for.

        Raises:
            CancelledError: it was.
        """
        if self.requested():
            raise CancelledError("cancelled; nothing was written")

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self._requested = True
