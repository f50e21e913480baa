# SPDX-License-Identifier: MIT
"""The saved state: a kill at any moment leaves what another process can go on with."""

import errno
import mmap
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import WIDE
from support.strategies import granularities, small_figures, small_writes

from memnotify.abi.figures import Figures
from memnotify.abi.thresholds import Level, parse
from memnotify.engine.observer import NO_HANDLE
from memnotify.engine.saved_state import Armed, SavedState, SavedStateError
from memnotify.engine.table import Limits, ObserverTable, Sample

FIGURES = len(WIDE._fields)
DESCRIPTION = {"figures": WIDE._fields}
Operation = Callable[[ObserverTable, int], object]


class _KilledError(Exception):
    """The process ends here."""


class _Words:
    """The words of a state; the process is killed instead of a store."""

    def __init__(self, words: Any, stores: int) -> None:
        self._words, self._left = words, stores

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, at: int) -> int:
        return self._words[at]  # type: ignore[no-any-return]

    def __setitem__(self, at: int, word: int) -> None:
        if not self._left:
            raise _KilledError
        self._left -= 1
        self._words[at] = word


@contextmanager
def saved_table() -> Iterator[tuple[ObserverTable, SavedState]]:
    """Give a table and its state, which is complete."""
    saved = SavedState.create(FIGURES)
    saved.describe(DESCRIPTION)
    try:
        yield ObserverTable(FIGURES, saved), saved
    finally:
        os.close(saved.fd)


def restored(fd: int, sample: Sample, granularity: int) -> ObserverTable:
    """Return the table of a process that takes over."""
    saved, _ = SavedState.take_over(fd)
    table = ObserverTable(FIGURES, saved)
    table.follow(sample.figures.total, granularity)
    table.restore(sample)
    count(table, sample, granularity)
    return table


def count(table: ObserverTable, sample: Sample, granularity: int) -> None:
    """Count a sample, as the sampler does."""
    table.advance(sample, granularity)
    table.rearm(sample, 0)


def pending(table: ObserverTable, fhs: list[int]) -> list[bool]:
    """Return which observers have an event."""
    return [table.poll(fh, NO_HANDLE) for fh in fhs]


@given(
    writes=st.lists(small_writes, min_size=2, max_size=4),
    figures=st.lists(small_figures, min_size=3, max_size=6),
    granularity=granularities,
    stores=st.integers(0, 30),
    data=st.data(),
)
def test_killed_before_any_store(
    writes: list[bytes], figures: list[Figures], granularity: int, stores: int, data: st.DataObject
) -> None:
    """The request is sent again; from then on all answers are those of a table that went on."""
    samples = [Sample(float(at), seen, exact=True) for at, seen in enumerate(figures, start=1)]
    number = data.draw(st.integers(1, len(samples) - 2))
    before, newest = samples[number : number + 2]
    operations: list[Operation] = [
        lambda table, fh: table.subscribe(fh, parse(writes[0], WIDE._fields), before),
        lambda table, fh: table.acknowledge_read(fh, before),
        lambda table, fh: table.acknowledge(fh),
        lambda table, fh: table.poll(fh, fh),
        lambda table, _: count(table, newest, granularity),
    ]
    operation = data.draw(st.sampled_from(operations))
    with saved_table() as (table, saved):
        whole = ObserverTable(FIGURES)
        for each in (table, whole):
            fhs = [each.open() for _ in writes]
            count(each, samples[0], granularity)
            for fh, text in zip(fhs, writes, strict=True):
                each.subscribe(fh, parse(text, WIDE._fields), samples[0])
                each.poll(fh, fh)
            for sample in samples[1 : number + 1]:
                count(each, sample, granularity)
        fh = data.draw(st.sampled_from(fhs))
        words = saved.words
        saved.words = _Words(words, stores)  # type: ignore[assignment]  # as far as it is used
        with suppress(_KilledError):
            operation(table, fh)
        saved.words = words
        after = restored(saved.fd, before, granularity)
        operation(after, fh)
        operation(whole, fh)
        assert pending(after, fhs) == pending(whole, fhs)
        for sample in samples[number + 1 :]:
            for each in (after, whole):
                count(each, sample, granularity)
            assert pending(after, fhs) == pending(whole, fhs)
        # What the table says of an observer is what it has saved.
        for record in after._saved.records():
            told = after.record(record.fh)
            assert (told.pending, told.opener, told.group) == record[3:6]
            assert _whole(told.thresholds, after) == _whole(record.thresholds, after)


def _whole(thresholds: list[Armed], table: ObserverTable) -> list[tuple[int, int, int, int]]:
    """Return the thresholds with their levels in pages: a level may be saved to 47 bits only."""
    total = table.latest.figures.total
    return [(figure, level.pages(total), sign, value) for figure, level, sign, value in thresholds]


