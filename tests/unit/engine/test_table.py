# SPDX-License-Identifier: MIT
"""The table of observers against the model, and its other promises."""

import errno
import itertools
import math
import os
import threading
import tracemalloc
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.fakes import WIDE, FakeClock
from support.levels import levels
from support.model import ModelObserver, understood
from support.strategies import granularities, small_figures, small_thresholds, small_writes
from support.waiting import DEADLINE_S, eventually

from memnotify.abi.figures import Figures
from memnotify.abi.thresholds import parse
from memnotify.engine.observer import NO_HANDLE, HandleBatch, Observer, Threshold, ThresholdIndex
from memnotify.engine.saved_state import NO_PLACE, SavedState
from memnotify.engine.table import Distances, Fingerprint, Limits, ObserverState, ObserverTable, Sample

USED = 1


class Turns:
    """In place of the lock that is free between some thresholds that are armed and others."""

    def __init__(self, table: ObserverTable, serve: Callable[[], object]) -> None:
        self._table, self._serve = table, serve
        self._serving = False

    def __enter__(self) -> None:
        """Call ``serve``, which may use the table, as another thread may."""
        if not self._serving:
            assert not self._table._lock.locked()
            self._serving = True
            self._serve()
            self._serving = False

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class TableMachine(RuleBasedStateMachine):
    """Do the same to a table and the model: events, handles and wake-ups must be equal."""

    observers: Bundle[int] = Bundle("observers")

    def __init__(self) -> None:
        super().__init__()
        self.saved = SavedState.create(len(WIDE._fields))
        self.saved.describe({"figures": WIDE._fields})
        self.table = ObserverTable(len(WIDE._fields), self.saved)
        self.clock = FakeClock(1.0)
        self.figures = WIDE(*(0 for _ in WIDE._fields))
        self.model: dict[int, ModelObserver] = {}
        self.granularity = 0
        self.handles = 0
        self.kept: set[int] = set()
        self.kh: dict[int, int] = {}
        self.shown: tuple[Fingerprint, list[ObserverState]] | None = None

    def sample(self, figures: Figures) -> Sample:
        """Return a sample newer than all before."""
        self.clock.tick(1)
        self.figures = figures
        return Sample(self.clock(), figures, exact=True)

    @initialize(target=observers)
    def begin(self) -> int:
        """Open the first file."""
        return self._open()

    @precondition(lambda self: len(self.model) < 3)
    @rule(target=observers)
    def open(self) -> int:
        """Open a file; only a few, so that much happens to each."""
        return self._open()

    def _open(self) -> int:
        fh = self.table.open()
        assert fh > 0
        assert fh not in self.model
        self.model[fh] = ModelObserver()
        return fh

    @precondition(lambda self: len(self.model) > 1)
    @rule(fh=consumes(observers))
    def close(self, fh: int) -> None:
        """Close a file: its handle is forgotten."""
        self.table.close(fh)
        self.kept.discard(self.model.pop(fh).handle)
        self.kh.pop(fh, None)

    @rule(fh=observers, text=small_writes)
    def subscribe(self, fh: int, text: bytes) -> None:
        """Write thresholds."""
        self.table.subscribe(fh, parse(text, WIDE._fields), Sample(self.clock(), self.figures, exact=True))
        wanted = understood(text, WIDE._fields)
        assert wanted is not None
        self.model[fh].write(wanted, self.figures)

    @rule(fh=observers)
    def unsubscribe(self, fh: int) -> None:
        """Make an empty write."""
        self.subscribe(fh, b"")

    @rule(fh=observers)
    def acknowledge(self, fh: int) -> None:
        """Acknowledge by a poll, which returns no figures."""
        self.table.acknowledge(fh)
        self.model[fh].pending = False

    @rule(fh=observers)
    def read(self, fh: int) -> None:
        """Read the figures that were counted last."""
        assert self.table.acknowledge_read(fh, Sample(self.clock(), self.figures, exact=True))
        self.model[fh].read(self.figures, self.granularity)

    @precondition(lambda self: self.table.event_s > 0)
    @rule(fh=observers, figures=small_figures)
    def read_old_figures(self, fh: int, figures: Figures) -> None:
        """Read figures from before an event: they acknowledge nothing, and newer ones are needed."""
        old = Sample(self.table.event_s - 0.5, figures, exact=True)
        event = self.table.poll(fh, NO_HANDLE)
        assert not (self.table.acknowledge_read(fh, old) and event)

    @rule(fh=observers, figures=small_figures, granularity=granularities)
    def read_again(self, fh: int, figures: Figures, granularity: int) -> None:
        """Read figures that count only after the read."""
        sample = self.sample(figures)
        self.granularity = granularity
        self.table.follow(figures.total, granularity)
        assert self.table.acknowledge_read(fh, sample)
        for observer in self.model.values():
            observer.follow(figures.total, granularity)
        self.model[fh].read(figures, granularity)
        self.count(sample)

    @rule(
        fh=observers,
        text=small_writes,
        samples=st.lists(small_figures, min_size=1, max_size=3),
        granularity=granularities,
        reads=st.booleans(),
    )
    def live(self, *, fh: int, text: bytes, samples: list[Figures], granularity: int, reads: bool) -> None:
        """Do what most clients do: subscribe, wait, perhaps read, wait again."""
        self.subscribe(fh, text)
        self.poll(fh, waits=True)
        self.advance(samples, granularity)
        if reads:
            self.read(fh)
        self.poll(fh, waits=True)
        self.advance(samples, granularity)

    @rule(fh=observers, waits=st.booleans())
    def poll(self, fh: int, *, waits: bool) -> None:
        """Poll, with a handle if the client waits."""
        self.handles += waits
        handle = self.handles if waits else NO_HANDLE
        pending, keeps = self.model[fh].poll(handle)
        assert self.table.poll(fh, handle) == pending
        if keeps:
            self.kept.add(handle)
            self.kh[fh] = handle

    @rule()
    def restart(self) -> None:
        """Let another table take over: it goes on where this one was, and notifies all that may wait."""
        self.saved, description = SavedState.take_over(self.saved.fd)
        assert description == {"figures": list(WIDE._fields)}
        self.table = ObserverTable(len(WIDE._fields), self.saved)
        self.table.follow(self.figures.total, self.granularity)
        sample = self.sample(self.figures)
        pending = self.table.restore(sample)
        for fh, observer in self.model.items():
            observer.handle = NO_HANDLE if observer.pending else self.kh.get(fh, NO_HANDLE)
            for threshold in observer.thresholds.values():
                threshold.arm(self.granularity)
        waiting = {self.kh[fh] for fh, observer in self.model.items() if observer.pending and fh in self.kh}
        assert set(pending) == waiting
        self.kept = {observer.handle for observer in self.model.values()} - {NO_HANDLE}
        self.count(sample)

    @rule(samples=st.lists(small_figures, min_size=1, max_size=6), granularity=granularities)
    def advance(self, samples: list[Figures], granularity: int) -> None:
        """Take samples: each waiting observer that crossed is notified once, and no other."""
        self.granularity = granularity
        for figures in samples:
            self.count(self.sample(figures))
            self.agree()

    @rule(
        fh=observers,
        used=st.lists(st.integers(76, 124), min_size=2, max_size=6),
        granularity=granularities,
        reads=st.lists(st.booleans(), min_size=6, max_size=6),
    )
    def waver(self, fh: int, *, used: list[int], granularity: int, reads: list[bool]) -> None:
        """Move ``used`` alone around the larger thresholds, while a client sometimes reads."""
        for value, told in zip(used, reads, strict=False):
            self.advance([self.figures._replace(used=value)], granularity)
            if told:
                self.read(fh)

    def count(self, sample: Sample) -> None:
        """Count a sample."""
        crossed = self.table.advance(sample, self.granularity)
        assert self.table.latest is sample
        woken = {observer.see(sample.figures, self.granularity) for observer in self.model.values()}
        woken -= {NO_HANDLE}
        assert sorted(_handles(crossed)) == sorted(woken)
        assert woken <= self.kept
        self.kept -= woken
        self.table.rearm(sample, 0)

    @rule(
        figures=small_figures,
        granularity=granularities,
        requests=st.lists(
            st.tuples(
                st.integers(0, 2), st.sampled_from(("poll", "read", "write", "acknowledge")), small_writes
            ),
            max_size=5,
        ),
    )
    def serve_while_arming(
        self, figures: Figures, granularity: int, requests: list[tuple[int, str, bytes]]
    ) -> None:
        """Serve a request each time that the lock is free between two thresholds that are armed."""
        self.granularity = granularity
        waiting = iter(requests)

        def serve() -> None:
            for place, what, text in waiting:
                fh = [*self.model][place % len(self.model)]
                if what == "poll":
                    self.poll(fh, waits=True)
                elif what == "read":
                    self.read(fh)
                elif what == "write":
                    self.subscribe(fh, text)
                else:
                    self.acknowledge(fh)
                return

        self.table._next = Turns(self.table, serve)  # type: ignore[assignment]  # stands for the lock
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("memnotify.engine.table._REARMED_AT_ONCE", 1)
            self.count(self.sample(figures))
        self.table._next = threading.Lock()

    @invariant()
    def agree(self) -> None:
        """Compare events and thresholds of the model and the table."""
        assert len(self.table) == len(self.model)
        for fh, observer in self.model.items():
            assert self.table.poll(fh, NO_HANDLE) == observer.pending
        assert self.table.watching == any(observer.thresholds for observer in self.model.values())
        distances = [
            threshold.distance(self.figures[index])
            for observer in self.model.values()
            for index, threshold in observer.thresholds.items()
        ]
        sample = Sample(self.clock(), self.figures, exact=True, pcp_pages=7)
        assert self.table.rearm(sample, 5).nearest == min(distances, default=math.inf)

    @invariant()
    def fingerprint_tells_a_change(self) -> None:
        """Compare what the status shows with what it showed before at the same fingerprint."""
        fhs = [*self.model]
        shown = self.table.fingerprint(fhs), self.table.describe(fhs)
        if self.shown is not None and self.shown[0] == shown[0]:
            assert self.shown[1] == shown[1]
        self.shown = shown

    def teardown(self) -> None:
        """Close all."""
        for fh in self.model:
            self.table.close(fh)
        assert len(self.table) == 0
        assert not self.table.watching
        os.close(self.saved.fd)


