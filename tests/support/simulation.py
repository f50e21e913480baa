# SPDX-License-Identifier: MIT
"""The real sampler on a memory and a clock that are only computed: minutes pass in milliseconds."""

import bisect
import itertools
import math
import os
import select
from collections.abc import Callable, Mapping, Sequence

from support.fakes import FakeClock, FakeMeter, FakePageCounter
from support.strategies import WIDE

from memnotify.abi.figures import NAMES, Figures
from memnotify.engine.sampler import Sampler
from memnotify.engine.schedule import SamplingSchedule
from memnotify.engine.table import ObserverTable

STEP_S = 0.005


class Curve:
    """A figure over time, in pages, and how many pages have been allocated and freed by then: at each STEP_S.

    ``moves`` are stretches: pages that move in each step, and how many steps. What is allocated is what
    ``used`` grows by, what is freed what it falls by, and ``churn`` pages a step are both.
    """

    def __init__(self, start_pages: int, moves: Sequence[tuple[float, int]], *, churn: float = 0.0) -> None:
        steps = [pages for pages, count in moves for _ in range(count)]
        exact = itertools.accumulate(
            steps, lambda used, pages: max(0.0, used + pages), initial=float(start_pages)
        )
        self.used = [math.floor(pages) for pages in exact]
        moved = [then - now for now, then in itertools.pairwise(self.used)]
        self.allocated = list(itertools.accumulate((max(0, by) + churn for by in moved), initial=0.0))
        self.freed = list(itertools.accumulate((max(0, -by) + churn for by in moved), initial=0.0))
        self.end_s = len(steps) * STEP_S

    def step(self, now_s: float) -> int:
        """Return the index of a time."""
        return min(int(now_s / STEP_S + 1e-6), len(self.used) - 1)


class CurveKick(FakePageCounter):
    """A counter that comes as late as it may, or earlier: after ``share`` of what it is armed for."""

    def __init__(
        self, curve: Curve, passed: list[float], clock: FakeClock, least_pages: int, share: float
    ) -> None:
        super().__init__(least_pages)
        self.curve = curve
        self.passed = passed
        self.clock = clock
        self.share = share
        self.due_s = math.inf

    def arm(self, pages: float) -> int:
        """Be armed from now on."""
        armed = super().arm(pages)
        self.due_s = math.inf
        if armed:
            wanted = self.passed[self.curve.step(self.clock())] + armed * self.share
            step = bisect.bisect_left(self.passed, wanted)
            if step < len(self.passed):
                self.due_s = step * STEP_S
        return armed

    def disarm(self) -> None:
        """Be armed no more."""
        super().disarm()
        self.due_s = math.inf


class CurveMeter(FakeMeter):
    """A memory of which a figure follows a curve; there is a further one."""

    def __init__(self, curve: Curve, clock: FakeClock, total: int, figure: str) -> None:
        super().__init__(total=total, further=WIDE._fields[len(NAMES) :])
        self.figure = figure
        self.pcp_limit_pages = 0
        self.curve = curve
        self.clock = clock

    def _take(self) -> tuple[Figures, int]:
        self.figures = self.figures._replace(**{self.figure: self.curve.used[self.curve.step(self.clock())]})
        return super()._take()


class Simulated(Sampler):
    """A sampler that lives through a curve. ``on_wake`` is called with the handles of those it wakes."""

    def __init__(
        self,
        curve: Curve,
        table: ObserverTable,
        schedule: SamplingSchedule,
        on_wake: Callable[[list[int]], None],
        *,
        figure: str = "used",
        counter: Mapping[str, float],
    ) -> None:
        self.curve = curve
        self.clock = FakeClock(0.0)
        self.looks = 0
        self.curve_kicks = [
            CurveKick(curve, passed, self.clock, int(counter["least_pages"]), counter["share"])
            for passed in (curve.allocated, curve.freed)
            if counter
        ]
        super().__init__(
            table,
            CurveMeter(curve, self.clock, total=1 << 30, figure=figure),
            schedule,
            lambda handles, count: on_wake(list(handles[:count])),
            update_space_kib=1,
            page_counters=(self.curve_kicks[0], self.curve_kicks[1]) if counter else None,
            clock=self.clock,
        )

    def live(self) -> None:
        """Let the curve pass."""
        self._loop()

    def look(self, *, counter_fired: bool = False) -> None:
        """Count."""
        self.looks += 1
        super().look(counter_fired=counter_fired)

    def _sleep(self, poller: select.poll, timeout_s: float | None) -> set[int | None]:
        assert timeout_s is not None, "somebody watches all the time"
        end_s = self.clock() + max(0.0, timeout_s)
        ready: set[int | None] = set()
        while not ready:
            first = min(self.curve_kicks, key=lambda counter: counter.due_s, default=None)
            if first is None or first.due_s > end_s:
                self.clock.now_s = end_s
                ready = super()._sleep(poller, 0)
                break
            self.clock.now_s = max(self.clock(), first.due_s)
            first.due_s = math.inf
            os.eventfd_write(first.fileno(), 1)
            ready = super()._sleep(poller, 0)
        self._stopping = self.clock() >= self.curve.end_s
        return ready
