# SPDX-License-Identifier: MIT
"""The grammar of a write: the contract's table, and properties that hold for any bytes."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.fakes import WIDE
from support.levels import in_pages
from support.model import nearest, understood_pages
from support.strategies import (
    Measure,
    damaged_thresholds,
    figures,
    measures,
    nonsense,
    spelled_thresholds,
)

from memnotify.abi.figures import PAGE_SIZE, Figures
from memnotify.abi.thresholds import PAIRS_MAX, WRITE_MAX, Level, parse

TOTAL, USED, ACTIVE = range(3)
NOW = Figures(total=10_000, used=5_000, active=2_000)
MIB, GIB = 2**20 // PAGE_SIZE, 2**30 // PAGE_SIZE
MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # The contract's table
        (b"used 5000", {USED: 5000}),
        (b"active 8000 used 16000", {ACTIVE: 8000, USED: 16000}),
        (b"used 5000\n", {USED: 5000}),
        (b"used 5000\0", {USED: 5000}),
        (b"used=5000", {USED: 5000}),
        (b"used 0", {}),
        (b"", {}),
        # Blanks, ends and the equals sign
        (b"\n", {}),
        (b"\0", {}),
        (b" \t\v\f\r\n", {}),
        (b"used 5000\n\0", {USED: 5000}),
        (b"used 5000\0\0\0", {USED: 5000}),
        (b"\tused\v5000\f\r active\n8000 ", {USED: 5000, ACTIVE: 8000}),
        (b"used =5000", {USED: 5000}),
        (b"used= 5000", {USED: 5000}),
        (b"used \t=\n 5000 active=1", {USED: 5000, ACTIVE: 1}),
        (b"used" + b" " * (WRITE_MAX - 5) + b"5", {USED: 5}),
        # Zeros, all names, one name twice
        (b"used 0 active 0 total 0", {}),
        (b"used 0 active 7", {ACTIVE: 7}),
        (b"total 1 used 2 active 3", {TOTAL: 1, USED: 2, ACTIVE: 3}),
        (b"used 5 active 1 used 5", {USED: 5, ACTIVE: 1}),
        (b"used 0 used 0", {}),
        (b"used 00000000000000000000000000000005", {USED: 5}),
        # The largest
        (b"used %d" % MOST, {USED: MOST}),
        # Units
        (b"used 80%", {USED: 8000}),
        (b"used 0%", {}),
        (b"used 250%", {USED: 25_000}),
        (b"used=12.5%", {USED: 1250}),
        (b"used 1M", {USED: MIB}),
        (b"used 1.5G active 2T", {USED: 3 * GIB // 2, ACTIVE: 2048 * GIB}),
        (b"used %dK" % (PAGE_SIZE // 1024), {USED: 1}),
        (b"used 0.50M used %d" % (MIB // 2), {USED: MIB // 2}),
        (b"used 1M used 1024K used %d" % MIB, {USED: MIB}),
        (b"used 80% used 80.0% used=080%", {USED: 8000}),
        (b"used 0% used 0 used 0K", {}),
        # Half a page is rounded up, in integers
        (b"used 0.015%", {USED: 2}),
        (b"used 0.0149999999999999999999999999999%", {USED: 1}),
        # A level above 0 is at least one page
        (b"used 0.1K", {USED: 1}),
        (b"used 0.0000000000000000000000000000001%", {USED: 1}),
        # Far above any total
        (b"used %d.5%%" % MOST, {USED: MOST}),
    ],
)
def test_understood_pages(text: bytes, wanted: dict[int, int]) -> None:
    """The write is accepted with these thresholds."""
    assert in_pages(parse(text, NOW._fields), NOW.total) == wanted
    assert understood_pages(text, NOW.total) == wanted


@pytest.mark.parametrize(
    "text",
    [
        # The contract's table
        b"used",
        b"total used 5",
        b"used x",
        b"used -5",
        b"used 5000x",
        b"used %d" % (MOST + 1),
        b"foo 5",
        b"USED 5",
        b"unused 7",
        b"used5000",
        b"used 5 active x",
        b"used 5 used 6",
        # The same, spelled otherwise
        b"used=",
        b"used =",
        b"=",
        b"= 5",
        b"5",
        b"5 used",
        b"used==5",
        b"used = = 5",
        b"used 5=6",
        b"used 5 = active 6",
        b"used 5 6",
        b"used +5",
        b"used 0x5",
        b"used 5,active 6",
        b"used 5; active 6",
        b"used:5",
        b"used 1_000",
        b"used 80% used 8000",
        b"used 80% used 80.1%",
        b"used 5 used 0",
        b"used 0 used 5",
        b"used 5e3",
        "used ５".encode(),  # noqa: RUF001 - a digit elsewhere
        b"used \xb2",
        b"us\xe9d 5",
        b"used\xa05",
        # NUL in the middle
        b"used\x005",
        b"used 5\0active 6",
        b"used 5\0\n",
        b"\0used 5",
        # Units
        b"used 1k",
        b"used 1 K",
        b"used K",
        b"used %",
        b"used 1.5",
        b"used .5G",
        b"used 5.G",
        b"used 1.2.3G",
        b"used 1,5G",
        b"used -1%",
        b"used 1GB",
        b"used 1GiB",
        b"used 1P",
        b"used 80%%",
        b"used 99999999999999999999999999999T",
        b"used %dK" % (MOST + 1),
        b"used %d.9K" % (MOST + 1),
        b"used %d.1%%" % (MOST + 1),
        b"used 1%" + b"9" * 4000,
        b"used " + b"9" * 4000,
        b"used 1." + b"9" * 4000,
    ],
)
def test_refused(text: bytes) -> None:
    """The write is refused as a whole, with a readable message."""
    with pytest.raises(ValueError, match=r"^.{8,400}$") as caught:
        parse(text, NOW._fields)
    assert str(caught.value).isprintable()
    assert understood_pages(text, NOW.total) is None


def test_the_longest_write() -> None:
    """A write of 4,096 bytes is accepted, one of 4,097 is refused, whatever bytes they are."""
    assert WRITE_MAX == 4096
    for filling in (b" ", b"\0"):
        assert parse(b"used 5".ljust(4096, filling), NOW._fields) == {USED: Level(5, 1, of_total=False)}
        with pytest.raises(ValueError, match="4097 bytes"):
            parse(b"used 5".ljust(4097, filling), NOW._fields)


def test_the_most_pairs() -> None:
    """A write of 64 pairs is accepted, one of 65 is refused."""
    assert PAIRS_MAX == 64
    assert parse(b"used 5 " * 64, NOW._fields) == {USED: Level(5, 1, of_total=False)}
    with pytest.raises(ValueError, match="more than 64 pairs"):
        parse(b"used 5 " * 65, NOW._fields)


def test_a_percentage_follows_total() -> None:
    """A percentage is another number of pages when total changes; pages and bytes stay as they are."""
    levels = parse(b"used 80% active 1M total 7", NOW._fields)
    assert in_pages(levels, 10_000) == {USED: 8_000, ACTIVE: MIB, TOTAL: 7}
    assert in_pages(levels, 5_000) == {USED: 4_000, ACTIVE: MIB, TOTAL: 7}
    assert in_pages(levels, 0) == {USED: 1, ACTIVE: MIB, TOTAL: 7}


@pytest.mark.parametrize("unit", [b"M", b"G", b"T"])
def test_the_largest_by_units(unit: bytes) -> None:
    """The number is bounded, and so are its pages."""
    pages = Fraction(1024 ** (b"KMGT".index(unit) + 1), PAGE_SIZE)
    most = min(MOST, math.ceil((MOST + 1) / pages) - 1)
    assert parse(b"used %d%s" % (most, unit), NOW._fields)[USED].pages(NOW.total) <= MOST
    with pytest.raises(ValueError, match="more than 9223372036854775807"):
        parse(b"used %d%s" % (most + 1, unit), NOW._fields)


def test_the_number_itself_is_bounded_too() -> None:
    """A number over 2^63-1 is refused, even if it is fewer pages."""
    for unit in (b"K", b"%"):
        assert parse(b"used %d%s" % (MOST, unit), NOW._fields)[USED].pages(NOW.total) <= MOST
        with pytest.raises(ValueError, match="more than 9223372036854775807"):
            parse(b"used %d%s" % (MOST + 1, unit), NOW._fields)


@given(spelled_thresholds())
def test_round_trip(spelled: tuple[bytes, dict[int, int]]) -> None:
    """All spellings of thresholds give the same thresholds."""
    text, meant = spelled
    assert in_pages(parse(text, WIDE._fields), NOW.total) == meant


@given(st.data(), st.one_of(st.integers(0, 10_000), st.integers(0, 2**44)))
def test_units_round_to_the_nearest_page(data: st.DataObject, total: int) -> None:
    """A value with a unit is the nearest page, by exact fractions, half a page up, and at least 1."""
    measure: Measure = data.draw(measures(total))
    pages = max(nearest(measure.pages), 1)
    assert abs(pages - measure.pages) <= (Fraction(1, 2) if measure.pages >= 1 else 1)
    try:
        levels = parse(b"used " + measure.text, NOW._fields)
    except ValueError:
        assert pages > MOST
        assert not measure.text.endswith(b"%")
    else:
        assert in_pages(levels, total) == ({USED: min(pages, MOST)} if measure.number else {})


@given(
    st.one_of(nonsense, spelled_thresholds().map(lambda spelled: spelled[0]), damaged_thresholds()), figures
)
@example(b"used " + b"\xff" * 4000, NOW)
@example(b"\xff" * 4000 + b" 5", NOW)
def test_any_bytes(text: bytes, now: Figures) -> None:
    """Any bytes give the thresholds that the contract says, or a ValueError that can be logged."""
    wanted = understood_pages(text, now.total, now._fields)
    try:
        assert in_pages(parse(text, now._fields), now.total) == wanted
    except ValueError as refusal:
        assert wanted is None
        message = str(refusal)
        assert message.isprintable()
        assert 8 <= len(message) <= 400
