# SPDX-License-Identifier: MIT
"""No crossing is noticed later than the schedule promises, if memory moves no faster than the rate."""

import itertools
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bench import sampling
from support.fakes import WIDE
from support.levels import levels
from support.simulation import STEP_S, Curve, Simulation

from memnotify.abi.figures import USED, Figures
from memnotify.engine.schedule import Firing, SamplingSchedule

UPDATE_S = 0.25
MAX_S = 15.0
RATE_PAGES_S = 1000.0
TOTAL_PAGES = 100_000
PARAMETERS = sampling(UPDATE_S, MAX_S, fill_rate_pages_s=RATE_PAGES_S)
LEAST_S = PARAMETERS.min_update_period_s
EARLY_S = LEAST_S / 4

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


@settings(max_examples=int(os.environ.get("MEMNOTIFY_EXAMPLES", "100")))
@given(
    start=st.integers(0, 5000),
    threshold=st.integers(1, 5000),
    moves=stretches,
    churn=st.sampled_from([0.0, 0.0, 10.0]),
    lists_pages=st.sampled_from([0, 0, 300, 5000]),
    counter=page_counters,
    figure=st.sampled_from([USED, WIDE._fields.index("active"), WIDE._fields.index("available")]),
)
def test_no_crossing_is_noticed_later_than_the_update_period(
    *,
    start: int,
    threshold: int,
    moves: list[tuple[float, int]],
    churn: float,
    lists_pages: int,
    counter: dict[str, float],
    figure: int,
) -> None:
    """With page counters that fire in time or early, and with none, of any figure in both directions."""
    # Long enough in the end for what must be noticed.
    moves = [*moves, (0.0, 2 * round(UPDATE_S / STEP_S))]
    curve = Curve(
        start,
        [(share * RATE_PAGES_S * STEP_S, count) for share, count in moves],
        churn=churn,
        lists_pages=lists_pages,
    )
    noticed_s: list[float] = []
    simulation = Simulation(
        curve,
        PARAMETERS._replace(update_space_kib=1),
        lambda _: noticed_s.append(simulation.clock()),
        figure=WIDE._fields[figure],
        counter=counter,
    )
    fh = simulation.table.open()
    simulation.table.subscribe(fh, levels({figure: threshold}), simulation.sampler.refresh())
    simulation.table.poll(fh, 1)
    simulation.run()
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


def _samples(curve: Curve, threshold: int, figure: str, counter: dict[str, float]) -> int:
    """Return how many samples a threshold on ``used`` causes while ``figure`` follows the curve."""
    simulation = Simulation(
        curve, PARAMETERS._replace(update_space_kib=1), lambda _: None, figure=figure, counter=counter
    )
    simulation.table.subscribe(
        simulation.table.open(), levels({USED: threshold}), simulation.sampler.refresh()
    )
    simulation.run()
    return simulation.samples


def test_a_figure_without_thresholds_causes_no_samples() -> None:
    """An extra figure that moves all the time leaves a threshold on another figure to the back-off."""
    still, moving = (
        _samples(Curve(100, [(pages, 12_000)]), TOTAL_PAGES, "available", {})
        for pages in (0.0, RATE_PAGES_S * STEP_S)
    )
    assert still == moving <= 10


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_page_counters_replace_the_timer(share: float) -> None:
    """A quiet minute causes only the back-off's samples; a ramp causes those that it needs."""
    quiet, ramp = (
        _samples(Curve(100, [(0.0, 12_000), *moves]), 2000, "used", {"least_pages": 1, "share": share})
        for moves in ([], [(RATE_PAGES_S * STEP_S, 600)])
    )
    # 0.25, 0.5, 1, 2, 4, 8, then 15 s each
    assert quiet <= 10
    assert ramp <= quiet + 40


def test_what_the_per_cpu_lists_could_reach_is_counted_too() -> None:
    """A quiet minute causes only the back-off's samples, though the lists hold enough for the threshold."""
    curve = Curve(1900, [(0.0, 12_000)], lists_pages=500)
    assert _samples(curve, 2000, "used", {"least_pages": 1, "share": 1.0}) <= 10
    # Without page counters the timer watches it.
    assert _samples(curve, 2000, "used", {}) >= 60 / UPDATE_S