def test_restored_observers_count_for_their_user() -> None:
    """A restart gives a user no more open files than before."""
    sample = Sample(1.0, WIDE(*(0 for _ in WIDE._fields)), exact=True)
    with saved_table() as (table, saved):
        fhs = [table.open(opener=7 << 32 | 1000) for _ in range(3)]
        after = restored(saved.fd, sample, 0)
        after.limits = Limits(observers=5, observers_per_user=3)
        with pytest.raises(OSError, match="max_observers_per_user") as caught:
            after.open(opener=8 << 32 | 1000)
        assert caught.value.errno == errno.EMFILE
        after.open(opener=9 << 32 | 1001)
        after.close(fhs[0])
        after.open(opener=8 << 32 | 1000)


def test_the_next_process_reuses_no_fh() -> None:
    """Neither of an observer that is closed nor of one that is open."""
    sample = Sample(1.0, WIDE(*(0 for _ in WIDE._fields)), exact=True)
    with saved_table() as (table, saved):
        fhs = [table.open() for _ in range(200)]
        for fh in fhs[::3]:
            table.close(fh)
        after = restored(saved.fd, sample, 0)
        assert len(after) == len(fhs) - len(fhs[::3])
        opened = [after.open() for _ in range(200)]
        assert len({*fhs, *opened}) == 400


def test_memory_of_free_slots_is_given_back() -> None:
    """The observers that are left stay, and no later one gets an fh of before."""
    sample = Sample(1.0, WIDE(*(0 for _ in WIDE._fields)), exact=True)
    with saved_table() as (table, saved):
        fhs = [table.open() for _ in range(5000)]
        table.subscribe(fhs[300], parse(b"used 7", WIDE._fields), sample)
        for fh in (*fhs[:300], *fhs[301:]):
            table.close(fh)
        words = len(saved.words)
        table.compact()
        assert len(saved.words) < words / 5
        assert table.fhs() == [fhs[300]]
        assert os.fstat(saved.fd).st_size == mmap.PAGESIZE + 8 * len(saved.words)
        after = restored(saved.fd, sample, 0)
        (record,) = after._saved.records()
        assert record.fh == fhs[300]
        assert [armed.level.numerator for armed in record.thresholds] == [7]
        opened = [after.open() for _ in range(6000)]
        assert len({*fhs, *opened}) == 11_000


def test_growth_keeps_what_was_saved() -> None:
    """Also where the table goes on in ordinary memory, and no process can take over then."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with saved_table() as (table, saved):
        fhs = [table.open() for _ in range(1000)]
        duplicate = os.dup(saved.fd)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
            fhs += [table.open() for _ in range(5000)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert saved.fd == -1
        assert [record.fh for record in saved.records()] == fhs
        with pytest.raises(SavedStateError):
            SavedState.take_over(duplicate)
        saved.fd = duplicate


@pytest.mark.parametrize("content", [b"", b"x", bytes(8192), b"memntfy\x03" + bytes(8184)])
def test_a_file_of_another_kind_is_refused(content: bytes) -> None:
    """An empty one, a cut one, and another version's."""
    fd = os.memfd_create("test")
    os.write(fd, content)
    with pytest.raises(SavedStateError):
        SavedState.take_over(fd)
    os.close(fd)


def test_a_percentage_with_many_digits_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user that root has become may not be able to read Python's files."""
    monkeypatch.setitem(sys.modules, "fractions", None)
    saved = SavedState(1)
    _, place = saved.open()
    saved.set_thresholds(place, [Armed(0, Level(333_333_333_333_333_333, 10**18, of_total=True), 1, -1)])
    (record,) = saved.records()
    assert record.thresholds[0].level.pages(3 * 10**6) == 10**6


@given(
    numerator=st.integers(1, 2**80),
    denominator=st.integers(1, 2**80),
    of_total=st.booleans(),
    total=st.integers(0, 2**40),
)
def test_a_level_keeps_its_pages(*, numerator: int, denominator: int, of_total: bool, total: int) -> None:
    """To the page, for every amount of memory there is."""
    part = Fraction(numerator, denominator)
    level = Level(part.numerator, part.denominator, of_total)
    if not of_total and part > 2**63 - 1:
        return
    saved = SavedState(1)
    _, place = saved.open()
    saved.set_thresholds(place, [Armed(0, level, -1, 77)])
    (record,) = saved.records()
    (armed,) = record.thresholds
    # Beyond total, no figure reaches it.
    pages, saved_pages = (min(each.pages(total), total + 1) for each in (level, armed.level))
    assert abs(pages - saved_pages) <= (1 if of_total else 0)
    assert armed[2:] == (-1, 77)
