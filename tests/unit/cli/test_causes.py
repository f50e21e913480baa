# SPDX-License-Identifier: MIT
"""Which crossings count for ``wait`` and ``run``, and when."""

from memnotify.cli.causes import Causes
from memnotify.client import Change, Figures, Pages

FIGURES = Figures.parse(b"total 1000 used 9 active 9\n")
USED, ACTIVE = Change("used", Pages(8), up=True), Change("active", Pages(8), up=True)
USED_BACK, UNTIL = Change("used", Pages(8), up=False), Change("used", Pages(6), up=False)


def test_each_threshold_counts_for_itself() -> None:
    """A figure that has gone back cancels its own cause only."""
    causes = Causes()
    causes.note((USED, ACTIVE), FIGURES, 0.0, up=True)
    causes.note((Change("active", Pages(8), up=False),), FIGURES, 1.0, up=True)
    assert causes.wait_s(1.0) == 0.0
    assert causes.take_all(1.0) == (USED,)
    assert causes.wait_s(1.0) is None


def test_two_devices_may_have_thresholds_of_one_name() -> None:
    """The way back below one threshold cancels nothing of the other."""
    causes = Causes()
    causes.note((USED,), FIGURES, 0.0, up=True, source=3)
    causes.note((USED,), FIGURES, 0.0, up=True, source=4)
    causes.note((USED_BACK,), FIGURES, 0.0, up=True, source=4)
    assert causes.take_all(0.0) == (USED,)


def test_what_lasts_counts() -> None:
    """A change counts once it has lasted, and not at all if the figure goes back before."""
    causes = Causes(for_s=10.0)
    causes.note((USED,), FIGURES, 0.0, up=True)
    assert causes.take(9.0) is None
    assert causes.wait_s(9.0) == 1.0
    causes.note((USED_BACK,), FIGURES, 9.5, up=True)
    assert causes.wait_s(9.5) is None
    causes.note((USED,), FIGURES, 11.0, up=True)
    assert causes.take(20.9) is None
    assert causes.take_all(21.0) == (USED,)


def test_both_directions_may_count() -> None:
    """A change in the other direction takes the place of the one before."""
    causes = Causes(for_s=10.0)
    causes.note((USED,), FIGURES, 0.0, up=None)
    causes.note((USED_BACK,), FIGURES, 5.0, up=None)
    assert causes.take(10.0) is None
    assert causes.take_all(15.0) == (USED_BACK,)


def test_what_follows_soon_is_left_out() -> None:
    """For a while after a change that counted, further ones are dropped."""
    causes = Causes(quiet_for_s=10.0)
    causes.note((USED,), FIGURES, 0.0, up=True)
    assert causes.take_all(0.0) == (USED,)
    causes.note((USED,), FIGURES, 9.0, up=True)
    assert causes.take(20.0) is None
    causes.note((USED,), FIGURES, 20.0, up=True)
    assert causes.take_all(20.0) == (USED,)


def test_latched_they_alternate() -> None:
    """A cause for ``--when`` waits for one for ``--until``; a pair of which none was taken is not needed."""
    causes = Causes(latched=True)
    causes.note((UNTIL,), FIGURES, 0.0, up=False, source=4)
    assert causes.take(0.0) is None, "it was not on"
    causes.note((USED,), FIGURES, 0.0, up=True, source=3)
    assert causes.take_all(0.0) == (USED,)
    causes.note((USED_BACK, USED), FIGURES, 0.0, up=True, source=3)
    assert causes.take(0.0) is None, "it is on already"
    causes.note((UNTIL,), FIGURES, 0.0, up=False, source=4)
    causes.note((USED,), FIGURES, 0.0, up=True, source=3)
    assert causes.take(0.0) is None, "it is on again, and the command has not heard that it was off"
    causes.note((UNTIL,), FIGURES, 0.0, up=False, source=4)
    assert causes.take_all(0.0) == (UNTIL,)


def test_latched_what_does_not_last_is_as_if_it_had_not_been() -> None:
    """A figure that goes back before its time leaves the latch off."""
    causes = Causes(latched=True, for_s=10.0)
    causes.note((USED,), FIGURES, 0.0, up=True, source=3)
    causes.note((USED_BACK,), FIGURES, 5.0, up=True, source=3)
    causes.note((UNTIL,), FIGURES, 6.0, up=False, source=4)
    assert causes.wait_s(6.0) is None
    causes.note((USED,), FIGURES, 7.0, up=True, source=3)
    assert causes.take_all(17.0) == (USED,)
