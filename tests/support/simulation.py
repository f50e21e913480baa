# SPDX-License-Identifier: MIT
"""The real sampler with a computed memory and clock: minutes pass in milliseconds."""

import bisect
import itertools
import math
import os
import select
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from support.bench import Bench
from support.fakes import WIDE, FakeClock, FakePageCounter, FakeReader

from memnotify.abi.figures import NAMES, Figures
from memnotify.engine.sampler import Timing, WakeSources
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable
from memnotify.kernel.page_counters import PageCounter

STEP_S = 0.005


class Curve:
    """A figure over time, in pages, and how many pages have been allocated and freed by then: at each STEP_S.

    ``moves`` are stretches: pages that move in each step, and how many steps. What is allocated is what
    ``used`` grows by, what is freed what it falls by, and ``churn`` pages a step are both. The per-CPU lists
    hold at most ``lists_pages``, are full at the start, and give and take first.
    """

    def __init__(
        self,
        start_pages: int,
        moves: Sequence[tuple[float, int]],
        *,
        churn: float = 0.0,
        lists_pages: int = 0,
    ) -> None:
        steps = [pages for pages, count in moves for _ in range(count)]
        exact = itertools.accumulate(
            steps, lambda used, pages: max(0.0, used + pages), initial=float(start_pages)
        )
        self.used = [math.floor(pages) for pages in exact]
        moved = [then - now for now, then in itertools.pairwise(self.used)]
        # Of every source; then of the buddy allocator alone.
        self.handed_out = list(itertools.accumulate((max(0, by) + churn for by in moved), initial=0.0))
        self.lists_pages = lists_pages
        self.on_lists = list(
            itertools.accumulate(
                moved, lambda held, by: min(max(0, held - by), lists_pages), initial=lists_pages
            )
        )
        self.allocated = list(
            itertools.accumulate(
                (
                    max(0, by - held) + (0.0 if lists_pages else churn)
                    for by, held in zip(moved, self.on_lists, strict=False)
                ),
                initial=0.0,
            )
        )
        self.freed = list(itertools.accumulate((max(0, -by) + churn for by in moved), initial=0.0))
        self.end_s = len(steps) * STEP_S

    def step(self, now_s: float) -> int:
        """Return the index of a time."""
        return min(int(now_s / STEP_S + 1e-6), len(self.used) - 1)


class CurveCounter(FakePageCounter):
    """A page counter that fires each time ``share`` of the pages that it is armed for have passed.

    It goes on counting while it is armed for enough, and rests, as the kernel's.
    """

    rest = PageCounter.rest

    def __init__(
        self, curve: Curve, passed: list[float], clock: FakeClock, least_pages: int, share: float
    ) -> None:
        super().__init__(least_pages)
        self.curve = curve
        self.passed = passed
        self.clock = clock
        self.share = share
        self.due_s = math.inf
        self._rest = self._remembered = self._lag_pages = self._armed_pages = 0
        self.fired_early = self._armed_every = self._fired = self._low = False
        self._counted_pages = 0.0

    def arm(self, pages: float, moved_pages: float = 0.0, every_pages: float = 0.0) -> int:
        """Arm it, unless it goes on or rests."""
        if self._rests_now():
            return 0
        every = pages < max(1, self._least_pages)
        wanted_pages = every_pages if every else pages
        if wanted_pages == math.inf:
            self.disarm()
        elif not self._goes_on(wanted_pages, every=every):
            self.disarm()
            rounded = self._rounded(wanted_pages - moved_pages)
            if rounded >= max(1, self._least_pages):
                self._armed_pages, self._armed_every = rounded, every
                self.begun += 1
                self._counted_pages = self._passed()[self.curve.step(self.clock())]
                self._count_on()
        return self._armed_pages

    def fire(self) -> None:
        """Poll ready, and count again."""
        os.eventfd_write(self.fileno(), 1)
        self._counted_pages = self._passed()[self.curve.step(self.clock())]
        self._count_on()

    def disarm(self) -> None:
        """Disarm it."""
        self._armed_pages = 0
        self.due_s = math.inf

    def drain(self) -> None:
        """Clear the readiness."""
        super().drain()
        self._fired = True

    def _passed(self) -> list[float]:
        return self.curve.handed_out if self._armed_every else self.passed

    def _count_on(self) -> None:
        passed = self._passed()
        step = bisect.bisect_left(passed, self._counted_pages + self._armed_pages * self.share)
        self.due_s = step * STEP_S if step < len(passed) else math.inf


class CurveReader(FakeReader):
    """A memory of which one figure follows a curve; it has an extra figure."""

    def __init__(self, curve: Curve, clock: FakeClock, total: int, figure: str) -> None:
        super().__init__(total=total, extra=WIDE._fields[len(NAMES) :])
        self.figure = figure
        self.pcp_limit_pages = curve.lists_pages
        self.curve = curve
        self.clock = clock

    def _take(self) -> tuple[Figures, int]:
        step = self.curve.step(self.clock())
        self.figures = self.figures._replace(**{self.figure: self.curve.used[step]})
        self.pcp_pages = self.curve.on_lists[step]
        return super()._take()


class Simulation(Bench[CurveReader]):
    """A sampler and its clock, for the time of a curve. ``on_notify`` is called with the notified handles."""

    def __init__(
        self,
        curve: Curve,
        parameters: SamplingParameters,
        on_notify: Callable[[list[int]], None],
        *,
        figure: str = "used",
        total: int = 1 << 30,
        counter: Mapping[str, float],
    ) -> None:
        """``counter`` has CurveCounter's ``least_pages`` and ``share``, or nothing: no page counters then."""
        clock = FakeClock(0.0)
        self.curve = curve
        self.counters = [
            CurveCounter(curve, passed, clock, int(counter["least_pages"]), counter["share"])
            for passed in (curve.allocated, curve.freed)
            if counter
        ]
        super().__init__(
            CurveReader(curve, clock, total=total, figure=figure),
            parameters,
            table=ObserverTable(len(WIDE._fields)),
            notify=lambda handles, count: on_notify(list(handles[:count])),
            sources=WakeSources(page_counters=(self.counters[0], self.counters[1]) if counter else None),
            timing=Timing(clock, self._wait),
        )
        self.clock = clock

    @property
    def samples(self) -> int:
        """How many samples the sampler has taken: each begins with a plain reading."""
        return self.reader.plain_reads

    def run(self) -> None:
        """Run to the end of the curve, and stop the sampler."""

        def turns() -> None:
            while self.clock() < self.curve.end_s:
                self.sampler.turn()

        # In a thread of its own: a turn sets the timer slack of its thread, which the tests must not keep.
        with ThreadPoolExecutor(1) as executor:
            try:
                executor.submit(turns).result()
            finally:
                self.sampler.stop()

    def _wait(self, poller: select.poll, timeout_s: float | None) -> list[tuple[int, int]]:
        """Let the time pass until the first page counter fires, or until the time-out."""
        assert timeout_s is not None, "an observer has thresholds all the time"
        # As late as the timer slack lets the kernel end it.
        end_s = self.clock() + max(0.0, timeout_s + self.sampler._slack_s)
        while not (ready := poller.poll(0)):
            first = min(self.counters, key=lambda counter: counter.due_s, default=None)
            if first is None or first.due_s > end_s:
                self.clock.now_s = end_s
                break
            self.clock.now_s = max(self.clock(), first.due_s)
            first.fire()
        return ready