TestTable = TableMachine.TestCase
TestTable.settings = settings(
    max_examples=int(os.environ.get("MEMNOTIFY_EXAMPLES", "40")), stateful_step_count=40
)

# From one threshold's life: what is done, and the figures at which it then must and must not fire.
_LIVES: list[tuple[str, int, int, list[tuple[int, bool]]]] = [
    ("the first event is not damped", 4, 100, [(99, False), (100, True)]),
    ("nor is the first one down", 4, 100, [(101, False), (100, False), (99, True)]),
    # up at 101: down below min(100, 101 + 1 - 4) = 98
    ("down damped", 4, 100, [(50, False), (101, True), (99, False), (98, False), (97, True)]),
    # up at 110: min(100, 107) = 100
    ("down after a jump", 4, 100, [(50, False), (110, True), (100, False), (99, True)]),
    # down at 99: up from max(100, 99 + 4) = 103
    ("up damped", 4, 100, [(100, False), (99, True), (100, False), (102, False), (103, True)]),
    ("up after a jump", 4, 100, [(150, False), (50, True), (99, False), (100, True)]),
    ("no granularity", 0, 100, [(99, False), (100, True), (99, True), (100, True), (100, False)]),
    ("of one page", 1, 100, [(99, False), (100, True), (99, True), (100, True), (99, True)]),
    # An eighth of 5 pages is none
    ("a small threshold", 10, 5, [(0, False), (5, True), (4, True), (5, True), (0, True)]),
    # An eighth of 17 is 2: below 17 + 1 - 2, then from 15 + 2
    ("by an eighth", 10, 17, [(0, False), (17, True), (16, False), (15, True), (16, False), (17, True)]),
]


