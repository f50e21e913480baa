# SPDX-License-Identifier: MIT
"""The daemon as a service: when it is ready, and when it notifies the service manager and the watchdog."""

import logging
import math
import time
from collections.abc import Callable, Sequence

from memnotify.daemon.systemd import SystemdNotifier
from memnotify.worker import Worker

log = logging.getLogger(__name__)

SETTLE_MAX_S = 30.0
"""How long to wait for udev; systemd waits three times as long for READY."""
_SETTLE_POLL_S = 0.01
_RESEND_S = 1.0


class ServiceStatus:
    """The state of a daemon that serves ``what``, for the log and the service manager.

    The daemon is ready as soon as ``settled`` returns True. A watchdog is notified twice within its time, if
    each vital one of ``threads`` has been alive since the notification before. Threads: the main thread,
    which calls ``do_due`` when ``due_in_s`` has passed.
    """

    def __init__(
        self,
        notifier: SystemdNotifier,
        what: str,
        count_clients: Callable[[], int],
        settled: Callable[[], bool],
        threads: Sequence[Worker],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notifier = notifier
        self._what = what
        self._count_clients = count_clients
        self._settled = settled
        self._threads = threads
        self._clock = clock
        self._begun_s = clock()
        self._ready = False
        self._reload_result = ""
        self._watchdog_due_s = math.inf
        self._silent: list[str] = []

    @property
    def due_in_s(self) -> float:
        """In how many seconds ``do_due`` has something to do; infinite if it never has."""
        due_in_s = self._watchdog_due_s - self._clock()
        if not self._ready:
            due_in_s = min(due_in_s, _SETTLE_POLL_S)
        if self._notifier.unsent:
            due_in_s = min(due_in_s, _RESEND_S)
        return max(0.0, due_in_s)

    def do_due(self) -> None:
        """Become ready, notify the watchdog, and send the notifications that are still unsent."""
        if not self._ready:
            self._become_ready_if_settled()
        if self._clock() >= self._watchdog_due_s:
            self._check_threads()
        self._notifier.flush()

    def reload(self, reload: Callable[[], str]) -> None:
        """Call ``reload``; the text that it returns is part of the status from now on."""
        if self._ready:
            self._notifier.send_reloading()
        self._reload_result = " ".join(reload().split())
        if self._ready:
            self._notifier.send_ready(self._status())

    def end(self) -> None:
        """Tell the service manager that the daemon ends, and nothing after that."""
        self._notifier.send_stopping()
        self._notifier.close()

    def _become_ready_if_settled(self) -> None:
        waited_s = self._clock() - self._begun_s
        if not self._settled():
            if waited_s < SETTLE_MAX_S:
                return
            log.warning("udev has not answered for %g s: the mode of the device is uncertain", SETTLE_MAX_S)
        self._ready = True
        log.info("ready: %s", self._what)
        log.debug("waited for udev for %.3f s", waited_s)
        self._notifier.send_ready(self._status())
        if self._notifier.watchdog_s:
            for thread in self._threads:
                thread.check_alive()
            self._watchdog_due_s = self._clock() + self._notifier.watchdog_s / 2

    def _check_threads(self) -> None:
        late = [thread for thread in self._threads if not thread.check_alive()]
        silent = [thread.name for thread in late]
        is_vital = any(thread.vital for thread in late)
        # Check a late thread again soon, before the watchdog's time is over.
        pause_s = self._notifier.watchdog_s / (8 if is_vital else 2)
        if not is_vital:
            self._notifier.send_watchdog(self._status())
        if silent != self._silent:
            self._silent = silent
            effect = "so the watchdog is not notified" if is_vital else "and the others go on"
            if silent:
                log.error("not alive, %s: thread %s", effect, ", ".join(silent))
            else:
                log.warning("all threads are alive again")
        self._watchdog_due_s = self._clock() + pause_s

    def _status(self) -> str:
        result = f"; {self._reload_result}" if self._reload_result else ""
        return f"{self._what}, clients: {self._count_clients()}{result}"
