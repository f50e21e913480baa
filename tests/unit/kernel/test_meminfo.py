# SPDX-License-Identifier: MIT
"""The figures: the contract's formula on written files, and the real ones."""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import meminfo_readings
from support.waiting import DEADLINE_S
from support.zoneinfo import zoneinfo

from memnotify.abi.figures import NAMES, PAGE_SIZE, Figures, figures_with
from memnotify.kernel import meminfo
from memnotify.kernel.meminfo import MemInfoError, MemInfoReader

# In pages, in the order of the kernel's file, the fields that do not count among them.
FIELDS = {
    "MemTotal": 10_000,
    "MemFree": 2_000,
    "MemAvailable": 777_777,
    "Buffers": 100,
    "Cached": 1_000,
    "SwapCached": 50,
    "Active": 600,
    "Inactive": 888_888,
    "Active(anon)": 400,
    "Active(file)": 200,
    "Inactive(file)": 700,
    "Mlocked": 7,
    "SwapTotal": 5_000,
    "SwapFree": 4_000,
    "Dirty": 999_999,
    "Shmem": 30,
    "KReclaimable": 555_555,
    "SReclaimable": 300,
}
# By hand: total is 10000 + 5000. All of Mlocked counts, as 170 pages of files are on no list. So used is
# what is left of 15000 without 2000, 300, 100 + 1000 + 50 and 4000, and with 30 and 7.
FIGURES = Figures(total=15_000, used=7_587, active=600)
PCP = 1 + 20 + 300
ZONEINFO = """\
Node 0, zone      DMA
  pages free     2817
        min      18
        high     77777
  pagesets
    cpu: 0
              count:    1
              high:     52
              batch:    4
              high_min: 10
              high_max: 60
    cpu: 1
              count:    20
              high:     52
              batch:    4
              high_min: 10
              high_max: 60
  vm stats threshold: 4
Node 0, zone   Normal
        nr_free_pages 1234
        high     88888
  pagesets
    cpu: 0
              count:    300
              high:     9999
  account: 4444
"""

ReaderOf = Callable[..., MemInfoReader]


def meminfo_text(**changed: int | None) -> str:
    """Return the file with some fields changed, or left out if None."""
    fields = FIELDS | changed
    kib = PAGE_SIZE // 1024
    return "".join(f"{name + ':':<16}{n * kib:>8} kB\n" for name, n in fields.items() if n is not None)


@pytest.fixture
def reader_of(tmp_path: Path) -> Iterator[ReaderOf]:
    """Return a function that makes a reader of two texts."""
    made = []

    def make(
        meminfo_text: str,
        zoneinfo_text: str = ZONEINFO,
        *,
        extra: dict[str, str] | None = None,
        pcp_is_free: bool = True,
    ) -> MemInfoReader:
        paths = (tmp_path / "meminfo", tmp_path / "zoneinfo")
        for path, text in zip(paths, (meminfo_text, zoneinfo_text), strict=True):
            path.write_text(text)
        made.append(
            MemInfoReader(pcp_is_free=pcp_is_free, extra=extra, meminfo=str(paths[0]), zoneinfo=str(paths[1]))
        )
        return made[-1]

    yield make
    for reader in made:
        reader.close()


def test_the_formula(reader_of: ReaderOf) -> None:
    """Each field counts as the contract says, and P only in the exact figures."""
    reader = reader_of(meminfo_text())
    assert reader.read_plain() == FIGURES
    assert reader.read_exact() == (FIGURES._replace(used=FIGURES.used - PCP), PCP)


def test_plain_figures_are_exact_without_pcp(reader_of: ReaderOf) -> None:
    """With pcp_is_free off no page on the per-CPU lists is counted, and zoneinfo is not read."""
    reader = reader_of(meminfo_text(), "no zoneinfo", pcp_is_free=False)
    assert reader.read_exact() == (reader.read_plain(), 0)