@pytest.mark.parametrize(
    ("granularity", "pages", "life"), [life[1:] for life in _LIVES], ids=[life[0] for life in _LIVES]
)
def test_levels_by_hand(granularity: int, pages: int, life: list[tuple[int, bool]]) -> None:
    """The contract's levels, computed by hand; the first figures are those of the write."""
    table = ObserverTable()
    fh = table.open()
    (first, _), *rest = life
    table.subscribe(fh, levels({USED: pages}), Sample(0.0, Figures(0, first, 0), exact=True))
    for moment, (used, fires) in enumerate(rest, start=1):
        sample = Sample(float(moment), Figures(0, used, 0), exact=True)
        table.advance(sample, granularity)
        table.rearm(sample, 0)
        assert table.poll(fh, NO_HANDLE) == fires, f"at {used}"
        table.acknowledge(fh)


@pytest.mark.parametrize(
    "call",
    [
        lambda table, fh: table.close(fh),
        lambda table, fh: table.acknowledge(fh),
        lambda table, fh: table.poll(fh, 1),
        lambda table, fh: table.subscribe(fh, levels({USED: 1}), table.latest),
    ],
)
def test_an_unknown_fh(call: Callable[[ObserverTable, int], Any]) -> None:
    """A fh that was never open or is closed is a KeyError, and nothing is left behind."""
    table = ObserverTable()
    closed = table.open()
    table.close(closed)
    for fh in (closed, 0, 7, -1, 2**64 - 1):
        with pytest.raises(KeyError):
            call(table, fh)
    assert not table.watching
    assert table.open() not in {closed, 0}


