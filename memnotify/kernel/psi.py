# SPDX-License-Identifier: MIT
"""The PSI trigger: a descriptor that polls ready when tasks begin to stall for memory."""

import errno
import logging
import os
from typing import NamedTuple

log = logging.getLogger(__name__)

PRESSURE_FILE = "/proc/pressure/memory"
# Stall and window in microseconds. 1 % of the window is early, and still at most one event a window.
# 500 ms is the shortest window (kernel/sched/psi.c:WINDOW_MIN_US); without CAP_SYS_RESOURCE only
# multiples of 2 s are accepted. The kernel overwrites the last byte, hence the NUL.
_TRIGGERS = ((b"some 5000 500000\0", 0.5), (b"some 20000 2000000\0", 2.0))


class PressureTrigger(NamedTuple):
    """A descriptor that is ready for POLLPRI once per window of memory stalls."""

    fd: int
    window_s: float


def is_pressure(text: bytes) -> bool:
    """Return True if ``text`` was read from a PSI file.

    Containers mask /proc/pressure/memory with /dev/null, which takes every trigger and is empty.
    """
    return text.startswith(b"some ")


def open_trigger(path: str = PRESSURE_FILE) -> PressureTrigger | None:
    """Return a trigger of memory stalls, or None.

    Try the shorter window first. Return None, with one line in the log, if the kernel has no PSI, refuses
    every trigger, or another file is mounted over ``path``. Closing the descriptor drops the trigger.
    poll() takes the event, so only one poller may use the descriptor.
    """
    refusal: OSError | None = None
    for trigger, window_s in _TRIGGERS:
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            refusal = error
            break
        try:
            if not is_pressure(os.read(fd, 4096)):
                raise OSError(errno.ENODATA, "is masked: it lists no stalls")
            os.write(fd, trigger)
        except OSError as error:
            os.close(fd)
            refusal = error
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EACCES):
                break
        else:
            if refusal is not None:
                log.info("no CAP_SYS_RESOURCE: memory pressure is noticed in windows of 2 s instead of 0.5 s")
            return PressureTrigger(fd, window_s)
    log.info("no memory pressure trigger (%s: %s): the timer alone decides when to sample", path, refusal)
    return None