def test_the_reach_bounds_the_interval() -> None:
    schedule = SamplingSchedule(PARAMETERS)
    still = Figures(TOTAL_PAGES, 50, 50)
    for step in range(10):
        interval = schedule.update(step * MAX_S, still, 1)
    assert interval.timer_s == MAX_S
    interval = schedule.update(200.0, still, 1, 3000)
    assert interval.timer_s == 3.0
    interval = schedule.update(201.0, still, 1, 1)
    assert interval.timer_s == UPDATE_S


def test_what_a_page_counter_announces_does_not_bound_the_interval() -> None:
    """The timer is for unannounced levels; a page counter causes a sample once a level can be in reach."""
    schedule = SamplingSchedule(PARAMETERS)
    still = Figures(TOTAL_PAGES, 50, 50)
    for step in range(10):
        interval = schedule.update(step * MAX_S, still, 1, 3000, unannounced_pages=math.inf)
    assert (interval.timer_s, interval.counter_s) == (MAX_S, 1.5)
    interval = schedule.update(200.0, still, 1, 3000, unannounced_pages=4000)
    assert (interval.timer_s, interval.counter_s) == (4.0, 1.5)
    interval = schedule.update(201.0, still, 1, 1, unannounced_pages=math.inf)
    assert (interval.timer_s, interval.counter_s) == (MAX_S, UPDATE_S)


def test_a_sample_by_a_page_counter_is_followed_by_a_second_one() -> None:
    """After a quiet time the rate of memory is unknown: one shortest interval measures it."""
    schedule = SamplingSchedule(PARAMETERS)
    interval = schedule.update(0.0, Figures(TOTAL_PAGES, 0, 0), 1, 90_000, unannounced_pages=math.inf)
    interval = schedule.update(
        10.0, Figures(TOTAL_PAGES, 10, 0), 1, 89_990, unannounced_pages=math.inf, firing=Firing()
    )
    assert interval.timer_s == EARLY_S
    # 90 times as fast as expected
    interval = schedule.update(10.02, Figures(TOTAL_PAGES, 1810, 0), 1, 88_190, unannounced_pages=math.inf)
    assert math.isclose(interval.counter_s, 88_190 / 90_000 / 2)
    # It is known now.
    interval = schedule.update(
        10.2, Figures(TOTAL_PAGES, 1810, 0), 1, 88_190, unannounced_pages=math.inf, firing=Firing()
    )
    assert interval.timer_s >= UPDATE_S


@pytest.mark.parametrize(("quiet_s", "early"), [(0.0, 0), (3 * EARLY_S, 1), (6 * EARLY_S, 2), (1.0, 4)])
def test_samples_may_be_early_after_a_quiet_time(quiet_s: float, early: int) -> None:
    """Up to four; in a long movement near a level there is one sample in each min_update_period."""
    schedule = SamplingSchedule(PARAMETERS)
    taken_s = 0.0
    used = 0
    schedule.update(taken_s, Figures(TOTAL_PAGES, used, 0), 1)
    for rest_s, expected in [(LEAST_S, 4), (quiet_s, early)]:
        taken_s += rest_s
        for wanted_s in [EARLY_S] * expected + [LEAST_S] * 20:
            used += 5000
            interval = schedule.update(taken_s, Figures(TOTAL_PAGES, used, 0), 1, 1)
            assert math.isclose(interval.timer_s, wanted_s, abs_tol=1e-9)
            assert interval.soonest_s == interval.timer_s
            taken_s += interval.timer_s


def test_a_second_one_waits_for_counters_without_a_gap() -> None:
    """They announce each level, so the rate need not be known before one of them fires again."""
    schedule = SamplingSchedule(PARAMETERS)
    schedule.update(0.0, Figures(TOTAL_PAGES, 0, 0), 1, 90_000, unannounced_pages=math.inf)
    interval = schedule.update(
        10.0,
        Figures(TOTAL_PAGES, 10, 0),
        1,
        89_990,
        unannounced_pages=math.inf,
        firing=Firing(gapless=True),
    )
    assert (interval.timer_s, interval.counter_s) == (UPDATE_S, interval.soonest_s)