def _handles(batches: Iterable[HandleBatch]) -> list[int]:
    """Return the handles to notify, of all batches."""
    return [handle for batch in batches for handle in batch.handles[: batch.count]]


def test_each_thread_has_its_own_handles() -> None:
    """Observers of two serving threads that cross at once are in two batches, each with its own notify."""
    table = ObserverTable()
    second = table.add_batch(lambda *_: None)
    for handle, batch in ((7, None), (3, second), (9, None), (5, second)):
        fh = table.open(batch)
        table.subscribe(fh, levels({USED: 10}), Sample(0.0, Figures(0, 0, 0), exact=True))
        table.poll(fh, handle)
    crossed = table.advance(Sample(1.0, Figures(0, 20, 0), exact=True), 0)
    assert [sorted(_handles([batch])) for batch in crossed[:2]] == [[7, 9], [3, 5]]
    assert [batch.notify is None for batch in crossed] == [True, False, True]
    crossed = table.advance(Sample(2.0, Figures(0, 30, 0), exact=True), 0)
    assert _handles(crossed) == []


def test_one_wake_up_for_many_thresholds() -> None:
    """An observer that crosses with all its thresholds at once is woken once."""
    table = ObserverTable()
    fh = table.open()
    table.subscribe(fh, levels({0: 10, 1: 10, 2: 10}), Sample(0.0, Figures(0, 0, 0), exact=True))
    assert not table.poll(fh, 77)
    crossed = table.advance(Sample(1.0, Figures(10, 10, 10), exact=True), 0)
    assert _handles(crossed) == [77]


@given(
    st.lists(st.tuples(small_thresholds, small_figures, small_figures), min_size=1, max_size=4),
    granularities,
    small_figures,
    st.data(),
)
def test_decided_without_the_per_cpu_lists(
    steps: list[tuple[dict[int, int], Figures, Figures]],
    granularity: int,
    plain: Figures,
    data: st.DataObject,
) -> None:
    """If the table needs no exact figures, all possible exact ones cause the same events."""

    def build() -> tuple[ObserverTable, list[int]]:
        table, opened = ObserverTable(len(WIDE._fields)), []
        for moment, (thresholds, at, then) in enumerate(steps):
            opened.append(table.open())
            table.subscribe(opened[-1], levels(thresholds), Sample(moment, at, exact=True))
            sample = Sample(moment, then, exact=True)
            table.advance(sample, granularity)
            table.rearm(sample, 0)
        for fh in opened:
            table.acknowledge(fh)
        return table, opened

    def events(figures: Figures) -> list[bool]:
        table, opened = build()
        table.advance(Sample(100, figures, exact=True), 0)
        return [table.poll(fh, NO_HANDLE) for fh in opened]

    exact = plain._replace(used=data.draw(st.integers(0, plain.used)))
    limit_pages = data.draw(st.integers(plain.used - exact.used, plain.used + 3))
    if not build()[0].needs_exact_figures(plain, limit_pages):
        assert events(exact) == events(plain)


