# SPDX-License-Identifier: MIT
"""Which warnings ``memnotify lowmem-bus`` sends: not too many, and not too late."""

import math

from hypothesis import given
from support import strategies

from memnotify.cli.lowmem_bus.levels import WarningLimiter
from memnotify.client import Change, Pages

LOW, MEDIUM, CRITICAL = 50, 100, 255
INTERVAL_S = 15.0


def _move(limiter: WarningLimiter, level: int, *, up: bool, name: str = "used") -> None:
    limiter.note(level, [Change(name, Pages(1000), up=up)])


def test_what_is_reached_is_warned_of_once_and_at_once() -> None:
    limiter = WarningLimiter(INTERVAL_S)
    assert limiter.wait_s(0) is None
    _move(limiter, MEDIUM, up=True)
    assert limiter.wait_s(0) == 0
    assert limiter.take(0) == MEDIUM
    assert limiter.take(0) is None
    assert limiter.wait_s(0) is None


def test_two_levels_at_once_make_one_warning() -> None:
    limiter = WarningLimiter(INTERVAL_S)
    for level in (CRITICAL, LOW, MEDIUM):
        _move(limiter, level, up=True)
    assert limiter.take(0) == CRITICAL
    assert limiter.wait_s(0) is None


def test_a_more_severe_level_is_not_delayed() -> None:
    limiter = WarningLimiter(INTERVAL_S)
    _move(limiter, MEDIUM, up=True)
    assert limiter.take(100) == MEDIUM
    _move(limiter, MEDIUM, up=False)
    _move(limiter, MEDIUM, up=True)
    assert limiter.take(103) is None
    assert limiter.wait_s(103) == 12
    _move(limiter, CRITICAL, up=True)
    assert limiter.take(104) == CRITICAL
    assert limiter.wait_s(104) is None


def test_what_has_gone_back_is_forgotten() -> None:
    limiter = WarningLimiter(INTERVAL_S)
    _move(limiter, LOW, up=True)
    assert limiter.take(0) == LOW
    _move(limiter, LOW, up=False)
    _move(limiter, LOW, up=True)
    _move(limiter, LOW, up=False)
    assert limiter.wait_s(1) is None
    # A level holds as long as one of its figures does.
    for name in ("used", "active"):
        _move(limiter, LOW, up=True, name=name)
    _move(limiter, LOW, up=False, name="used")
    assert limiter.take(INTERVAL_S) == LOW


def test_what_holds_at_the_start_waits_for_listeners() -> None:
    limiter = WarningLimiter(INTERVAL_S)
    limiter.hold(0, 1)
    assert limiter.wait_s(0) is None
    for level in (LOW, MEDIUM):
        _move(limiter, level, up=True)
    limiter.hold(0, 1)
    assert limiter.take(0) is None
    assert limiter.wait_s(0) == 1
    _move(limiter, CRITICAL, up=True)  # more severe: at once
    assert limiter.take(0.5) == CRITICAL


def test_what_holds_at_the_start_and_still_then_is_warned_of() -> None:
    for holds in (True, False):
        limiter = WarningLimiter(INTERVAL_S)
        _move(limiter, MEDIUM, up=True)
        limiter.hold(0, 1)
        if not holds:
            _move(limiter, MEDIUM, up=False)
        assert limiter.take(1) == (MEDIUM if holds else None)


@given(strategies.level_moves((LOW, MEDIUM, CRITICAL)))
def test_not_too_many_and_not_too_late(moves: list[tuple[float, int]]) -> None:
    """This holds for any order in which levels are reached and left."""
    limiter = WarningLimiter(INTERVAL_S)
    now_s = 0.0
    above: dict[int, float] = {}  # and the time since then
    sent: list[tuple[float, int]] = []

    def send() -> None:
        level = limiter.take(now_s)
        if level is not None:
            assert level in above
            sent.append((now_s, level))

    for pause_s, level in [*moves, (2 * INTERVAL_S, LOW)]:
        end_s = now_s + pause_s
        while (wait_s := limiter.wait_s(now_s)) is not None and now_s + wait_s <= end_s:
            assert wait_s > 0
            now_s += wait_s
            send()
        now_s = end_s
        # A level that has held for longer than the interval was sent, or a more severe one.
        for held, since_s in above.items():
            if now_s - since_s > INTERVAL_S:
                assert any(when_s >= since_s and told >= held for when_s, told in sent)
        if level in above:
            del above[level]
        else:
            above[level] = now_s
        _move(limiter, level, up=level in above)
        send()
    last_s, gravest = -math.inf, 0
    for when_s, told in sent:
        assert when_s >= last_s + INTERVAL_S - 1e-6 or told > gravest
        last_s, gravest = when_s, told
