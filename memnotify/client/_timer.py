# SPDX-License-Identifier: MIT
"""A timer with a descriptor, so that a program that polls the client needs no time-out of its own."""

import os
import sys
from time import CLOCK_MONOTONIC

# The version is for mypy, which checks the code as for 3.11.
if sys.version_info >= (3, 13) and hasattr(os, "timerfd_create"):

    def _create() -> int:
        return int(os.timerfd_create(CLOCK_MONOTONIC, flags=os.TFD_CLOEXEC | os.TFD_NONBLOCK))

    def _set(fd: int, time_ns: int) -> None:
        os.timerfd_settime_ns(fd, initial=time_ns)

else:
    import ctypes

    _LIBC = ctypes.CDLL(None, use_errno=True)

    class _Spec(ctypes.Structure):
        """struct itimerspec: seconds and nanoseconds, of the interval and then of the first expiration."""

        _fields_ = (
            ("interval_s", ctypes.c_long),
            ("interval_ns", ctypes.c_long),
            ("value_s", ctypes.c_long),
            ("value_ns", ctypes.c_long),
        )

    def _create() -> int:
        return _checked(_LIBC.timerfd_create(CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))

    def _set(fd: int, time_ns: int) -> None:
        whole_s, rest_ns = divmod(time_ns, 1_000_000_000)
        spec = _Spec(value_s=whole_s, value_ns=rest_ns)
        _checked(_LIBC.timerfd_settime(fd, 0, ctypes.byref(spec), None))

    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class Timer:
    """A timerfd: readable once its time is over, until it is set again. Raises OSError."""

    def __init__(self) -> None:
        self._fd = _create()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def set(self, seconds: float) -> None:
        """Become readable in ``seconds``, and not before."""
        _set(self._fd, max(1, int(seconds * 1e9)))  # 0 would stop the timer

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