def test_written_between_the_question_and_a_plain_sample() -> None:
    """The sample's ``used`` is an upper bound, which reaches a threshold that the figure does not."""
    table = ObserverTable()
    fh, other = table.open(), table.open()
    exact = Sample(0.0, Figures(100, 5, 0), exact=True)
    table.subscribe(other, levels({2: 30}), exact)
    plain = Sample(1.0, Figures(100, 12, 40), exact=False)
    assert not table.needs_exact_figures(plain.figures, 7)
    table.subscribe(fh, levels({USED: 10}), exact)
    table.advance(plain, 0)
    assert table.rearm(plain, 7).nearest <= 0
    assert [table.poll(each, NO_HANDLE) for each in (fh, other)] == [False, True]
    assert table.needs_exact_figures(plain.figures, 7)


@pytest.mark.parametrize(
    ("threshold", "at", "plain", "limit", "needs_exact_figures"),
    [
        # Armed up: only where the plain figure alone would be an event
        (10, 5, 9, 50, False),
        (10, 5, 10, 50, True),
        (10, 5, 60, 1, True),
        # Armed down: only where what may lie on the lists would bring it below
        (10, 15, 50, 40, False),
        (10, 15, 50, 41, True),
        (10, 10, 10, 0, False),
        (10, 10, 10, 1, True),
    ],
)
def test_when_the_per_cpu_lists_matter(
    threshold: int, at: int, plain: int, limit: int, *, needs_exact_figures: bool
) -> None:
    """Only a threshold on used between the lowest possible and the plain figure needs an exact reading."""
    table = ObserverTable()
    fh = table.open()
    table.subscribe(fh, levels({USED: threshold, 0: 1, 2: 1}), Sample(0, Figures(9, at, 0), exact=True))
    assert table.needs_exact_figures(Figures(9, plain, 9), limit) is needs_exact_figures


def a_threshold(pages: int) -> Threshold:
    """Return a threshold that is armed nowhere."""
    return Threshold(Observer(NO_PLACE), levels({USED: pages})[USED], 0)


def pop_all(index: ThresholdIndex, value: int) -> list[Threshold]:
    """Take out and return every threshold that fires at ``value`` pages."""
    fired = []
    while (threshold := index.pop_reached(value)) is not None:
        while threshold is not None:
            fired.append(threshold)
            threshold.previous, threshold.following, threshold = None, None, threshold.following
    return fired


@pytest.mark.parametrize("sign", [1, -1])
def test_levels_do_not_pile_up(sign: int) -> None:
    """A client that writes new thresholds again and again makes the table no larger."""
    index = ThresholdIndex(USED, sign)
    staying, moving = a_threshold(1), a_threshold(1)
    index.arm(staying, 10**9)
    most = 0
    for key in range(100_000):
        index.arm(moving, key)
        index.disarm(moving)
        most = max(most, len(index._keys))
    assert most <= 20
    assert not index.has_reached(sign * (10**9 - 1))
    # Each key of before is as good as new, the one that waits for a sweep too.
    for key in (0, 5, 99_998, 99_999):
        index.arm(moving, key)
        assert pop_all(index, sign * key) == [moving]
        assert not index.has_reached(sign * (10**9 - 1))
    assert pop_all(index, sign * 10**9) == [staying]
    assert not index.has_reached(sign * 10**9)


