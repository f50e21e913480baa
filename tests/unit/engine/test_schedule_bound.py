# SPDX-License-Identifier: MIT
"""No crossing is noticed later than the schedule promises, if memory moves no faster than the rate."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulation import STEP_S, Curve, Simulated
from support.strategies import WIDE

from memnotify.abi.figures import USED, Figures
from memnotify.engine.schedule import SamplingSchedule
from memnotify.engine.table import ObserverTable

UPDATE_S = 0.25
MAX_S = 15.0
RATE_PAGES_S = 1000.0
TOTAL_PAGES = 100_000

# How much of the rate memory moves with, and for how many steps: a quiet time, in which the interval grows,
# then stretches that come and go.
stretches = st.builds(
    lambda quiet, moves: [(0.0, quiet), *moves],
    st.integers(0, 6000),
    st.lists(
        st.tuples(st.sampled_from([-1.0, -0.3, 0.0, 0.3, 1.0]), st.integers(1, 1000)), min_size=1, max_size=8
    ),
)
page_counters = st.sampled_from(
    [
        {},
        {"least_pages": 1, "share": 1.0},
        {"least_pages": 100, "share": 1.0},
        {"least_pages": 1, "share": 0.2},
    ]
)


@settings(max_examples=400)
@given(
    start=st.integers(0, 5000),
    threshold=st.integers(1, 5000),
    moves=stretches,
    churn=st.sampled_from([0.0, 0.0, 10.0]),
    counter=page_counters,
    figure=st.sampled_from([USED, WIDE._fields.index("active"), WIDE._fields.index("available")]),
)
def test_no_crossing_is_noticed_later_than_the_update_period(
    *,
    start: int,
    threshold: int,
    moves: list[tuple[float, int]],
    churn: float,
    counter: dict[str, float],
    figure: int,
) -> None:
    """With page counters that fire in time or early, and with none, of any figure in both directions."""
    # Long enough in the end for what must be noticed.
    moves = [*moves, (0.0, 2 * round(UPDATE_S / STEP_S))]
    curve = Curve(start, [(share * RATE_PAGES_S * STEP_S, count) for share, count in moves], churn=churn)
    table, noticed_s = ObserverTable(len(WIDE._fields)), []
    schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    sampler = Simulated(
        curve,
        table,
        schedule,
        lambda _: noticed_s.append(sampler.clock()),
        figure=WIDE._fields[figure],
        counter=counter,
    )
    try:
        fh = table.open()
        table.subscribe(fh, {figure: threshold}, sampler.current())
        table.poll(fh, 1)
        sampler.thresholds_changed()
        sampler.live()
    finally:
        sampler.stop()
    above = [pages >= threshold for pages in curve.used]
    crossed = next((step for step, state in enumerate(above) if state != above[0]), None)
    if crossed is None:
        assert noticed_s == []
        return
    if noticed_s:
        assert noticed_s[0] >= crossed * STEP_S - 1e-6
    # What had gone back within the period could not be seen.
    stayed_s = STEP_S * sum(1 for _ in itertools.takewhile(lambda state: state != above[0], above[crossed:]))
    bound_s = UPDATE_S + 2 * STEP_S
    if stayed_s > bound_s:
        assert noticed_s
        assert noticed_s[0] <= crossed * STEP_S + bound_s


def test_what_nobody_watches_costs_no_look() -> None:
    """A further figure that moves all the time leaves a threshold on another to the back-off."""
    looks = []
    for pages in (0.0, RATE_PAGES_S * STEP_S):
        table = ObserverTable(len(WIDE._fields))
        schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
        curve = Curve(100, [(pages, 12_000)])
        sampler = Simulated(curve, table, schedule, lambda _: None, figure="available", counter={})
        table.subscribe(table.open(), {USED: TOTAL_PAGES}, sampler.current())
        sampler.live()
        sampler.stop()
        looks.append(sampler.looks)
    assert looks[0] == looks[1] <= 10


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_a_kick_lets_the_timer_rest(share: float) -> None:
    """A minute of nothing costs the back-off's samples and no more, a ramp then those that it needs."""
    quiet = Curve(100, [(0.0, 12_000)])
    ramp = Curve(100, [(0.0, 12_000), (RATE_PAGES_S * STEP_S, 600)])
    looks = []
    for curve in (quiet, ramp):
        table = ObserverTable(len(WIDE._fields))
        schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
        sampler = Simulated(
            curve, table, schedule, lambda _: None, counter={"least_pages": 1, "share": share}
        )
        table.subscribe(table.open(), {USED: 2000}, sampler.current())
        sampler.live()
        sampler.stop()
        looks.append(sampler.looks)
    # 0.25, 0.5, 1, 2, 4, 8, then 15 s each
    assert looks[0] <= 10
    assert looks[1] <= looks[0] + 40


