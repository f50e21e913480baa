# SPDX-License-Identifier: MIT
"""Random walks of a memory with 1,000 thresholds: no event is lost, invented or late.

MEMNOTIFY_WALKS sets how many; the seed of each is its number.
"""

import bisect
import itertools
import os
import random

import pytest
from support.bench import sampling
from support.fakes import WIDE
from support.levels import levels
from support.simulation import STEP_S, Curve, Simulation

WALKS = int(os.environ.get("MEMNOTIFY_WALKS", "10"))
THRESHOLDS = 1000
RATE_PAGES_S = 1000.0
UPDATE_S = 0.25
# A step of the curve is as exactly as the truth is known.
BOUND_STEPS = round(UPDATE_S / STEP_S) + 2
BOUND_S = BOUND_STEPS * STEP_S
SPAN_PAGES = 20_000


def walk(chance: random.Random) -> Curve:
    """Return up to a minute of stretches that rise, fall or rest, none faster than the rate."""
    moves = [
        (
            chance.choice([-1.0, 0.0, 0.0, 1.0]) * chance.choice([1.0, chance.random()]),
            chance.randrange(1, 1000),
        )
        for _ in range(24)
    ]
    steps = [(share * RATE_PAGES_S * STEP_S, count) for share, count in moves]
    # Long enough in the end for what must be noticed.
    return Curve(
        chance.randrange(SPAN_PAGES),
        [*steps, (0.0, 2 * round(UPDATE_S / STEP_S))],
        churn=chance.choice([0.0, 1.0]),
        lists_pages=chance.choice([0, 200, 5000]),
    )


def crossings(curve: Curve, thresholds: list[int]) -> dict[int, list[float]]:
    """Return when the figure changed sides, for each threshold."""
    levels = sorted(set(thresholds))
    found: dict[int, list[float]] = {level: [] for level in levels}
    for step, (before, after) in enumerate(itertools.pairwise(curve.used), start=1):
        low, high = min(before, after), max(before, after)
        for level in levels[bisect.bisect_right(levels, low) : bisect.bisect_right(levels, high)]:
            found[level].append(step * STEP_S)
    return found


@pytest.mark.parametrize("seed", range(WALKS))
def test_nothing_lost_invented_or_late(seed: int) -> None:
    """Each observer reads when it is woken, and gets each crossing in time."""
    chance = random.Random(seed)  # noqa: S311 - the same walk each time
    curve = walk(chance)
    figure = chance.choice(["used", "available"])
    told: dict[int, list[float]] = {}

    def wake(handles: list[int]) -> None:
        for fh in handles:
            told[fh].append(simulation.clock())
            table.acknowledge(fh)
            table.poll(fh, fh)

    counter = chance.choice([{}, {"least_pages": 50, "share": chance.choice([0.1, 1.0])}])
    parameters = sampling(UPDATE_S, fill_rate_pages_s=RATE_PAGES_S, update_space_kib=1)
    simulation = Simulation(curve, parameters, wake, figure=figure, counter=counter)
    table = simulation.table
    # In a few places, so that the nearest is far away now and then.
    places = [chance.randrange(1, SPAN_PAGES) for _ in range(chance.choice([1, 4, 100]))]
    wanted = [chance.choice(places) + chance.randrange(100) for _ in range(THRESHOLDS)]
    thresholds: dict[int, int] = {}
    for pages in wanted:
        fh = table.open()
        thresholds[fh] = pages
        told[fh] = []
        table.subscribe(fh, levels({WIDE._fields.index(figure): pages}), simulation.sampler.refresh())
        table.poll(fh, fh)
    simulation.run()

    truth = crossings(curve, wanted)
    for fh, pages in thresholds.items():
        # After an odd number of events a client takes the figure to be on the other side than at the start. A
        # crossing and its return within the bound may go unseen; one that lasted longer must be known.
        lasts_s = itertools.pairwise([*truth[pages], curve.end_s + BOUND_S])
        for crossed, (crossed_s, back_s) in enumerate(lasts_s, start=1):
            # In steps: a way back right at the bound was longer by a rounding error (20.525 - 20.265 s).
            if round((back_s - crossed_s) / STEP_S) > BOUND_STEPS:
                assert bisect.bisect_right(told[fh], crossed_s + BOUND_S) % 2 == crossed % 2, "lost or late"
        for previous_s, told_s in itertools.pairwise([0.0, *told[fh]]):
            assert any(previous_s < at <= told_s + 1e-6 for at in truth[pages]), "invented"