def test_extra_figures(reader_of: ReaderOf, tmp_path: Path) -> None:
    """They follow the three in their order, are never negative or above total, and move between columns."""
    extra = {"free": "MemFree", "more": "Dirty - SwapFree + Mlocked", "less": "Mlocked - Dirty"}
    reader = reader_of(meminfo_text(), extra=extra)
    expected = (*FIGURES, 2_000, FIGURES.total, 0)
    plain = reader.read_plain()
    assert plain._asdict() == dict(zip((*NAMES, "free", "more", "less"), expected, strict=True))
    exact, pcp_pages = reader.read_exact()
    assert tuple(exact) == (FIGURES.total, FIGURES.used - PCP, FIGURES.active, *expected[3:])
    assert pcp_pages == PCP
    assert exact.line == b"total 15000 used %d active 600 free 2000 more 15000 less 0\n" % exact.used
    (tmp_path / "meminfo").write_text(meminfo_text(Dirty=5, Shmem=100_000_000))
    assert [*reader.read_plain()][3:] == [2_000, 0, 2]


def test_a_field_that_this_kernel_lacks(reader_of: ReaderOf, tmp_path: Path) -> None:
    """The error names the field and the remedy. A field that vanishes later does not become 0."""
    extra = {"dirty": "Dirty", "taken": "Zswap - Zswapped"}
    with pytest.raises(
        MemInfoError,
        match=r"^/proc/meminfo must have Zswap, Zswapped once, but lacks it: .* --figures ",
    ):
        reader_of(meminfo_text(), extra=extra).read_plain()
    reader = reader_of(meminfo_text(), extra={"dirty": "Dirty"})
    assert [*reader.read_plain()][3:] == [FIGURES.total]
    (tmp_path / "meminfo").write_text(meminfo_text(Dirty=None))
    with pytest.raises(MemInfoError, match="must have Dirty once"):
        reader.read_plain()


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("MemTotal", Figures(1, 1, 0)),
        ("SwapTotal", Figures(1, 1, 0)),
        ("MemFree", Figures(0, -1, 0)),
        ("SReclaimable", Figures(0, -1, 0)),
        ("Buffers", Figures(0, -1, 0)),
        ("Cached", Figures(0, -1, 0)),
        ("SwapCached", Figures(0, -1, 0)),
        ("SwapFree", Figures(0, -1, 0)),
        ("Shmem", Figures(0, 1, 0)),
        ("Mlocked", Figures(0, 1, 0)),
        ("Active", Figures(0, 0, 1)),
        *((name, Figures(0, 0, 0)) for name in ("MemAvailable", "Inactive", "Active(anon)", "KReclaimable")),
    ],
)
def test_what_a_page_more_of_a_field_changes(reader_of: ReaderOf, field: str, change: Figures) -> None:
    """One page more of one field moves the figures as its sign in the formula says, or not at all."""
    figures = reader_of(meminfo_text(**{field: FIELDS[field] + 1})).read_plain()
    assert Figures(*(now - then for now, then in zip(figures, FIGURES, strict=True))) == change


def test_used_is_never_negative(reader_of: ReaderOf) -> None:
    """Free pages and page cache may exceed total: the kernel does not count them at one instant."""
    reader = reader_of(meminfo_text(Cached=20_000))
    assert reader.read_plain().used == 0
    nearly = reader_of(meminfo_text(MemFree=FIELDS["MemFree"] + FIGURES.used - 1))
    assert (nearly.read_plain().used, nearly.read_exact()[0].used) == (1, 0)


@pytest.mark.parametrize(
    "field", [name for name in FIELDS if name not in {"MemAvailable", "Inactive", "Dirty", "KReclaimable"}]
)
def test_a_missing_field(reader_of: ReaderOf, field: str) -> None:
    """The error names the field and shows the file; two fields that are not needed may be missing."""
    reader = reader_of(meminfo_text(**{field: None}))
    if field == "Active(anon)":
        assert reader.read_plain() == FIGURES
        return
    for read in (reader.read_plain, reader.read_exact):
        with pytest.raises(MemInfoError, match=rf"(?s){re.escape(field)}.*it reads:.*Dirty: ") as caught:
            read()
        assert f"\n{field}:" not in str(caught.value)


