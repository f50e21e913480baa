# SPDX-License-Identifier: MIT
"""Every hypothesis strategy of the tests."""

import struct
from fractions import Fraction
from typing import NamedTuple

from hypothesis import strategies as st
from support import fake_kernel as kernel
from support.fakes import WIDE

from memnotify.abi.figures import PAGE_SIZE, Figures

PAGES_MAX = 2**63 - 1

_INDEXES = st.integers(0, len(WIDE._fields) - 1)

# A memory of few pages, so that figures meet thresholds, levels and each other: of those drawn from
# evenly, half are about to cross.
# Around 100 an eighth of a threshold damps as well; around 12 it does not.
_FEW, _MORE = st.sampled_from((0, 1, *range(8, 16), 20, 30)), st.integers(76, 124)
small_pages = _FEW | _MORE
# Often the same, for a percentage that never rests is never damped.
_small_totals = st.sampled_from((100, 100, 100, 100, 0, 12, 97, 110, 120, 1000))
small_figures = st.builds(WIDE, _small_totals, *(small_pages for _ in WIDE._fields[1:]))
small_thresholds = st.dictionaries(
    _INDEXES, st.sampled_from((1, *range(9, 15), 21, 30, 88, 100, 104, 112)), min_size=1, max_size=3
)
_small_values = st.sampled_from(
    (*map(str, (1, *range(9, 15), 30, 88, 100, 104, 112)), "12%", "88%", "90%", "96.5%", "100%", "110%")
)
small_writes = st.dictionaries(st.sampled_from(WIDE._fields), _small_values, min_size=1, max_size=3).map(
    lambda values: " ".join(f"{name} {value}" for name, value in values.items()).encode()
)
"""What a client writes."""
granularities = st.sampled_from((*range(7), 10, 12, 14, 20))
"""Little enough to let a crossing through, and enough to damp one."""

damages = st.binary(max_size=60) | st.sampled_from((b"9" * 5000, b"\n" * 100, b"count: 1\n  high"))
"""What stands in one of the kernel's files where it is damaged."""

totals = st.one_of(st.integers(0, 2000), st.integers(0, 2**40))
figures = st.one_of(*(st.builds(kind, *(totals for _ in kind._fields)) for kind in (Figures, WIDE)))

blanks = st.text(" \t\n\v\f\r", min_size=1, max_size=3).map(str.encode)
_maybe_blanks = st.one_of(st.just(b""), blanks)
_separators = st.one_of(blanks, st.tuples(_maybe_blanks, st.just(b"="), _maybe_blanks).map(b"".join))
page_values = st.one_of(st.integers(0, 20_000), st.integers(0, PAGES_MAX))


@st.composite
def spelled_thresholds(draw: st.DrawFn) -> tuple[bytes, dict[int, int]]:
    """Draw the text of a write, with zeros and repetitions, and its thresholds."""
    select_extra_figures = draw(st.dictionaries(_INDEXES, page_values))
    order = (
        draw(st.lists(st.sampled_from(sorted(select_extra_figures)), max_size=5))
        if select_extra_figures
        else []
    )
    order += draw(st.permutations(sorted(select_extra_figures)))
    text = draw(_maybe_blanks)
    for place, index in enumerate(order):
        if place:
            text += draw(blanks)
        text += WIDE._fields[index].encode() + draw(_separators)
        text += b"0" * draw(st.integers(0, 3)) + b"%d" % select_extra_figures[index]
    text += draw(_maybe_blanks) + draw(st.sampled_from((b"", b"\n", b"\0", b"\n\0")))
    return text, {index: pages for index, pages in select_extra_figures.items() if pages}


class Measure(NamedTuple):
    """A value with a unit: its text, its number and the pages it stands for."""

    text: bytes
    number: Fraction
    pages: Fraction