@settings(max_examples=int(os.environ.get("MEMNOTIFY_EXAMPLES", "100")))
@given(
    threshold=st.integers(2000, 100_000),
    quiet_steps=st.integers(round(30 / STEP_S), round(60 / STEP_S)),
    times_as_fast=st.floats(1, 1000),
    burst_steps=st.integers(1, 400),
    falls=st.booleans(),
    share=st.floats(0.01, 1),
)
def test_a_burst_after_a_quiet_time_is_noticed_within_the_shortest_period(
    *,
    threshold: int,
    quiet_steps: int,
    times_as_fast: float,
    burst_steps: int,
    falls: bool,
    share: float,
) -> None:
    """However fast, long and near, as long as a page counter counts for the threshold."""
    burst = (times_as_fast * RATE_PAGES_S * STEP_S * (-1 if falls else 1), burst_steps)
    curve = Curve(threshold + 1000 if falls else 100, [(0.0, quiet_steps), burst, (0.0, round(20 / STEP_S))])
    crossed = next((s for s, pages in enumerate(curve.used) if (pages >= threshold) != falls), None)
    noticed_s: list[float] = []
    simulation = Simulation(
        curve,
        PARAMETERS._replace(update_space_kib=1),
        lambda _: noticed_s.append(simulation.clock()),
        counter={"least_pages": 1, "share": share},
    )
    fh = simulation.table.open()
    simulation.table.subscribe(fh, levels({USED: threshold}), simulation.sampler.refresh())
    simulation.table.poll(fh, 1)
    simulation.run()
    if crossed is None:
        assert noticed_s == []
    else:
        assert noticed_s[0] <= crossed * STEP_S + PARAMETERS.min_update_period_s + 2 * STEP_S


@pytest.mark.parametrize("gapless", [False, True])
def test_a_counter_that_fires_early_is_followed_by_a_second_sample(*, gapless: bool) -> None:
    """A step may have begun just before, though little moved yet and the last sample was not long ago."""
    schedule = SamplingSchedule(PARAMETERS)
    for taken_s, used in [(0.0, 0), (1.0, 20_000), (4.0, 20_000)]:
        schedule.update(taken_s, Figures(TOTAL_PAGES, used, 0), 1, 90_000, unannounced_pages=math.inf)
    there = Figures(TOTAL_PAGES, 20_010, 0)
    firing = Firing(early=True, gapless=gapless)
    interval = schedule.update(4.1, there, 1, 89_990, unannounced_pages=math.inf, firing=firing)
    assert (interval.counter_s if gapless else interval.timer_s) == interval.soonest_s
    # It fires early again if it does so before the level can be near at the rate that is known.
    assert interval.expected_s > UPDATE_S


@pytest.mark.parametrize("churn_pages_s", [25_000, 50_000, 100_000])
def test_pages_that_come_and_go_let_a_counter_rest(churn_pages_s: int) -> None:
    """Though a first early firing causes two samples, there are few more than at the base interval."""
    curve = Curve(10_000, [(0.0, round(60 / STEP_S))], churn=churn_pages_s * STEP_S)
    simulation = Simulation(curve, sampling(), lambda _: None, counter={"least_pages": 1, "share": 0.25})
    # The second level is one that no counter announces, so the second sample does not wait for a firing.
    wanted = levels({USED: 10_000 + (1 << 14) + 10, USED + 1: 1 << 19})
    simulation.table.subscribe(simulation.table.open(), wanted, simulation.sampler.refresh())
    simulation.run()
    assert simulation.samples <= 1.1 * 60 / UPDATE_S


def test_a_burst_soon_after_a_sample_is_measured_too() -> None:
    """It began since, so it is faster than it looks: 900 pages in 0.2 s, perhaps in much less."""
    schedule = SamplingSchedule(PARAMETERS)
    schedule.update(0.0, Figures(TOTAL_PAGES, 0, 0), 1, 90_000, unannounced_pages=math.inf)
    interval = schedule.update(
        0.2, Figures(TOTAL_PAGES, 900, 0), 1, 89_100, unannounced_pages=math.inf, firing=Firing()
    )
    assert interval.timer_s == EARLY_S