@given(
    # Two of three go again, and their keys are more than wait for a sweep.
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from((True, False, False))), max_size=100),
    st.lists(st.integers(0, 60), min_size=1, max_size=3),
)
def test_levels_fire_in_order_and_whole(arming: list[tuple[int, bool]], values: list[int]) -> None:
    """An armed threshold fires once when its level is reached, however many share the level."""
    index = ThresholdIndex(USED, 1)
    armed = set()
    for key, stays in arming:
        threshold = a_threshold(key)
        index.arm(threshold, key)
        if stays:
            armed.add(threshold)
        else:
            index.disarm(threshold)
    for value in values:
        due = {threshold for threshold in armed if threshold.pages <= value}
        assert index.has_reached(value) == bool(due)
        fired = pop_all(index, value)
        assert sorted(map(id, fired)) == sorted(map(id, due))
        assert fired == sorted(fired, key=lambda threshold: threshold.pages)
        armed -= due
    assert set(pop_all(index, 10**9)) == armed


def test_watching_while_a_threshold_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any thread may ask, also while the only threshold is between two directions."""
    table, arm, seen = ObserverTable(), ThresholdIndex.arm, []
    there = Sample(1, Figures(0, 5, 0), exact=True)

    def arm_and_ask(levels: ThresholdIndex, threshold: Threshold, key: int) -> None:
        seen.append(table.watching)
        arm(levels, threshold, key)

    table.subscribe(table.open(), levels({USED: 5}), Sample(0, Figures(0, 0, 0), exact=True))
    monkeypatch.setattr(ThresholdIndex, "arm", arm_and_ask)
    table.advance(there, 0)
    seen.append(table.watching)
    table.rearm(there, 0)
    assert seen == [True, True]


def test_the_lock_is_given_back_while_many_are_armed() -> None:
    """Polls and reads need not wait until all thresholds that fired are armed."""
    table = ObserverTable()
    armed: list[int] = []
    sample = Sample(1, Figures(0, 5, 0), exact=True)
    for _ in range(1000):
        table.subscribe(table.open(), levels({USED: 5}), Sample(0, Figures(0, 0, 0), exact=True))
    count = {each.above: each for each in table.threshold_counts() if each.figure == USED}
    assert count[False].armed == 1000

    def note() -> None:
        armed.extend(each.armed for each in table.threshold_counts() if each.figure == USED and each.above)

    table._next = Turns(table, note)  # type: ignore[assignment]  # stands for the lock
    table.advance(sample, 0)
    table.rearm(sample, 0)
    note()
    assert armed[0] == 0
    assert armed[-1] == 1000
    assert all(0 < then - before <= 64 for before, then in itertools.pairwise(armed))


@pytest.mark.parametrize(
    "ask",
    [
        lambda table, fh: table.poll(fh, 7),
        lambda table, fh: table.acknowledge_read(fh, table.latest),
        lambda table, fh: table.acknowledge_group_read(fh, table.latest),
    ],
    ids=["poll", "read", "read with a cgroup"],
)
def test_the_sampler_does_not_overtake(ask: Callable[[ObserverTable, int], object]) -> None:
    """A poll or read that waits for the table gets it before the sampler goes on."""
    table = ObserverTable()
    thread = threading.Thread(target=ask, args=(table, table.open()))
    table._arming = True
    with table._lock:
        thread.start()
        eventually(table._next.locked, "the request waits for its turn")
    thread.join(DEADLINE_S)
    assert not table._next.locked()


def test_a_poll_that_does_not_wait_takes_no_lock() -> None:
    table = ObserverTable()
    fh = table.open()
    with table._lock:
        asked = threading.Thread(target=table.poll, args=(fh, NO_HANDLE), daemon=True)
        asked.start()
        asked.join(DEADLINE_S)
        assert not asked.is_alive()


def between(table: ObserverTable, fh: int, then: Callable[[], Any]) -> Distances:
    """Let the observer's threshold of 10 fire at 20, and call a function before it is armed again."""
    sample = Sample(1.0, Figures(0, 20, 0), exact=True)
    table.subscribe(fh, levels({USED: 10}), Sample(0.0, Figures(0, 0, 0), exact=True))
    table.advance(sample, 0)
    then()
    return table.rearm(sample, 0)