@st.composite
def measures(draw: st.DrawFn, total: int) -> Measure:
    """Draw values with units and decimals, often halfway between two pages."""
    unit = draw(st.sampled_from("%KMGT"))
    pages_of_one = (
        Fraction(total, 100) if unit == "%" else Fraction(1024 ** ("KMGT".index(unit) + 1), PAGE_SIZE)
    )
    whole = draw(st.one_of(st.integers(0, 200), st.integers(0, 10**12)))
    decimals = draw(st.one_of(st.text("0123456789", max_size=20), st.sampled_from(("5", "25", "125", "375"))))
    text = f"{whole}.{decimals}" if decimals else str(whole)
    number = Fraction(text)
    return Measure(f"{text}{unit}".encode(), number, number * pages_of_one)


_WORDS = st.sampled_from(
    [
        *(name.encode() for name in WIDE._fields),
        b"=",
        b"0",
        b"5",
        b"80%",
        b"1.5G",
        b" ",
        b"\n",
        b"\0",
        b"-",
        b".",
        b"K",
    ]
)
nonsense = st.one_of(
    st.binary(max_size=200),
    st.lists(_WORDS, max_size=12).map(b"".join),
    st.lists(_WORDS, max_size=12).map(b" ".join),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=3), st.integers(1, 4096)),
)
"""Bytes that are mostly no thresholds, among them nearly right ones and long ones."""


