# SPDX-License-Identifier: MIT
"""The daemon as a service: when it is ready, and what systemd is told of it (sd_notify, watchdog)."""

import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from memnotify.daemon.systemd import SystemdNotifier

log = logging.getLogger(__name__)

SETTLE_MAX_S = 30.0
"""How long udev is waited for; systemd waits three times as long for READY."""
_SETTLE_LOOK_S = 0.01
# A client that comes or goes is told of so much later, with all that do meanwhile.
_STATUS_S = 1.0
_RETRY_S = 1.0


class Answering(Protocol):
    """A thread that can be asked whether it is alive."""

    name: str

    def check_alive(self) -> bool:
        """Whether the thread has come round since the last call; ask it to do so again."""


def _set_timer(delay_s: float) -> None:
    """Have SIGALRM sent after so long, or not at all: 0."""
    signal.setitimer(signal.ITIMER_REAL, delay_s)


class ServiceStatus:
    """The life of a daemon that serves ``what``, in the main thread's loop; SIGALRM ends its serving.

    It is ready as soon as ``settled``. If there is a watchdog it is told that all is well twice within
    its time: by the main thread, so requests are served, and if each of ``threads`` has come round since
    the time before. Threads: all is the main thread's, but ``changed``.
    """

    def __init__(
        self,
        manager: SystemdNotifier,
        what: str,
        clients: Callable[[], int],
        *,
        settled: Callable[[], bool],
        threads: Sequence[Answering],
        clock: Callable[[], float] = time.monotonic,
        set_timer: Callable[[float], object] = _set_timer,
    ) -> None:
        self._manager = manager
        self._what = what
        self._clients = clients
        self._settled = settled
        self._threads = threads
        self._clock = clock
        self._set_timer = set_timer
        self._alarm_due_s = math.inf
        self._ready = False
        self._changed = False
        self._note = ""
        self._begun_s = 0.0
        self._beat_due_s = math.inf
        self._silent: list[str] = []

    def begin(self) -> None:
        """Be ready, or call for alarms until it is."""
        self._begun_s = self._clock()
        self.alarm()

    def alarm(self) -> None:
        """Do what is due, and set the next alarm; to be called for each SIGALRM."""
        if not self._ready:
            self._settle()
        if self._clock() >= self._beat_due_s:
            self._beat()
        if self._changed:
            # Before it is counted: who comes later is told of by another alarm.
            self._changed = False
            if self._ready:
                self._manager.tell(self._status())
        self._manager.flush()
        self._set_alarm()

    def changed(self) -> None:
        """Take note that a client has come or gone. Any thread."""
        if self._manager.listens and not self._changed:
            self._changed = True
            self._alarm_by(_STATUS_S)

    def reload(self, reload: Callable[[], str]) -> None:
        """Call ``reload``; the text that it returns is shown with the status."""
        if self._ready:
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._manager.tell("RELOADING=1", f"MONOTONIC_USEC={now_us}")
        self._note = " ".join(reload().split())
        if self._ready:
            self._manager.tell("READY=1", self._status())

    def end(self) -> None:
        """Call for no further alarm, tell that the daemon ends, and nothing after that."""
        self._set_timer(0)
        self._manager.tell("STOPPING=1")
        self._manager.close()

    def _settle(self) -> None:
        waited_s = self._clock() - self._begun_s
        if not self._settled():
            if waited_s < SETTLE_MAX_S:
                return
            log.warning("udev has not answered for %g s: who may open the device is uncertain", SETTLE_MAX_S)
        self._ready = True
        log.info("ready: %s", self._what)
        log.debug("udev was waited for for %.3f s", waited_s)
        self._manager.tell("READY=1", self._status())
        if self._manager.watchdog_s:
            for thread in self._threads:
                thread.check_alive()
            self._beat_due_s = self._clock() + self._manager.watchdog_s / 2

    def _beat(self) -> None:
        silent = [thread.name for thread in self._threads if not thread.check_alive()]
        # One that is late has until the time is over.
        pause_s = self._manager.watchdog_s / (8 if silent else 2)
        if not silent:
            self._manager.tell("WATCHDOG=1")
        if silent != self._silent:
            self._silent = silent
            if silent:
                log.error("not alive, so the watchdog hears nothing: thread %s", ", ".join(silent))
            else:
                log.warning("all threads are alive again")
        self._beat_due_s = self._clock() + pause_s

    def _set_alarm(self) -> None:
        self._alarm_due_s = math.inf
        self._alarm_by(self._beat_due_s - self._clock())
        if not self._ready:
            self._alarm_by(_SETTLE_LOOK_S)
        if self._manager.unsent:
            self._alarm_by(_RETRY_S)
        # ``changed``, in any thread, takes note first and sets the alarm then, which may just have been
        # undone while its time was noted.
        if self._changed:
            self._alarm_due_s = math.inf
            self._alarm_by(_STATUS_S)

    def _alarm_by(self, delay_s: float) -> None:
        """Set the alarm, unless it comes sooner."""
        due_s = self._clock() + delay_s
        if due_s < self._alarm_due_s:
            self._alarm_due_s = due_s
            self._set_timer(max(delay_s, 0.001))

    def _status(self) -> str:
        note = f"; {self._note}" if self._note else ""
        return f"STATUS={self._what}, clients: {self._clients()}{note}"