def test_written_between_firing_and_arming() -> None:
    """A threshold that has just fired can be replaced; the old one is gone."""
    table = ObserverTable()
    fh = table.open()
    at = Sample(1.0, Figures(0, 20, 0), exact=True)
    distances = between(table, fh, lambda: table.subscribe(fh, levels({USED: 30}), at))
    assert distances == (10, 10, math.inf, math.inf)
    table.advance(Sample(2.0, Figures(0, 5, 0), exact=True), 0)
    assert not table.poll(fh, NO_HANDLE)
    table.advance(Sample(3.0, Figures(0, 30, 0), exact=True), 0)
    assert table.poll(fh, NO_HANDLE)


def test_closed_between_firing_and_arming() -> None:
    """The threshold of a closed observer is not armed again."""
    table = ObserverTable()
    fh = table.open()
    assert between(table, fh, lambda: table.close(fh)).nearest == math.inf
    assert not table.watching


def test_opened_while_others_are_notified() -> None:
    """The handles that the sampler holds do not change, however many files are opened meanwhile."""
    table = ObserverTable()
    fh = table.open()
    table.subscribe(fh, levels({USED: 10}), Sample(0.0, Figures(0, 0, 0), exact=True))
    table.poll(fh, 7)
    crossed = table.advance(Sample(1.0, Figures(0, 20, 0), exact=True), 0)
    with memoryview(crossed[0].handles):  # as C has it: an array that is looked into cannot be made longer
        for _ in range(1000):
            table.open()
        assert _handles(crossed) == [7]


def test_nothing_is_allocated_for_each_notified_observer() -> None:
    """Notifying 10,000 observers, each with its own level, takes no more memory than notifying one."""
    taken = []
    for number in (1, 10_000):
        tracemalloc.start(1)
        table = ObserverTable()
        for handle in range(1, number + 1):
            fh = table.open()
            table.subscribe(fh, levels({USED: handle}), Sample(0.0, Figures(0, 0, 0), exact=True))
            table.poll(fh, handle)
        sample = Sample(1.0, Figures(0, number, 0), exact=True)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        crossed = table.advance(sample, 0)
        taken.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
        assert sorted(_handles(crossed)) == list(range(1, number + 1))
    assert taken[1] <= taken[0] + 1000


def test_a_user_has_so_many_observers_and_no_more() -> None:
    """Another user and root are not concerned, and a place that was given back is there again."""
    table = ObserverTable()
    table.limits = Limits(observers=9, observers_per_user=3)
    first, *_ = [table.open(opener=7 << 32 | 1000) for _ in range(3)]
    with pytest.raises(OSError, match="max_observers_per_user") as caught:
        table.open(opener=7 << 32 | 1000)
    assert caught.value.errno == errno.EMFILE
    for uid in (1001, 0, 0, 0, 0):
        table.open(opener=7 << 32 | uid)
    table.close(first)
    table.open(opener=7 << 32 | 1000)
    table.open(opener=7 << 32 | 0)
    with pytest.raises(OSError, match="max_observers") as caught:
        table.open(opener=7 << 32 | 0)
    assert caught.value.errno == errno.ENOSPC
    for fh in table.fhs():
        table.close(fh)
    assert table._owned == {}


def test_a_user_with_many_observers_is_notified_last() -> None:
    """Its first 64 are as those of other users; the rest comes after those of all users and of the socket."""
    table = ObserverTable()
    notified: list[int] = []
    other = table.add_batch(lambda handles, count: notified.extend(handles[:count]))
    sample = Sample(1.0, Figures(100, 10, 0), exact=True)
    table.advance(sample, 0)
    table.rearm(sample, 0)
    opened = [(table.open(opener=1000), 1000) for _ in range(200)]
    opened += [(table.open(opener=1001), 1001), (table.open(other, opener=1002), 1002), (table.open(), 0)]
    for fh, uid in opened:
        table.subscribe(fh, levels({USED: 50}), sample)
        table.poll(fh, uid + 1)
    batches = table.advance(Sample(2.0, Figures(100, 60, 0), exact=True), 0)
    own, sockets, late = [sorted(batch.handles[: batch.count]) for batch in batches]
    assert own == [1, *[1001] * 64, 1002]
    assert sockets == [1003]
    assert late == [1001] * 136
    for fh, _ in opened:
        table.close(fh)
    assert [batch.observers for batch in batches] == [0, 0, 0]