def test_a_file_that_does_not_open_leaks_none(tmp_path: Path) -> None:
    """The first file is closed when the second cannot be opened."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        MemInfoReader(zoneinfo=str(tmp_path / "none"))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("cpus", "nodes"), [(1, 1), (2, 1), (3, 2), (256, 8)])
def test_zoneinfo(reader_of: ReaderOf, cpus: int, nodes: int, *, old: bool) -> None:
    """Every pageset's count is summed, and every pageset's limit, on machines and kernels of all kinds."""
    machine = zoneinfo(cpus, nodes, old=old)
    reader = reader_of(meminfo_text(MemTotal=1 << 34), machine.text)
    assert reader.read_exact()[1] == machine.pcp_pages
    assert reader.pcp_limit_pages == machine.limits + machine.pagesets * meminfo._BEYOND_LIMIT_PAGES


def test_the_limit_stays(reader_of: ReaderOf, tmp_path: Path) -> None:
    """The limit is not lowered while the kernel disables the lists; it is at least what they hold."""
    reader = reader_of(meminfo_text(MemTotal=1 << 34), zoneinfo(2).text)
    assert reader.pcp_limit_pages == 0
    reader.read_exact()
    known = reader.pcp_limit_pages
    (tmp_path / "zoneinfo").write_text(ZONEINFO.replace("9999", "0").replace("60", "0"))
    assert reader.read_exact()[1] == PCP
    assert reader.pcp_limit_pages == known
    (tmp_path / "zoneinfo").write_text(ZONEINFO.replace("300", f"{known}"))
    reader.read_exact()
    assert reader.pcp_limit_pages == known + PCP - 300


def test_no_pagesets(reader_of: ReaderOf) -> None:
    """A file without pagesets is an error, not empty lists."""
    with pytest.raises(MemInfoError, match=r"(?s)no pagesets.*pages free"):
        reader_of(meminfo_text(), "Node 0, zone Normal\n  pages free 7\n").read_exact()


def test_a_number_across_two_reads(reader_of: ReaderOf) -> None:
    """All of a large file is read, and a number that is split between two reads is whole."""
    chunk = 1 << 16
    machine = zoneinfo(256)
    middle = machine.text.rindex("count:", 0, chunk - 20) + len("count:    1")
    text = "#" * (chunk - middle - 1) + "\n" + machine.text
    assert text[chunk - 1 : chunk + 1].isdigit()
    assert reader_of(meminfo_text(), text)._pcp_pages() == machine.pcp_pages


def test_the_reads_of_one_file_are_not_mixed(reader_of: ReaderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread waits while one is between two reads: the kernel would tear the first one's text."""
    reader = reader_of(meminfo_text(MemTotal=1 << 34), zoneinfo(256).text)
    readers: list[threading.Thread] = []
    begun = threading.Event()
    second = threading.Thread(target=reader.read_exact)
    preadv = os.preadv

    def interrupted(fd: int, buffers: list[memoryview], offset: int) -> int:
        readers.append(threading.current_thread())
        if readers[-1] is second:
            begun.set()
        elif len(readers) == 1:
            second.start()
            # Not a wait for anything, but a chance for what must not come.
            assert not begun.wait(0.1)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", interrupted)
    reader.read_exact()
    second.join(DEADLINE_S)
    turn = readers.index(second)
    assert turn > 2
    assert set(readers[turn:]) == {second}


class Moving(MemInfoReader):
    """A reader of memory that moves meanwhile: the test sets the result of each part of a reading."""

    def __init__(self) -> None:
        super().__init__()
        self.plains: list[int] = []
        self.lists: list[int] = []

    def read_plain(self) -> Figures:
        return Figures(10**9, self.plains.pop(0), 0)

    def _pcp_pages(self) -> int:
        return self.lists.pop(0)


FAR = 10 * meminfo._STILL_PAGES