@st.composite
def damaged_thresholds(draw: st.DrawFn) -> bytes:
    """Draw thresholds with a few bytes changed, removed or put in."""
    text = bytearray(draw(spelled_thresholds())[0])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        text[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(text)


class Frame(NamedTuple):
    """A request of a broken kernel; the sender fills in the unique number."""

    opcode: int
    body: bytes
    length_off: int = 0
    """What is added to the length in the header."""
    keep: int | None = None
    """How many bytes of the datagram are sent; None is all."""


_U32, _U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_fh = st.one_of(st.integers(0, 4), _U64)


def _request(layout: struct.Struct, *fields: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    return st.tuples(*fields).map(lambda values: layout.pack(*values))


@st.composite
def _write_bodies(draw: st.DrawFn) -> bytes:
    text: bytes = draw(st.one_of(nonsense, spelled_thresholds().map(lambda spelled: spelled[0])))
    size = draw(st.one_of(st.just(len(text)), st.integers(0, 5000), _U32))
    return kernel.WRITE_IN.pack(draw(_fh), draw(_U64), size, 0, 0, draw(_U32), 0) + text


_REAL = {
    kernel.OPEN: _request(kernel.OPEN_IN, _U32, _U32),
    kernel.READ: _request(kernel.READ_IN, _fh, _U64, _U32, _U32, _U64, _U32, _U32),
    kernel.WRITE: _write_bodies(),
    kernel.RELEASE: _request(kernel.RELEASE_IN, _fh, _U32, _U32, _U64),
    kernel.POLL: _request(kernel.POLL_IN, _fh, _U64, _U32, _U32),
    kernel.INTERRUPT: _U64.map(lambda unique: unique.to_bytes(8, "little")),
    kernel.INIT: st.binary(min_size=16, max_size=64),
    kernel.CUSE_INIT: _request(kernel.CUSE_INIT_IN, _U32, _U32, _U32, _U32),
    kernel.IOCTL: st.binary(min_size=32, max_size=64),
}
# Not DESTROY: it ends the protocol, after which nothing but INIT is answered.
_opcodes = st.one_of(st.integers(0, 60), _U32).filter(lambda opcode: opcode != kernel.DESTROY)
_whole = st.one_of(
    *(st.builds(Frame, st.just(opcode), body) for opcode, body in _REAL.items()),
    st.builds(Frame, _opcodes, st.binary(max_size=300)),
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Draw requests: valid, cut, with a wrong length, or shorter than a header."""
    frame: Frame = draw(_whole)
    flaw = draw(st.sampled_from(("none", "body", "length", "cut")))
    if flaw == "body":
        return frame._replace(body=frame.body[: draw(st.integers(0, len(frame.body)))])
    if flaw == "length":
        return frame._replace(length_off=draw(st.one_of(st.integers(-60, 60), st.integers(-(2**31), 2**31))))
    if flaw == "cut":
        return frame._replace(keep=draw(st.integers(0, 40 + len(frame.body))))
    return frame


# In Linux 6.18's order, those among them that hold another's label or stand beside one that is needed.
_MEMINFO = (
    *("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive"),
    *("Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked"),
    *("SwapTotal", "SwapFree", "Zswap", "Dirty", "Shmem", "KReclaimable", "SReclaimable", "ShmemHugePages"),
)
# Around the width at which the kernel's columns move.
_kib_values = st.sampled_from((7, 12_345_678, 99_999_999, 100_000_000, 123_456_789, 34_359_738_367))


@st.composite
def meminfo_readings(draw: st.DrawFn) -> list[bytes]:
    """Draw successive texts of /proc/meminfo: values change, rarely the kernel, some texts are damaged."""
    order: list[str] = list(_MEMINFO)
    width = 8
    kib = dict.fromkeys(order, draw(_kib_values))
    texts = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.integers(0, 5)) == 5:
            order = draw(st.permutations(order))
            width = draw(st.sampled_from((8, 8, 0, 12)))
        kib |= draw(st.dictionaries(st.sampled_from(order), _kib_values, max_size=3))
        text = "".join(f"{name + ':':<16}{kib[name]:>{width}} kB\n" for name in order).encode()
        match draw(st.sampled_from(("whole", "whole", "whole", "cut", "without a line", "joined"))):
            case "cut":
                text = text[: draw(st.integers(0, len(text)))]
            case "without a line":
                lines = text.splitlines(keepends=True)
                del lines[draw(st.integers(0, len(lines) - 1))]
                text = b"".join(lines)
            case "joined":
                line = draw(st.sampled_from(order)).encode() + b":"
                text = text.replace(b"\n" + line, b"x" + line)
        texts.append(text)
    return texts


def level_moves(levels: tuple[int, ...]) -> st.SearchStrategy[list[tuple[float, int]]]:
    """Draw pauses in seconds, and the level that is reached or left after each."""
    pauses_s = st.sampled_from((0.0, 1.0, 7.0, 14.0, 15.0, 16.0, 40.0))
    return st.lists(st.tuples(pauses_s, st.sampled_from(levels)), max_size=30)


_filling = st.lists(st.sampled_from(("\n", "\r\n", "# name = 1\n", "  \t\n", "#[name]\n")), max_size=3).map(
    "".join
)
# What looks like settings, comments and ends, in a text of several lines.
_lookalike = st.sampled_from(("", "a", "name = 1", "[name]", "# x", "'", ' " ', "]"))
_lookalikes = st.lists(_lookalike, min_size=1, max_size=4)


@st.composite
def toml_texts(draw: st.DrawFn) -> str:
    """Draw a string in any of TOML's notations, on one line or several."""
    lines = draw(_lookalikes)
    kind = draw(st.sampled_from(("basic", "literal", "lines", "literal lines", "folded")))
    if kind == "basic":
        return '"' + "\\n".join(lines).replace('"', '\\"') + '"'
    if kind == "literal":
        return "'" + lines[0].replace("'", "") + "'"
    if kind == "literal lines":
        return "'''\n" + "\n".join(lines).replace("'", "") + "\n'''"
    end = "\\\n" if kind == "folded" else "\n"
    return '"""' + end.join(lines) + '\n"""'


@st.composite
def toml_files(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """Draw a configuration file, and the line on which each setting begins."""
    lines = {}
    text = draw(_filling)
    for name in draw(st.lists(st.sampled_from(("path", "socket", "fill_rate", "count_pages")), unique=True)):
        lines[name] = text.count("\n") + 1
        key = draw(st.sampled_from((name, f'"{name}"', f"'{name}'", f'"\\u{ord(name[0]):04x}{name[1:]}"')))
        value = {
            "fill_rate": st.sampled_from(("1", "6_144", "0x10")),
            "count_pages": st.sampled_from(("true", "false")),
        }.get(name, toml_texts())
        text += draw(st.sampled_from(("", " ", "\t"))) + key + draw(st.sampled_from(("=", " = ")))
        text += draw(value) + draw(st.sampled_from(("\n", " # path = 2\n", "\r\n"))) + draw(_filling)
    return (text if draw(st.booleans()) else text.removesuffix("\n").removesuffix("\r")), lines