def test_only_a_fast_movement_towards_a_near_level_shortens_the_interval() -> None:
    schedule = SamplingSchedule(PARAMETERS)
    interval = schedule.update(0.0, Figures(TOTAL_PAGES, 0, 0), 1)
    there = Figures(TOTAL_PAGES, 2000, 0)
    # 2000 pages/s are seen: 300 pages may take 0.15 s, which is less than the update period, 501 more.
    for distance_pages, interval_s in ((300, 0.15), (1, EARLY_S), (501, UPDATE_S)):
        interval = schedule.update(1.0, there, 1, distance_pages)
        assert math.isclose(interval.timer_s, interval_s, abs_tol=0.001)
    # After two seconds a quarter of that is left, so 300 pages take longer than the update period again.
    interval = schedule.update(3.0, there, 1, 300)
    assert math.isclose(interval.timer_s, 0.3)


def test_the_per_cpu_lists_are_no_movement() -> None:
    """Exact and plain figures differ by the pages on the lists, which is no movement."""
    schedule = SamplingSchedule(PARAMETERS)
    plain, exact = Figures(TOTAL_PAGES, 5000, 0), Figures(TOTAL_PAGES, 1000, 0)
    for second, is_exact in enumerate([False, True, False, True, False]):
        interval = schedule.update(
            second, exact if is_exact else plain, 10, 600, pcp_pages=4000 if is_exact else None
        )
    assert interval.timer_s == 0.6
    assert "moves at 0 pages/s" in str(interval)
    # What was seen by one kind is not forgotten by the other.
    interval = schedule.update(5.0, exact._replace(used=21_000), 10, 600, pcp_pages=4000)
    interval = schedule.update(5.001, plain, 10, 600, pcp_pages=None)
    assert interval.timer_s < UPDATE_S


def test_the_per_cpu_lists_are_no_movement_between_exact_samples() -> None:
    """Pages that go from the lists into use, or back, move plain figures but not exact ones."""
    schedule = SamplingSchedule(PARAMETERS)
    exact = Figures(TOTAL_PAGES, 1000, 0)
    for second, pcp_pages in enumerate([4000, 0, 4000, 0]):
        interval = schedule.update(second, exact, 10, 600, pcp_pages=pcp_pages)
    assert interval.timer_s == 0.6
    assert "moves at 0 pages/s" in str(interval)


@pytest.mark.parametrize("first_is_exact", [False, True])
def test_a_movement_between_an_exact_and_a_plain_sample_is_seen(*, first_is_exact: bool) -> None:
    """The rate does not depend on when a sample of the same kind was last taken.

    Seen with memset over freed pages: 1.2 million pages/s counted as 88,000, because the last plain sample
    was 8 s old, and the crossing was noticed 200 ms late.
    """
    schedule = SamplingSchedule(PARAMETERS)
    for second, is_exact in enumerate([False, True]):
        schedule.update(second, Figures(TOTAL_PAGES, 1000, 0), 10, pcp_pages=0 if is_exact else None)
    schedule.update(9.0, Figures(TOTAL_PAGES, 1000, 0), 10, pcp_pages=0 if first_is_exact else None)
    moved = Figures(TOTAL_PAGES, 6000, 0)
    interval = schedule.update(10.0, moved, 10, 1200, pcp_pages=None if first_is_exact else 0)
    assert interval.rate_pages_s == 5000
    assert interval.back_off_s == UPDATE_S
    assert interval.timer_s < UPDATE_S


def test_a_restart_never_slows_down() -> None:
    schedule = SamplingSchedule(PARAMETERS)
    interval = schedule.update(0.0, Figures(TOTAL_PAGES, 0, 0), 1)
    interval = schedule.update(1.0, Figures(TOTAL_PAGES, 2000, 0), 1, 1)
    assert interval.timer_s == EARLY_S
    interval = schedule.restart(interval)
    assert interval.timer_s == EARLY_S
