# SPDX-License-Identifier: MIT
"""The extra figures: which there are, which may be chosen, and that one more is one line."""

import os
import re
import select
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.bench import Bench

from memnotify.abi import figures
from memnotify.abi.figures import EXTRA_FIGURES, LINE_MAX, NAMES, select_extra_figures
from memnotify.config.settings import COMMAND_LINE, Given, configure
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoReader

DOCUMENTATION = Path(__file__).parents[3] / "docs/figures.md"


def line(names: Sequence[str]) -> str:
    """Return the longest line, written without what reads or refuses names."""
    return " ".join(f"{name} {10**13}" for name in (*NAMES, *names)) + "\n"


@pytest.mark.parametrize("name", EXTRA_FIGURES)
def test_a_name(name: str) -> None:
    """It contains none of the three, a write can have it, and no other name differs in case only."""
    assert re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII)
    assert not any(first in name.lower() for first in NAMES)
    assert [other for other in EXTRA_FIGURES if other.lower() == name.lower()] == [name]
    term = r"\w+(\(\w+\))?"
    assert re.fullmatch(rf"{term}( [+-] {term})*", EXTRA_FIGURES[name])


def test_the_documentation_has_them_all() -> None:
    """docs/figures.md has each figure with its formula, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", DOCUMENTATION.read_text(), re.MULTILINE)
    assert len(rows) == len(EXTRA_FIGURES)
    assert {name: made_of.replace("`", "") for name, made_of in rows} == EXTRA_FIGURES


@given(st.lists(st.sampled_from(list(EXTRA_FIGURES)), max_size=9))
@example(["Zswap", "Zswapped"])
@example(["Zswapped", "Zswap"])
@example(["free"] * 2)
def test_what_may_be_chosen(names: list[str]) -> None:
    """A choice must fit into a buffer, and strstr() must find the right number in it."""
    text = line(names)
    words = text.split(" ")
    starts = [len(" ".join(words[:place])) + (place > 0) for place in range(0, len(words), 2)]
    if [text.index(name) for name in (*NAMES, *names)] == starts and len(text) < 256:
        assert list(select_extra_figures(names)) == names
    else:
        with pytest.raises(ValueError, match=r"twice|must stand before|choose fewer"):
            select_extra_figures(names)


def test_as_many_as_a_buffer_holds() -> None:
    """The seven that have names of their own fit; what does not says by how much."""
    seven = ["available", "free", "cached", "dirty", "slab", "swap_size", "swap_taken"]
    assert len(line(list(select_extra_figures(seven)))) <= LINE_MAX
    with pytest.raises(ValueError, match=r"^with numbers of 14 digits the line may grow to 272 .*hold 255"):
        select_extra_figures([*seven, "SwapFree", "SwapCached"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("used", "'used' is in every line"),
        ("Active", "'Active' contains 'active'"),
        ("Inactive(file)", r"'Inactive\(file\)' contains 'active'"),
        ("swap_used", "contains 'used'.*'swap_taken'"),
        ("VmallocTotal", "contains 'total'"),
        ("SwapTotal", "is called 'swap_size' here"),
        ("MemAvailable", "is called 'available' here"),
        ("Cached", "is called 'cached' here"),
        ("HugePages_Free", "huge pages one by one.*'Hugetlb'"),
        ("Hugepagesize", "huge pages one by one.*'Hugetlb'"),
        ("availble", r"is not known: did you mean 'available'\? There are (\w+, )*available, (\w+, )*\w+$"),
        ("committed_as", "did you mean 'Committed_AS'"),
        ("MemFreeze", "did you mean"),
        ("x" * 500, r"is not known: there are (\w+, )*available"),
        ("", r"is not known: there are (\w+, )*available"),
    ],
)
def test_refused(name: str, message: str) -> None:
    """The error says what is wrong with a name, and what to write instead."""
    with pytest.raises(ValueError, match=message):
        select_extra_figures(["slab", name])


def test_every_name_of_this_kernel_is_there_or_refused_for_a_reason() -> None:
    for name in re.findall(r"(?m)^(\S+):", Path("/proc/meminfo").read_text()):
        if name not in EXTRA_FIGURES:
            with pytest.raises(ValueError, match=r"is called|contains|huge pages one by one"):
                select_extra_figures([name])


def test_refused_where_nothing_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a reload by the user that root has become, which may be unable to read Python's files."""
    monkeypatch.setitem(sys.modules, "difflib", None)
    with pytest.raises(ValueError, match=r"'slap' is not known: there are (\w+, )*slab, "):
        select_extra_figures(["slap"])


def test_adding_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients can read and watch every figure of the table."""
    monkeypatch.setitem(figures.EXTRA_FIGURES, "promised", "Committed_AS - CommitLimit + Active(anon)")
    settings = configure({"figures": Given(("promised", "free"), COMMAND_LINE)}).settings

    fields = dict.fromkeys(
        ("MemTotal", "MemFree", "Buffers", "Cached", "SwapCached", "Active", "Mlocked", "SwapTotal"), 400
    )
    fields |= {
        "Active(file)": 0,
        "Inactive(file)": 0,
        "SwapFree": 0,
        "Shmem": 0,
        "SReclaimable": 0,
        "CommitLimit": 80,
        "Active(anon)": 8,
    }
    fd = os.memfd_create("meminfo")

    def promise(kib: int) -> None:
        lines = (f"{name}: {value:8} kB\n" for name, value in (fields | {"Committed_AS": kib}).items())
        os.pwrite(fd, "".join(lines).encode(), 0)

    promise(160)
    made_of = select_extra_figures(settings.figures)
    with MemInfoReader(pcp_is_free=False, meminfo=f"/proc/self/fd/{fd}", extra=made_of) as reader:
        bench = Bench(reader, table=ObserverTable(len(NAMES) + len(made_of)))
        device = bench.device
        fh = device.open()
        pages = (160 - 80 + 8) * 1024 // os.sysconf("SC_PAGESIZE")
        assert device.read(fh).endswith(b" promised %d free 100\n" % pages)
        assert device.write(fh, b"promised %d" % (pages + 1))
        device.poll(fh, select.POLLIN, 77)
        for kib, handles in ((160, []), (164, [77])):
            bench.clock.tick(1)
            promise(kib)
            bench.sampler.sample()
            assert bench.notified == handles
        bench.sampler.stop()
    os.close(fd)
