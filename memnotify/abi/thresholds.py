# SPDX-License-Identifier: MIT
"""The grammar of a write: the bytes a client writes become levels of figures. Pure.

The daemon and the client library share it.
"""

import re
from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

from memnotify.abi.figures import PAGE_SIZE

WRITE_MAX = 4096
"""The longest write, in bytes."""
PAIRS_MAX = 64
"""The most pairs of a name and a value in one write."""
VALUE_MAX = 2**63 - 1
"""The largest value, in pages as well as in the client's own unit."""

# Half a page more would round to one above VALUE_MAX.
_TWICE_MAX = 2 * VALUE_MAX + 1
# What a number is multiplied and divided by to become pages, or a part of total.
_SCALES = {None: (1, 1), b"%": (1, 100)} | {
    unit: (1024**power // gcd(1024**power, PAGE_SIZE), PAGE_SIZE // gcd(1024**power, PAGE_SIZE))
    for power, unit in enumerate((b"K", b"M", b"G", b"T"), start=1)
}
# Blanks are those of C's isspace(), as a client's printf may end or wrap its lines.
_PAIR = re.compile(rb"\s*([^\s=]+)(?:\s*=\s*|\s+|$)([^\s=]*)")
_VALUE = re.compile(rb"([0-9]+)(?:(?:\.([0-9]+))?([%KMGT]))?")
_WHOLE_DIGITS_MAX = len(str(VALUE_MAX))
# The rest is cut: no page depends on it, as half a page has 29 digits at most, in T. Integers of 4,000 digits
# would take 0.2 ms.
_FRACTION_DIGITS_MAX = 40


class Level(NamedTuple):
    """A level of a figure: an exact fraction in lowest terms, of a page or of total.

    A percentage depends on total, which may change, so its pages are computed each time they are needed.
    """

    numerator: int
    denominator: int
    of_total: bool

    def pages(self, total_pages: int) -> int:
        """Return the level in pages: the nearest page, half a page up, but 1 for any level above 0."""
        numerator, denominator, of_total = self
        if of_total:
            numerator *= total_pages
        elif denominator == 1:
            return numerator
        if not self.numerator:
            return 0
        pages = (2 * numerator + denominator) // (2 * denominator)
        # Without min() and max(), which take 0.1 us each.
        if pages > VALUE_MAX:
            return VALUE_MAX
        return pages or 1


def parse(text: bytes, names: Sequence[str]) -> dict[int, Level]:
    """Return the levels that ``text`` asks for, by index in ``names``; a level of 0 is left out.

    Raises ValueError, with what was not understood, and then nothing of the write holds.
    """
    if len(text) > WRITE_MAX:
        raise _refused(text, f"it has {len(text)} bytes, at most {WRITE_MAX} are accepted")
    text = text.rstrip(b"\0").strip()
    indexes: dict[bytes, int] = {}
    levels: dict[int, Level] = {}
    # A write may repeat a level 64 times; each costs 1 us here, and 3 us if its value is computed.
    known: dict[tuple[bytes | None, ...], Level] = {}
    position = pairs = 0
    zeros = False
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            raise _refused(text[position:], "a name is expected here")
        pairs += 1
        if pairs > PAIRS_MAX:
            raise _refused(pair[0].strip(), f"there are more than {PAIRS_MAX} pairs of a name and a value")
        name, given = pair.groups()
        value = _VALUE.fullmatch(given)
        if value is None:
            _index(name, names)
            raise _not_a_value(name, given)
        if pairs == 1:
            # Most writes have one pair, so nothing is kept for others.
            index = _index(name, names)
            level = _level(name, given, *value.groups())
        else:
            index = indexes[name] if name in indexes else indexes.setdefault(name, _index(name, names))
            parts = _plain(*value.groups())
            level = known[parts] if parts in known else known.setdefault(parts, _level(name, given, *parts))
        if levels.setdefault(index, level) is not level and levels[index] != level:
            raise _refused(pair[0].strip(), f"{_show(name)} has another threshold already")
        zeros = zeros or not level.numerator
        position = pair.end()
    return {index: level for index, level in levels.items() if level.numerator} if zeros else levels


def _index(name: bytes, names: Sequence[str]) -> int:
    try:
        return names.index(name.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        known = f"the names are {', '.join(names)} (others by 'memnotify serve --figures')"
        raise _refused(name, known) from None


def _not_a_value(name: bytes, given: bytes) -> ValueError:
    hint = "write pages (5000), percent of total (80%) or K, M, G, T (1.5G), such as 'used 80%'"
    return _refused(given or name, f"for {_show(name)} {hint}" if given else hint)


def _plain(
    whole: bytes, fraction: bytes | None, unit: bytes | None
) -> tuple[bytes, bytes | None, bytes | None]:
    """Return the parts of a value without the zeros that mean nothing."""
    return whole.lstrip(b"0") or b"0", fraction and fraction[:_FRACTION_DIGITS_MAX].rstrip(b"0"), unit


def _level(name: bytes, given: bytes, whole: bytes, fraction: bytes | None, unit: bytes | None) -> Level:
    if len(whole) > _WHOLE_DIGITS_MAX:
        whole = whole.lstrip(b"0") or b"0"
        if len(whole) > _WHOLE_DIGITS_MAX:
            raise _too_large(name, given)
    numerator, denominator = _SCALES[unit]
    if fraction:
        fraction = fraction[:_FRACTION_DIGITS_MAX]
        # In integers, as a float has 53 bits for a value that may have 63: 1.5G is 15 * 1 GiB / 10 / page.
        numerator *= int(whole + fraction)
        denominator *= 10 ** len(fraction)
    else:
        numerator *= int(whole)
    of_total = unit == b"%"
    if int(whole) > VALUE_MAX or (not of_total and 2 * numerator >= _TWICE_MAX * denominator):
        raise _too_large(name, given)
    if denominator == 1:
        return Level(numerator, 1, of_total)
    # One form for each value, so that two spellings of one value are equal.
    divisor = gcd(numerator, denominator)
    return Level(numerator // divisor, denominator // divisor, of_total and numerator > 0)


def _too_large(name: bytes, given: bytes) -> ValueError:
    return _refused(given, f"for {_show(name)} it is more than {VALUE_MAX}")


def _refused(text: bytes, hint: str) -> ValueError:
    return ValueError(f"{_show(text)} is not understood: {hint}")


def _show(text: bytes) -> str:
    """Quote a client's bytes for the log: printable, and at most 60 of them."""
    return repr(text[:60])[1:] + ("..." if len(text) > 60 else "")
