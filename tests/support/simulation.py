# SPDX-License-Identifier: MIT
"""The real sampler on a memory and a clock that are only computed: minutes pass in milliseconds."""

import bisect
import itertools
import math
import os
import select
from collections.abc import Callable, Sequence

from support.fakes import FakeClock, FakeKick, FakeMeter

from memnotify.figures import Figures
from memnotify.observers import Table
from memnotify.pace import Pace
from memnotify.sampler import Sampler

STEP_S = 0.005


class Curve:
    """``used`` over time, in pages, and how many pages have been allocated by then: at each STEP_S.

    ``moves`` are stretches: pages that move in each step, and how many steps. What is allocated is what
    ``used`` grows by, and ``churn`` pages a step that are freed again.
    """

    def __init__(self, start_pages: int, moves: Sequence[tuple[float, int]], *, churn: float = 0.0) -> None:
        steps = [pages for pages, count in moves for _ in range(count)]
        exact = itertools.accumulate(
            steps, lambda used, pages: max(0.0, used + pages), initial=float(start_pages)
        )
        self.used = [math.floor(pages) for pages in exact]
        grown = (max(0, then - now) + churn for now, then in itertools.pairwise(self.used))
        self.allocated = list(itertools.accumulate(grown, initial=0.0))
        self.end_s = len(steps) * STEP_S

    def at(self, now_s: float) -> int:
        """Return ``used`` at a time."""
        return self.used[self._step(now_s)]

    def allocated_at(self, now_s: float) -> float:
        """Return how many pages have been allocated until then."""
        return self.allocated[self._step(now_s)]

    def when_allocated(self, pages: float) -> float:
        """Return when so many will have been allocated; infinity if never."""
        step = bisect.bisect_left(self.allocated, pages)
        return step * STEP_S if step < len(self.allocated) else math.inf

    def _step(self, now_s: float) -> int:
        return min(int(now_s / STEP_S + 1e-6), len(self.used) - 1)


class CurveKick(FakeKick):
    """A kick that comes as late as it may, or earlier: after ``share`` of what it is armed for."""

    def __init__(self, curve: Curve, clock: FakeClock, least_pages: int, share: float) -> None:
        super().__init__(least_pages)
        self.curve = curve
        self.clock = clock
        self.share = share
        self.due_s = math.inf

    def arm(self, pages: float) -> bool:
        """Be armed from now on."""
        armed = super().arm(pages)
        self.due_s = (
            self.curve.when_allocated(self.curve.allocated_at(self.clock()) + pages * self.share)
            if armed
            else math.inf
        )
        return armed


class CurveMeter(FakeMeter):
    """A memory that follows a curve."""

    def __init__(self, curve: Curve, clock: FakeClock, total: int) -> None:
        super().__init__(total=total)
        self.curve = curve
        self.clock = clock

    def _take(self) -> tuple[Figures, int]:
        self.use(self.curve.at(self.clock()))
        return super()._take()


class Simulated(Sampler):
    """A sampler that lives through a curve. ``on_wake`` is called with the handles of those it wakes."""

    def __init__(
        self, curve: Curve, table: Table, pace: Pace, on_wake: Callable[[list[int]], None], **kick: float
    ) -> None:
        self.curve = curve
        self.clock = FakeClock(0.0)
        self.looks = 0
        super().__init__(
            table,
            CurveMeter(curve, self.clock, total=1 << 30),
            pace,
            lambda handles, count: on_wake(list(handles[:count])),
            update_space_kib=1,
            kick=CurveKick(curve, self.clock, int(kick["least_pages"]), kick["share"]) if kick else None,
            clock=self.clock,
        )

    def live(self) -> None:
        """Let the curve pass."""
        self._loop()

    def look(self, *, kicked: bool = False) -> None:
        """Count."""
        self.looks += 1
        super().look(kicked=kicked)

    def _sleep(self, poller: select.poll, timeout_s: float | None) -> set[str]:
        assert timeout_s is not None, "somebody watches all the time"
        end_s = self.clock() + max(0.0, timeout_s)
        kick = self._kick
        woken_by: set[str] = set()
        if isinstance(kick, CurveKick) and kick.due_s <= end_s:
            self.clock.now_s = max(self.clock(), kick.due_s)
            kick.due_s = math.inf
            os.eventfd_write(kick.fileno(), 1)
            woken_by = super()._sleep(poller, 0)
        if not woken_by:
            self.clock.now_s = end_s
            woken_by = super()._sleep(poller, 0)
        self._stopping = self.clock() >= self.curve.end_s
        return woken_by
