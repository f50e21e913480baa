# SPDX-License-Identifier: MIT
"""No crossing is noticed later than the pace promises, for any memory that moves no faster than the rate."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from memnotify.figures import USED, Figures
from memnotify.observers import Sample, Table
from memnotify.pace import Pace

UPDATE_S = 0.25
MAX_S = 15.0
RATE_PAGES_S = 1000.0
TOTAL_PAGES = 100_000
STEP_S = 0.01

# How much of the rate memory moves with, and for how many steps: a quiet time, in which the interval grows,
# then stretches that come and go.
stretches = st.builds(
    lambda quiet, moves: [(0.0, quiet), *moves],
    st.integers(0, 4000),
    st.lists(
        st.tuples(st.sampled_from([-1.0, -0.3, 0.0, 0.3, 1.0]), st.integers(1, 600)), min_size=1, max_size=8
    ),
)


def curve(start_pages: int, moves: list[tuple[float, int]]) -> list[int]:
    """Return ``used`` at each step; it never moves by more than the rate allows."""
    steps = (share * RATE_PAGES_S * STEP_S for share, count in moves for _ in range(count))
    return [max(0, math.trunc(used)) for used in itertools.accumulate(steps, initial=start_pages)]


@given(start=st.integers(0, 5000), threshold=st.integers(1, 5000), moves=stretches)
def test_no_crossing_is_noticed_later_than_the_update_period(
    start: int, threshold: int, moves: list[tuple[float, int]]
) -> None:
    used = curve(start, moves)
    above = [pages >= threshold for pages in used]
    table, pace = Table(), Pace(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    fh = table.open()
    table.subscribe(fh, {USED: threshold}, Sample(0.0, Figures(TOTAL_PAGES, used[0], 0), exact=True))
    # One sample at once, as the write's own figures may be older than the first interval.
    taken_s, noticed_s = 0.0, math.inf
    while taken_s < len(used) * STEP_S:
        figures = Figures(TOTAL_PAGES, used[min(int(taken_s / STEP_S + 1e-9), len(used) - 1)], 0)
        table.advance(Sample(taken_s, figures, exact=True), 0)
        if table.poll(fh, 0)[0]:
            noticed_s = taken_s
            break
        pace.see(taken_s, figures, 1, table.distance(figures))
        taken_s += pace.interval_s
    crossed = next((step for step, state in enumerate(above) if state != above[0]), None)
    if crossed is None:
        assert noticed_s == math.inf
        return
    # It was looked at within the period; only what had gone back by then could not be seen.
    looked_s = min(noticed_s, taken_s) if noticed_s < math.inf else taken_s
    stayed = itertools.takewhile(lambda state: state != above[0], above[crossed:])
    if len(list(stayed)) * STEP_S > UPDATE_S + STEP_S:
        assert looked_s <= crossed * STEP_S + UPDATE_S + STEP_S
        assert noticed_s < math.inf


def test_the_reach_bounds_the_interval() -> None:
    pace = Pace(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    still = Figures(TOTAL_PAGES, 50, 50)
    for second in range(10):
        pace.see(second, still, 1)
    assert pace.interval_s == MAX_S
    pace.see(20.0, still, 1, 3000)
    assert pace.interval_s == 3.0
    pace.see(21.0, still, 1, 1)
    assert pace.interval_s == UPDATE_S


def test_only_what_moves_fast_towards_a_near_level_is_looked_at_more_often() -> None:
    pace = Pace(UPDATE_S, MAX_S, min_update_period_s=0.02, fill_rate_pages_s=RATE_PAGES_S)
    pace.see(0.0, Figures(TOTAL_PAGES, 0, 0), 1)
    there = Figures(TOTAL_PAGES, 2000, 0)
    # 2000 pages/s are seen: 300 pages may take 0.15 s, which is less than the update period, 501 more.
    for distance_pages, interval_s in ((300, 0.15), (1, 0.02), (501, UPDATE_S)):
        pace.see(1.0, there, 1, distance_pages)
        assert math.isclose(pace.interval_s, interval_s, abs_tol=0.001)
    # After two seconds a quarter of that is left, so 300 pages take longer than the update period again.
    pace.see(3.0, there, 1, 300)
    assert math.isclose(pace.interval_s, 0.3)


def test_a_restart_never_slows_down() -> None:
    pace = Pace(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    pace.see(0.0, Figures(TOTAL_PAGES, 0, 0), 1)
    pace.see(1.0, Figures(TOTAL_PAGES, 2000, 0), 1, 1)
    assert pace.interval_s == pace.min_update_period_s
    pace.restart()
    assert pace.interval_s == pace.min_update_period_s
