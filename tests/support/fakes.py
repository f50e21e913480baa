# SPDX-License-Identifier: MIT
"""A clock, a memory and page counters that a test moves by hand."""

import math
import os
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress

from memnotify.abi.figures import Figures, figures_with
from memnotify.kernel.meminfo import MemInfoError, MemInfoReader
from memnotify.kernel.page_counters import PageCounter

WIDE = figures_with(("available",))
"""Figures with an extra one: what holds for them must hold for any."""


class FakeClock:
    """A clock that only ``tick`` moves."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


class FakeReader(MemInfoReader):
    """A reader of a memory that a test sets: ``figures`` are exact, ``pcp_pages`` on the per-CPU lists.

    Each reading runs and uses up one of ``before``, when the clock was read and the figures are not yet
    taken, and one of ``after``, when the figures are taken and not yet returned.
    """

    def __init__(
        self,
        used: int = 100,
        *,
        total: int = 10_000,
        active: int = 50,
        extra: Sequence[str] = (),
        pcp_is_free: bool = True,
    ) -> None:
        """Open no files, so do without MemInfoReader's own. Extra figures are 0."""
        self.pcp_is_free = pcp_is_free
        self.figures: Figures = figures_with(extra)(total, used, active, *(0 for _ in extra))
        self.names = self.figures._fields
        self.pcp_pages = 0
        self.pcp_limit_pages = total
        self.plain_reads = 0
        self.exact_reads = 0
        self.fails = False
        """Whether each reading fails."""
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []

    def use(self, used: int, *, active: int | None = None) -> None:
        """Change the memory's exact ``used``, and ``active``."""
        self.figures = self.figures._replace(used=used)
        if active is not None:
            self.figures = self.figures._replace(active=active)

    def read_plain(self) -> Figures:
        """Return the figures without the per-CPU lists."""
        self.plain_reads += 1
        figures, pcp_pages = self._take()
        return figures._replace(used=figures.used + pcp_pages)

    def read_exact(self, plain: Figures | None = None) -> tuple[Figures, int]:  # noqa: ARG002 - a new reading
        """Return the figures as the contract defines them, and the pages on the per-CPU lists."""
        if not self.pcp_is_free:
            return self.read_plain(), 0
        self.exact_reads += 1
        return self._take()

    def close(self) -> None:
        """Close nothing."""

    def _take(self) -> tuple[Figures, int]:
        if self.before:
            self.before.pop(0)()
        if self.fails:
            raise MemInfoError("it fails")
        taken = (self.figures, self.pcp_pages)
        if self.after:
            self.after.pop(0)()
        return taken


class RealClock(FakeClock):
    """The monotonic clock, and the seconds that a test lets pass at once."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def __call__(self) -> float:
        """Return the time."""
        return time.monotonic() + self.now_s


class Woken(list[int]):
    """A sampler's ``notify`` that records the handles."""

    def __call__(self, handles: "array[int]", count: int) -> None:
        """Note them."""
        self.extend(handles[:count])


class FakePageCounter(PageCounter):
    """A page counter that a test moves: ``count`` makes it ready if it is armed for no more pages."""

    def __init__(self, least_pages: int = 0) -> None:
        """Open no counters of the kernel, so do without PageCounter's own."""
        self._least_pages = least_pages
        self.armed_pages = math.inf
        self._armed_for = 0
        self.rests = self._to_rest = self.begun = 0
        self.every = False
        """Whether it counts every allocation."""
        self.to_open = 0
        """By how many calls of ``arm`` its counters are still to be opened."""
        self.opening = False
        self.patient = self.fired_early = False
        """Whether it goes on once if it fires too early, and whether it did."""
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def least_pages(self) -> int:
        """The fewest pages that it can be armed for."""
        return self._least_pages

    def fileno(self) -> int:
        """Return what polls ready."""
        return self._ready

    def arm(self, pages: float, moved_pages: float = 0.0, every_pages: float = 0.0) -> int:
        """Arm it, unless the pages are too few or infinite; if for as many as before, let it go on."""
        self.opening = self.to_open > 0
        if self.opening:
            self.to_open -= 1
            self.disarm()
            return 0
        self.every = pages < max(1, self._least_pages)
        if self.every:
            pages = every_pages
        if pages < math.inf and 0 < math.floor(pages) == self._armed_for:
            return self._armed_for
        pages -= moved_pages
        if not max(1, self._least_pages) <= pages < math.inf:
            self.disarm()
            return 0
        if math.floor(pages) != self._armed_for:
            self.armed_pages = self._armed_for = math.floor(pages)
            self.begun += 1
        return self._armed_for

    def disarm(self) -> None:
        """Disarm it."""
        self.armed_pages, self._armed_for = math.inf, 0

    def rest(self) -> bool:
        """Disarm it, and record the rest, unless it is the first one since the last sample."""
        self.rests += 1
        if self.patient:
            self.patient, self.fired_early = False, True
            return False
        self.disarm()
        return True

    def count(self, pages: int) -> None:
        """Let pages pass."""
        self.armed_pages -= pages
        if self.armed_pages <= 0:
            os.eventfd_write(self._ready, 1)

    def drain(self) -> None:
        """Clear the readiness."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._ready)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._ready)
