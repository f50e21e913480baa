# SPDX-License-Identifier: MIT
"""The grammar of a write: the bytes a client writes become thresholds in pages."""

import re
from collections.abc import Sequence

from memnotify.abi.figures import PAGE_SIZE, TOTAL, Figures

WRITE_MAX = 4096
"""Bytes; a longer write is refused."""
VALUE_MAX = 2**63 - 1
"""The largest value, in pages as well as in the client's own unit."""

Thresholds = dict[int, int]
"""Thresholds in pages by the figure's index in the line; what is not watched is not there."""

_UNITS = {unit: 1024**power for power, unit in enumerate((b"K", b"M", b"G", b"T"), start=1)}
# Blanks are C's isspace(), as a client's printf may end or wrap its lines.
_PAIR = re.compile(rb"\s*([^\s=]+)(?:\s*=\s*|\s+|$)([^\s=]*)")
_VALUE = re.compile(rb"([0-9]+)(?:(\.[0-9]+)?([%KMGT]))?")


def parse(text: bytes, figures: Figures) -> Thresholds:
    """Return the thresholds that ``text`` asks for; an empty result watches nothing.

    ``figures`` gives the names there are, and the total that a value in percent refers to. Raises
    ValueError, with what was not understood, and then nothing of the write holds.
    """
    if len(text) > WRITE_MAX:
        raise ValueError(f"{len(text)} bytes written, at most {WRITE_MAX} are read")
    text = text.rstrip(b"\0").strip()
    thresholds: Thresholds = {}
    position = 0
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            raise ValueError(f"a name was expected at {_show(text[position:])}")
        name, value = pair.groups()
        index = _index(name, figures._fields)
        pages = _pages(name, value, figures[TOTAL])
        if thresholds.setdefault(index, pages) != pages:
            raise ValueError(f"{_show(name)} is given twice, as {thresholds[index]} and as {pages} pages")
        position = pair.end()
    return {index: pages for index, pages in thresholds.items() if pages}


def _index(name: bytes, names: Sequence[str]) -> int:
    try:
        return names.index(name.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        raise ValueError(f"unknown name {_show(name)}; the names are {', '.join(names)}") from None


def _pages(name: bytes, text: bytes, total_pages: int) -> int:
    value = _VALUE.fullmatch(text)
    if value is None:
        if not text:
            raise ValueError(f"{_show(name)} has no number")
        raise ValueError(
            f"{_show(text)} is no value for {_show(name)};"
            " write pages (5000), percent of total (80%) or K, M, G, T (1.5G)"
        )
    whole, fraction, unit = value.groups()
    if unit is None:
        pages = int(whole)
    else:
        # In integers, as a float has 53 bits for a value that may have 63: 1.5G is 15 * 1 GiB / 10 / page.
        decimals = (fraction or b".")[1:]
        numerator, denominator = (total_pages, 100) if unit == b"%" else (_UNITS[unit], PAGE_SIZE)
        numerator *= int(whole + decimals)
        denominator *= 10 ** len(decimals)
        pages = (2 * numerator + denominator) // (2 * denominator)
    if pages > VALUE_MAX or int(whole) > VALUE_MAX:
        raise ValueError(f"{_show(text)} for {_show(name)} is more than {VALUE_MAX} pages")
    return pages


def _show(text: bytes) -> str:
    """Quote a client's bytes for the log: printable, and 60 of them at the most."""
    return repr(text[:60])[1:] + ("..." if len(text) > 60 else "")
