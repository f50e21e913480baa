# SPDX-License-Identifier: MIT
"""A timer that is a descriptor, so that whoever polls the client needs no time-out of its own."""

import ctypes
import os

# os.timerfd_create is there from Python 3.13 on.
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1


class _Spec(ctypes.Structure):
    """struct itimerspec: whole seconds and nanoseconds, first of the interval, then of the first time."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A timerfd: readable once a time is over, until it is set again. Raises OSError."""

    def __init__(self) -> None:
        self._fd: int = self._checked(_LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def set(self, seconds: float) -> None:
        """Be readable ``seconds`` from now on, and not before."""
        # Nothing at all would stop it.
        whole_s, rest_ns = divmod(max(1, int(seconds * 1e9)), 1_000_000_000)
        spec = _Spec(value_s=whole_s, value_ns=rest_ns)
        self._checked(_LIBC.timerfd_settime(self._fd, 0, ctypes.byref(spec), None))

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