def test_a_release_allocates_nothing_and_what_it_leaves_is_let_go_of() -> None:
    """6,000 releases take no more memory than one, and compact() lets go of what the observers took.

    CPython keeps 2,000 tuples of each length that were freed.
    """
    tracemalloc.start(1)
    table = ObserverTable()
    before, _ = tracemalloc.get_traced_memory()
    fhs = array("q")
    for number in range(6_000):
        fhs.append(fh := table.open())
        wanted = levels({0: 100 + number, USED: 1 + number, 2: 50})
        table.subscribe(fh, wanted, Sample(0.0, Figures(200, 20, 0), exact=True))
    opened, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for fh in fhs:
        table.close(fh)
    assert tracemalloc.get_traced_memory()[1] - opened <= 1000
    assert table.sparse
    table.compact()
    assert not table.sparse
    closed, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert closed - before <= (opened - before) // 10


def test_what_the_last_observers_keep_is_let_go_of() -> None:
    """Few are left at a compaction, but in the last slots, so the saved state stays as large as before."""
    table = ObserverTable()
    fhs = [table.open() for _ in range(6_000)]
    for fh in fhs[:5_500]:
        table.close(fh)
    table.compact()
    kept = len(table._saved.words)
    assert not table.sparse
    for fh in fhs[5_500:]:
        table.close(fh)
    assert table.sparse
    table.compact()
    assert len(table._saved.words) <= kept / 4
    assert not table.sparse


@given(
    st.lists(small_thresholds, min_size=1, max_size=3),
    small_figures,
    st.none() | st.integers(0, 12),
    st.integers(0, 12),
)
def test_distances(
    writes: list[dict[int, int]], there: Figures, pcp_pages: int | None, limit_pages: int
) -> None:
    """Each distance is the least movement that fires a threshold of its kind."""
    table = ObserverTable(len(WIDE._fields))
    sample = Sample(0.0, there, exact=pcp_pages is not None, pcp_pages=pcp_pages or 0)
    for thresholds in writes:
        table.subscribe(table.open(), levels(thresholds), sample)
    wanted = [pages for thresholds in writes for pages in thresholds.items()]
    rising = [pages - there[USED] for index, pages in wanted if index == USED and pages > there[USED]]
    falling = [there[USED] + 1 - pages for index, pages in wanted if index == USED and pages <= there[USED]]
    other = [abs(pages - there[index]) + (there[index] >= pages) for index, pages in wanted if index != USED]
    assert table.rearm(sample, limit_pages) == (
        min(rising, default=math.inf),
        min(rising, default=math.inf) - sample.pcp_pages,
        min(falling, default=math.inf) - (0 if sample.exact else limit_pages),
        min(other, default=math.inf),
    )


def test_a_change_of_thresholds_is_reported() -> None:
    """The table reports each write, and that the last threshold went, but no close that changes nothing."""
    table, at = ObserverTable(), Sample(0.0, Figures(0, 0, 0), exact=True)
    watching: list[bool] = []
    table.on_thresholds_changed = lambda: watching.append(table.watching)
    first, second, third = table.open(), table.open(), table.open()
    assert watching == []
    table.subscribe(first, levels({USED: 5}), at)
    table.subscribe(second, levels({USED: 5}), at)
    assert watching == [True, True]
    table.close(third)
    table.close(first)
    assert watching == [True, True]
    table.close(second)
    table.subscribe(table.open(), {}, at)
    assert watching == [True, True, False, False]
