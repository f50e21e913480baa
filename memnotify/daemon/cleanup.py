# SPDX-License-Identifier: MIT
"""A process that removes, at the end, what only root may remove."""

import logging
import os
import signal
from collections.abc import Collection
from contextlib import suppress
from typing import NoReturn, Self

from memnotify.daemon.privileges import limit_future_capabilities
from memnotify.kernel.syscalls import (
    CAP_DAC_OVERRIDE,
    CAP_SYS_ADMIN,
    forbid_new_privileges,
    keep_capabilities,
    lower_oom_score,
    process_status,
)
from memnotify.transports import Removal

log = logging.getLogger(__name__)

_OOM_SCORE = -1000
# To unmount, and to remove files from directories of any user.
_TO_REMOVE = 1 << CAP_SYS_ADMIN | 1 << CAP_DAC_OVERRIDE


class CleanupProcess:
    """A process that stays root, waits until this process has ended in any way, and then removes things.

    It has at most two capabilities and cannot gain others. Its descriptors are 0 to 2 and a pipe. It
    takes no signal except SIGKILL. Make it while there is one thread, before ``become``.
    """

    def __init__(self, removals: Collection[Removal]) -> None:
        # It reads the end of the file when this process, the only writer, has ended.
        end, self.end = os.pipe2(os.O_CLOEXEC)
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _remove_at(end, removals)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(end)

    @classmethod
    def adopt(cls, end: int) -> Self:
        """Return the process of the program that this one replaced; ``end`` is its ``end``."""
        self = cls.__new__(cls)
        # It is the only child.
        self.end, self._pid = end, -1
        return self

    def close(self) -> None:
        """Let the process remove everything, and wait until it has ended."""
        os.close(self.end)
        _, status = os.waitpid(self._pid, 0)
        if status:
            log.warning(
                "files may be left behind: the process that removes them ended with %d",
                os.waitstatus_to_exitcode(status),
            )


def close_all_except(kept: Collection[int]) -> None:
    """Close every other descriptor that is open.

    Without close_range(2) (before Linux 5.9, or by a seccomp filter), os.closerange would try each number.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with suppress(OSError):  # one was that of the list
                os.close(fd)


def _remove_at(end: int, removals: Collection[Removal]) -> NoReturn:
    """Run as the cleanup process."""
    status = 1
    try:
        # It takes no memory, and without it the mount stays. Where it may not, it keeps the daemon's score.
        score = lower_oom_score(_OOM_SCORE)
        if score > _OOM_SCORE:
            log.info("oom_score_adj of the process that removes files is %d, not %d", score, _OOM_SCORE)
        # A service may have fewer; in its own directories root needs no capability.
        capabilities = _TO_REMOVE & int(process_status()["CapPrm"], 16)
        limit_future_capabilities(capabilities)
        keep_capabilities(capabilities)
        forbid_new_privileges()
        # While a copy of the connection's descriptor is open, clients wait for an answer.
        close_all_except({0, 1, 2, end})
        with open("/proc/self/comm", "w", encoding="utf-8") as name:
            name.write("memnotify-rm")  # beside the daemon's own in ps
        os.read(end, 1)
        left = 0
        for removal in removals:
            try:
                removal()
            except OSError as error:
                log.warning("a file is left behind: %s", error)
                left = 1
        status = left
    except Exception:
        log.exception("files are left behind")
    finally:
        os._exit(status)