@pytest.mark.parametrize(
    ("plains", "lists", "used"),
    [
        ([FAR * 9 + 1, FAR * 9], [FAR], FAR * 8),  # what moved is not worth a second look, nor a movement
        # Pages leave the lists, or go there, and are counted twice or not at all; the second look is right
        ([FAR * 10, FAR * 9, FAR * 9], [FAR, FAR], FAR * 8),
        ([FAR * 9, FAR * 10, FAR * 10], [FAR, FAR * 2], FAR * 8),
        # It never holds still: nothing is known to have moved, or this much is, up or down
        ([FAR * 9, FAR * 10] * 2 + [FAR * 9], [FAR * 3 // 2] * 4, FAR * 8),
        ([FAR * 19, FAR * 20] * 2 + [FAR * 19], [FAR] * 4, FAR * 18),
        ([FAR * 6, FAR * 7] * 2 + [FAR * 6], [FAR * 2] * 4, FAR * 5),
    ],
)
def test_memory_that_moves_while_it_is_read(plains: list[int], lists: list[int], used: int) -> None:
    """A reading is of one moment, or as near to the last one as possible."""
    with Moving() as reader:
        # A still moment first
        for reader.plains, reader.lists in (([FAR * 9, FAR * 9], [FAR]), (plains.copy(), lists.copy())):
            figures, pcp_pages = reader.read_exact()
            assert (reader.plains, reader.lists) == ([], [])
    assert (figures.used, pcp_pages) == (used, max(0, plains[-1] - used))


def test_figures_that_were_just_read_are_not_read_again() -> None:
    """They are the first of the two readings, and are not trusted if memory has moved since."""
    with Moving() as reader:
        plain = Figures(FAR * 100, FAR * 9, 0)
        reader.plains, reader.lists = [FAR * 9], [FAR]
        assert reader.read_exact(plain)[0].used == FAR * 8
        reader.plains, reader.lists = [FAR * 10, FAR * 10], [FAR, FAR]
        assert reader.read_exact(plain)[0].used == FAR * 9
        assert (reader.plains, reader.lists) == ([], [])


EXTRA_FIGURES = {"available": "MemAvailable", "swap_taken": "SwapTotal - SwapFree", "Zswap": "Zswap"}


def per_line(text: bytes, extra: Iterable[str] = ()) -> Figures:
    """Return the figures of a file by a simple parser. Raises KeyError or ValueError."""
    kib = {}
    *lines, _ = text.decode().split("\n")
    for line in lines:
        name, _, value = line.partition(":")
        match value.split():
            case [number, "kB"]:
                kib[name] = int(number)
    total = kib["MemTotal"] + kib["SwapTotal"]
    free = kib["MemFree"] + kib["SReclaimable"] + kib["SwapFree"]
    files = kib["Buffers"] + kib["Cached"] + kib["SwapCached"]
    if kib["MemFree"] > kib["MemTotal"] or kib["SwapFree"] > kib["SwapTotal"]:
        raise ValueError
    listed = kib["Shmem"] + kib["Active(file)"] + kib["Inactive(file)"]
    locked = min(kib["Mlocked"], max(0, kib["Buffers"] + kib["Cached"] - listed))
    used = min(total, max(0, total - free - files + kib["Shmem"] + locked))
    page_kib = PAGE_SIZE // 1024
    all_kib = {
        "available": lambda: kib["MemAvailable"],
        "swap_taken": lambda: max(0, kib["SwapTotal"] - kib["SwapFree"]),
        "Zswap": lambda: kib["Zswap"],
    }
    more = [min(total, all_kib[name]()) // page_kib for name in extra]
    values = (total // page_kib, used // page_kib, min(total, kib["Active"]) // page_kib, *more)
    return figures_with(tuple(extra))._make(values)


@given(meminfo_readings(), st.sets(st.sampled_from(list(EXTRA_FIGURES))))
def test_the_columns_give_what_the_lines_say(texts: list[bytes], select_extra_figures: set[str]) -> None:
    """Of any sequence of texts the reader returns the right values or an error."""
    fd = os.memfd_create("meminfo")
    try:
        extra = {name: EXTRA_FIGURES[name] for name in select_extra_figures}
        with MemInfoReader(meminfo=f"/proc/self/fd/{fd}", extra=extra) as reader:
            for text in texts:
                os.ftruncate(fd, 0)
                os.pwrite(fd, text, 0)
                try:
                    expected = per_line(text, extra)
                except (KeyError, ValueError):
                    with pytest.raises(MemInfoError):
                        reader.read_plain()
                else:
                    assert reader.read_plain() == expected
    finally:
        os.close(fd)


def test_the_columns_are_kept(reader_of: ReaderOf, tmp_path: Path) -> None:
    """The columns are found again only when a value has outgrown its own."""
    total = 24_999_999
    reader = reader_of(meminfo_text(MemTotal=total))
    reader.read_plain()
    columns = reader._columns
    (tmp_path / "meminfo").write_text(meminfo_text(MemTotal=total, MemFree=1, Active=2_500_000 - 1))
    assert (reader.read_plain().active, reader._columns is columns) == (2_500_000 - 1, True)
    (tmp_path / "meminfo").write_text(meminfo_text(MemTotal=200_000_000, Active=100_000_000))
    assert (reader.read_plain().active, reader._columns is columns) == (100_000_000, False)


@pytest.mark.parametrize(
    ("field", "next_line"), [("MemFree", "MemAvailable"), ("Active", "Inactive"), ("Shmem", "KReclaimable")]
)
def test_a_value_that_grows_where_the_next_line_shrinks(
    reader_of: ReaderOf, tmp_path: Path, field: str, next_line: str
) -> None:
    """The value is not cut, although every label has its old place."""
    narrow, wide = 24_999_999, 25_000_000
    texts = (
        meminfo_text(**{"MemTotal": 1 << 30, field: narrow, next_line: wide}),
        meminfo_text(**{"MemTotal": 1 << 30, field: wide, next_line: narrow}),
    )
    reader = reader_of(texts[0])
    for text in texts:
        (tmp_path / "meminfo").write_text(text)
        assert reader.read_plain() == per_line(text.encode())


def test_other_lines_in_the_same_columns(reader_of: ReaderOf, tmp_path: Path) -> None:
    """Fields are recognised by their label at the beginning of a line."""
    reader = reader_of(meminfo_text())
    reader.read_plain()
    lines = meminfo_text().splitlines(keepends=True)
    buffers, cached = ([line.split(":")[0] for line in lines].index(name) for name in ("Buffers", "Cached"))
    lines[buffers], lines[cached] = lines[cached], lines[buffers]
    (tmp_path / "meminfo").write_text("".join(lines))
    assert reader.read_plain() == FIGURES
    (tmp_path / "meminfo").write_text("".join(lines).replace("\nShmem:", "xShmem:"))
    with pytest.raises(MemInfoError, match="xShmem"):
        reader.read_plain()


@pytest.mark.parametrize("field", ["MemTotal", "Cached", "SReclaimable"])
def test_a_field_that_is_there_twice(reader_of: ReaderOf, field: str) -> None:
    """A field that occurs twice is ambiguous, so it is an error."""
    with pytest.raises(MemInfoError, match=f"(?s)once.*{field}: .*{field}: "):
        reader_of(f"{meminfo_text()}{field}:         1 kB\n").read_plain()


def test_the_line() -> None:
    """The line is what the original's clients parse: three names, in this order, and a newline."""
    assert Figures(12, 3, 0).line == b"total 12 used 3 active 0\n"
    assert NAMES == ("total", "used", "active")


def test_the_files_are_read_again(reader_of: ReaderOf, tmp_path: Path) -> None:
    """Every reading starts at the beginning of the kept-open files."""
    reader = reader_of(meminfo_text())
    assert reader.read_exact() == reader.read_exact()
    (tmp_path / "meminfo").write_text(meminfo_text(Active=601))
    (tmp_path / "zoneinfo").write_text(ZONEINFO.replace("300", "301"))
    assert reader.read_exact() == (Figures(15_000, FIGURES.used - PCP - 1, 601), PCP + 1)


def test_this_machine() -> None:
    """The figures of the real files fit this machine, and the per-CPU lists only lower used."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    with MemInfoReader() as reader:
        before, (exact, pcp_pages), after = reader.read_plain(), reader.read_exact(), reader.read_plain()
        assert 0 <= pcp_pages <= reader.pcp_limit_pages < exact.total
    assert exact.total == (kib["MemTotal"] + kib["SwapTotal"]) * 1024 // PAGE_SIZE
    assert 0 < exact.active < exact.total
    # Others may allocate between two readings, if not a fiftieth of the machine.
    assert 0 < exact.used < max(before.used, after.used) + exact.total // 50
