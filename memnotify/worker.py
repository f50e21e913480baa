# SPDX-License-Identifier: MIT
"""A thread of the daemon: its start, its wake-ups, its end, and whether it is alive."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable

from memnotify.kernel.syscalls import end_without_memory

STOP_S = 5.0
"""How long a stop waits for threads that hang, as in a close that waits for a network, or in a reading.

With 10 s for each thread in turn, a daemon whose readings hung took 20.1 s to end on SIGTERM.
"""

log = logging.getLogger(__name__)


class Worker:
    """A thread that calls ``turn`` again and again until ``stop``, or until it returns False.

    ``turn`` waits for its descriptors and for ``wake_fd``, which it must read when it is ready. If it cannot
    wait for ``wake_fd``, ``interrupt`` must end its wait, or that of the next turn. Threads: ``wake`` and
    ``check_alive`` may be called from any thread until ``close``; all else belongs to the thread that made
    the object. The thread takes no signals: they belong to the main thread.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], object],
        interrupt: Callable[[], object] | None = None,
        *,
        vital: bool = True,
    ) -> None:
        self.name = name
        self.vital = vital
        """Whether the daemon must be restarted if the thread hangs; otherwise the others go on without it."""
        self._interrupt = interrupt
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Ready for POLLIN once ``wake``, ``check_alive`` or ``stop`` was called."""
        self._turn = turn
        self._stopping = False
        self._turned = False
        self._thread: threading.Thread | None = None

    def start(self, on_failure: Callable[[], object]) -> None:
        """Start the thread. If ``turn`` raises, the thread logs that, calls ``on_failure`` and ends.

        A MemoryError ends the process. Raises OSError if the thread cannot be started.
        """

        def run() -> None:
            try:
                going_on = True
                while going_on and not self._stopping:
                    self._turned = True
                    going_on = self._turn() is not False
            except MemoryError:
                end_without_memory()
            except Exception:
                log.exception("the thread %s failed", self.name)
                on_failure()

        thread = threading.Thread(target=run, name=self.name, daemon=True)
        # A thread inherits the signal mask of the thread that starts it.
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            thread.start()
        except RuntimeError as error:
            # For EAGAIN of clone(2), without the errno (_threadmodule.c:thread_PyThread_start_new_thread).
            raise OSError(
                f"the thread {self.name} cannot be started: see ulimit -u, pids.max and the free memory"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._thread = thread

    def wake(self) -> None:
        """End the wait of the current turn, or of the next one."""
        if self._interrupt is None:
            os.eventfd_write(self.wake_fd, 1)
        else:
            self._interrupt()

    def check_alive(self) -> bool:
        """Return True if a turn has begun since the last call; ask for another one."""
        turned, self._turned = self._turned, False
        self.wake()
        return turned

    def begin_stop(self) -> None:
        """Let the thread end after the current turn."""
        self._stopping = True
        self.wake()

    def stop(self, timeout_s: float | None = None) -> None:
        """End the thread. When this returns, ``turn`` is not running and is not called again.

        If ``turn`` does not return within ``timeout_s``, by default STOP_S, leave it to the end of the
        process.
        """
        self.begin_stop()
        if self._thread is not None:
            self._thread.join(STOP_S if timeout_s is None else timeout_s)
            if self._thread.is_alive():
                log.error("the thread %s hangs and is left behind", self.name)
            self._thread = None

    def close(self) -> None:
        """Close ``wake_fd``, after ``stop``."""
        os.close(self.wake_fd)


def stop_all(workers: Iterable[Worker]) -> None:
    """Stop the workers within STOP_S in all, however many hang."""
    workers = list(workers)
    for worker in workers:
        worker.begin_stop()
    end_s = time.monotonic() + STOP_S
    for worker in workers:
        worker.stop(max(0.0, end_s - time.monotonic()))
