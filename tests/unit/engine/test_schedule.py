# SPDX-License-Identifier: MIT
"""When to sample next: the original's back-off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import sampling
from support.fakes import FakeClock
from support.strategies import small_figures

from memnotify.abi.figures import PAGE_SIZE, Figures
from memnotify.engine.schedule import SamplingSchedule

STILL = Figures(1000, 500, 250)
clock = FakeClock()
G = 10


class Schedule:
    """A schedule, and the interval that it has returned last."""

    def __init__(self, update_period_s: float, max_update_period_s: float) -> None:
        self.parameters = sampling(update_period_s, max_update_period_s)
        self._schedule = SamplingSchedule(self.parameters)
        self.interval = self._schedule.reset(self.parameters)

    def restart(self) -> None:
        """Begin the back-off again."""
        self.interval = self._schedule.restart(self.interval)

    def intervals(self, *seen: Figures, granularity: int = G) -> list[float]:
        """Return the interval after each of the figures."""
        result = []
        for figures in seen:
            clock.tick(self.interval.timer_s)
            self.interval = self._schedule.update(clock(), figures, granularity)
            result.append(self.interval.timer_s)
        return result


def test_doubles_up_to_the_longest() -> None:
    """After each sample without movement the interval doubles, up to the longest."""
    schedule = Schedule(0.25, 15.0)
    assert schedule.interval.timer_s == 0.25
    wanted = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert schedule.intervals(*[STILL] * 8) == wanted


def test_one_interval_only() -> None:
    """If both are the same there is nothing to double."""
    assert set(Schedule(0.25, 0.25).intervals(*[STILL] * 5)) == {0.25}


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(("by", "moved"), [(G, True), (-G, True), (G - 1, False), (1 - G, False)])
def test_a_movement_of_any_figure(index: int, by: int, *, moved: bool) -> None:
    """A figure that moved by the granularity, in either direction, brings the shortest interval back."""
    schedule = Schedule(1, 64)
    there = STILL._replace(**{STILL._fields[index]: STILL[index] + by})
    assert schedule.intervals(STILL, STILL, STILL, there) == [1, 2, 4, 1 if moved else 8]
    # What moved is measured from there now.
    assert schedule.intervals(STILL) == [1 if moved else 16]


def test_a_slow_drift_counts() -> None:
    """Figures that move by less than the granularity at a time have moved in the end."""
    schedule = Schedule(1, 64)
    drift = [STILL._replace(used=500 + 4 * step) for step in range(7)]
    assert schedule.intervals(*drift) == [1, 2, 4, 1, 2, 4, 1]


def test_restart() -> None:
    """After a restart, the next figures are those to move from."""
    schedule = Schedule(1, 64)
    schedule.intervals(*[STILL] * 4)
    for there in (STILL, STILL._replace(used=900)):
        schedule.restart()
        assert schedule.interval.timer_s == 1
        assert schedule.intervals(there, there, STILL._replace(used=0)) == [1, 2, 1]


def test_no_granularity() -> None:
    """With a granularity of 0 a page is a movement, and unchanged figures are none."""
    schedule = Schedule(1, 64)
    page_more = STILL._replace(active=251)
    assert schedule.intervals(STILL, STILL, STILL, page_more, page_more, granularity=0) == [1, 2, 4, 1, 2]


@given(
    st.floats(0.001, 10),
    st.floats(1, 10_000),
    st.lists(st.one_of(st.none(), st.tuples(small_figures, st.integers(0, 20)))),
)
def test_bounds(shortest_s: float, times: float, seen: list[tuple[Figures, int] | None]) -> None:
    """For any figures the interval is within its bounds, and at most doubles."""
    schedule = Schedule(shortest_s, shortest_s * times)
    for step in seen:
        before_s = schedule.interval.timer_s
        if step is None:
            schedule.restart()
        else:
            figures, granularity = step
            schedule.intervals(figures, granularity=granularity)
        interval_s, parameters = schedule.interval.timer_s, schedule.parameters
        assert parameters.update_period_s <= interval_s <= parameters.max_update_period_s
        assert interval_s <= 2 * before_s


@pytest.mark.parametrize(
    ("total", "update_space_kib", "pages"),
    [
        (128 * 1000, 0, 1000),
        (128 * 1000 + 127, 0, 1000),
        (128, 0, 1),
        # Too small for a 128th
        (127, 0, 512 * 1024 // PAGE_SIZE),
        (0, 0, 512 * 1024 // PAGE_SIZE),
        # Half of update_space, whatever total is
        (128 * 1000, 2 * PAGE_SIZE // 1024, 1),
        (0, 20 * PAGE_SIZE // 1024, 10),
        (0, 3 * PAGE_SIZE // 1024, 1),
        # Less than two pages: chatter is wanted
        (128 * 1000, 2 * PAGE_SIZE // 1024 - 1, 0),
        (128 * 1000, 1, 0),
    ],
)
def test_granularity(total: int, update_space_kib: int, pages: int) -> None:
    """Half of update_space, or a 128th of total."""
    assert sampling(update_space_kib=update_space_kib).granularity_pages(total) == pages


def test_samples_in_between_are_no_intervals() -> None:
    """Only time doubles the interval, not samples that have another cause; slack is allowed for."""
    schedule = SamplingSchedule(sampling(1, 64))
    moments_s = (0.0, 0.1, 0.5, 0.9, 1.0, 2.0, 2.7, 3.0)
    seen = [schedule.update(moment_s, STILL, G).timer_s for moment_s in moments_s]
    assert seen == [1, 1, 1, 2, 2, 2, 4, 4]
