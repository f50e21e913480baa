# SPDX-License-Identifier: MIT
"""The sampler thread: reads the figures when it is time, asks the table who crossed, wakes them."""

import logging
import math
import os
import select
import signal
import threading
import time
from array import array
from collections.abc import Callable

from memnotify.figures import Meter
from memnotify.observers import Sample, Table
from memnotify.pace import Pace, granularity_pages

log = logging.getLogger(__name__)


class Sampler:
    """Samples while any observer has a threshold, and sleeps without a timeout while none has.

    Threads: ``current`` and ``resubscribed`` belong to whoever serves requests, ``look`` and the pace to the
    sampler thread once it is started. ``notify`` is called with the handles of those who crossed,
    without any lock, from the sampler thread; it must send and free them all.

    No new subscription is slept over. The thread first makes known that it may sleep for ever, then
    asks the table; who serves first subscribes in the table, then looks how long the sleep is.
    Whichever comes second sees the other.
    """

    def __init__(
        self,
        table: Table,
        meter: Meter,
        pace: Pace,
        notify: Callable[["array[int]"], object],
        *,
        update_space_kib: int = 0,
        pressure_fd: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._meter = meter
        self._pace = pace
        self._notify = notify
        self._update_space_kib = update_space_kib
        self._clock = clock
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pressure_fd = pressure_fd
        self._due_s = math.inf
        self._fresh = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def current(self) -> Sample:
        """Return exact figures, at most ``update_period`` old and not older than any event's.

        Raises MeterError.
        """
        latest = self._table.latest
        now_s = self._clock()
        if latest.exact and now_s - latest.taken_s <= self._pace.update_period_s:
            return latest
        sample = Sample(now_s, self._meter.exact(), exact=True)
        self._table.record(sample, self._clock())
        return sample

    def resubscribed(self) -> None:
        """Take note that thresholds have changed: sample at the shortest interval, or not at all."""
        if self._table.watching:
            self._fresh = True
            wake = self._due_s - self._clock() > self._pace.update_period_s
        else:
            wake = self._due_s < math.inf
        if wake:
            os.eventfd_write(self._wake_fd, 1)

    def look(self) -> None:
        """Sample once and wake whoever crossed. Raises MeterError."""
        handles = None
        while handles is None:
            sample = Sample(self._clock(), self._meter.plain(), exact=not self._meter.pcp_is_free)
            if not sample.exact and self._table.undecided(sample.figures):
                sample = Sample(self._clock(), self._meter.exact(), exact=True)
            granularity = granularity_pages(sample.figures.total, self._update_space_kib)
            handles = self._table.advance(sample, granularity)
        if handles:
            self._notify(handles)
        self._pace.see(sample.taken_s, sample.figures, granularity, self._table.distance(sample.figures))
        log.debug("next sample in %s", self._pace)

    def start(self, on_failure: Callable[[], None]) -> None:
        """Start the thread; ``on_failure`` is called from it if it ends by an exception.

        It takes no signals: they are the main thread's.
        """
        thread = threading.Thread(target=self._run, args=(on_failure,), name="sampler", daemon=True)
        # A thread inherits the mask of the one that starts it.
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._thread = thread

    def stop(self) -> None:
        """End the thread. When this returns, ``notify`` is not running and is not called again."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        os.close(self._wake_fd)
        if self._pressure_fd is not None:
            os.close(self._pressure_fd)

    def _run(self, on_failure: Callable[[], None]) -> None:
        try:
            self._loop()
        except Exception:
            log.exception("the sampler failed")
            on_failure()

    def _loop(self) -> None:
        parked = select.poll()
        parked.register(self._wake_fd, select.POLLIN)
        sampling = select.poll()
        sampling.register(self._wake_fd, select.POLLIN)
        if self._pressure_fd is not None:
            sampling.register(self._pressure_fd, select.POLLPRI)
        due_s = math.inf
        while not self._stopping:
            self._due_s = math.inf
            if not self._table.watching:
                due_s = math.inf
                self._sleep(parked, None)
                continue
            if self._fresh:
                self._fresh = False
                self._pace.restart()
            # Only ever earlier: however often it is woken, a sample that is due is taken.
            due_s = self._due_s = min(due_s, self._clock() + self._pace.interval_s)
            pressed = self._sleep(sampling, due_s - self._clock())
            if pressed:
                self._pace.restart()
            if pressed or self._clock() >= due_s:
                self.look()
                due_s = math.inf

    def _sleep(self, poller: select.poll, timeout_s: float | None) -> bool:
        """Sleep until a wake, pressure or the timeout; return whether it was pressure."""
        pressed = False
        # Rounded up: a poll that ends early would find nothing due and sleep again for 0 ms.
        for fd, events in poller.poll(None if timeout_s is None else max(0, math.ceil(timeout_s * 1000))):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            elif events & select.POLLPRI:
                pressed = True
            if events & (select.POLLERR | select.POLLNVAL):
                # It would do so at once and for ever (kernel/sched/psi.c:psi_trigger_poll without a trigger).
                log.warning("the memory pressure trigger is gone: the timer alone decides when to sample")
                poller.unregister(fd)
        return pressed