def test_the_reach_bounds_the_interval() -> None:
    schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    still = Figures(TOTAL_PAGES, 50, 50)
    for step in range(10):
        schedule.see(step * MAX_S, still, 1)
    assert schedule.interval_s == MAX_S
    schedule.see(200.0, still, 1, 3000)
    assert schedule.interval_s == 3.0
    schedule.see(201.0, still, 1, 1)
    assert schedule.interval_s == UPDATE_S


def test_what_a_kick_announces_does_not_bound_the_interval() -> None:
    """The timer is for what nothing announces; a counter counts once the nearest level can be in reach."""
    schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    still = Figures(TOTAL_PAGES, 50, 50)
    for step in range(10):
        schedule.see(step * MAX_S, still, 1, 3000, unannounced_pages=math.inf)
    assert (schedule.interval_s, schedule.counter_interval_s) == (MAX_S, 1.5)
    schedule.see(200.0, still, 1, 3000, unannounced_pages=4000)
    assert (schedule.interval_s, schedule.counter_interval_s) == (4.0, 1.5)
    schedule.see(201.0, still, 1, 1, unannounced_pages=math.inf)
    assert (schedule.interval_s, schedule.counter_interval_s) == (MAX_S, UPDATE_S)


def test_the_first_kick_is_followed_by_a_second_look() -> None:
    """After a quiet time nobody knows how fast memory moves: the shortest interval tells, once."""
    schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    schedule.see(0.0, Figures(TOTAL_PAGES, 0, 0), 1, 90_000, unannounced_pages=math.inf)
    schedule.see(10.0, Figures(TOTAL_PAGES, 10, 0), 1, 89_990, unannounced_pages=math.inf, counter_fired=True)
    assert schedule.interval_s == schedule.min_update_period_s
    # 90 times as fast as expected
    schedule.see(10.02, Figures(TOTAL_PAGES, 1810, 0), 1, 88_190, unannounced_pages=math.inf)
    assert math.isclose(schedule.counter_interval_s, 88_190 / 90_000 / 2)
    # It is known now.
    schedule.see(
        10.2, Figures(TOTAL_PAGES, 1810, 0), 1, 88_190, unannounced_pages=math.inf, counter_fired=True
    )
    assert schedule.interval_s >= UPDATE_S


def test_only_what_moves_fast_towards_a_near_level_is_looked_at_more_often() -> None:
    schedule = SamplingSchedule(UPDATE_S, MAX_S, min_update_period_s=0.02, fill_rate_pages_s=RATE_PAGES_S)
    schedule.see(0.0, Figures(TOTAL_PAGES, 0, 0), 1)
    there = Figures(TOTAL_PAGES, 2000, 0)
    # 2000 pages/s are seen: 300 pages may take 0.15 s, which is less than the update period, 501 more.
    for distance_pages, interval_s in ((300, 0.15), (1, 0.02), (501, UPDATE_S)):
        schedule.see(1.0, there, 1, distance_pages)
        assert math.isclose(schedule.interval_s, interval_s, abs_tol=0.001)
    # After two seconds a quarter of that is left, so 300 pages take longer than the update period again.
    schedule.see(3.0, there, 1, 300)
    assert math.isclose(schedule.interval_s, 0.3)


def test_the_per_cpu_lists_are_no_movement() -> None:
    """Exact and plain figures differ by what lies on the lists: a sample of the other kind has not moved."""
    schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    plain, exact = Figures(TOTAL_PAGES, 5000, 0), Figures(TOTAL_PAGES, 1000, 0)
    for second, is_exact in enumerate([False, True, False, True, False]):
        schedule.see(second, exact if is_exact else plain, 10, 600, exact=is_exact)
    assert schedule.interval_s == 0.6
    assert "moves at 0 pages/s" in str(schedule)
    # What was seen by one kind is not forgotten by the other.
    schedule.see(5.0, exact._replace(used=21_000), 10, 600, exact=True)
    schedule.see(5.001, plain, 10, 600, exact=False)
    assert schedule.interval_s < UPDATE_S


def test_a_restart_never_slows_down() -> None:
    schedule = SamplingSchedule(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
    schedule.see(0.0, Figures(TOTAL_PAGES, 0, 0), 1)
    schedule.see(1.0, Figures(TOTAL_PAGES, 2000, 0), 1, 1)
    assert schedule.interval_s == schedule.min_update_period_s
    schedule.restart()
    assert schedule.interval_s == schedule.min_update_period_s
