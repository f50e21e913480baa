# SPDX-License-Identifier: MIT
"""The figures: the contract's formula on written files, and the real ones."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memnotify.figures import NAMES, PAGE_SIZE, Figures, Meter, MeterError

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
    "Mlocked": 7,
    "SwapTotal": 5_000,
    "SwapFree": 4_000,
    "Dirty": 999_999,
    "Shmem": 30,
    "KReclaimable": 555_555,
    "SReclaimable": 300,
}
# By hand: 15000 is 10000 + 5000; 7587 is 15000 - 2000 - 300 - (100 + 1000 + 50) + 30 + 7 - 4000.
FIGURES = Figures(total=15_000, used=7_587, active=600)
PCP = 1 + 20 + 300
ZONEINFO = """\
Node 0, zone      DMA
  pages free     2817
        min      18
  pagesets
    cpu: 0
              count:    1
              high:     52
              batch:    4
    cpu: 1
              count:    20
              high:     52
  vm stats threshold: 4
Node 0, zone   Normal
        nr_free_pages 1234
    cpu: 0
              count:    300
              high_min: 9999
  account: 4444
"""

MeterOf = Callable[..., Meter]


def meminfo(**changed: int | None) -> str:
    """Return the file with some fields changed, or left out where they are None."""
    fields = FIELDS | changed
    kib = PAGE_SIZE // 1024
    return "".join(f"{name + ':':<16}{n * kib:>8} kB\n" for name, n in fields.items() if n is not None)


@pytest.fixture
def meter_of(tmp_path: Path) -> Iterator[MeterOf]:
    """Return what makes a meter of two texts."""
    made = []

    def make(meminfo_text: str, zoneinfo_text: str = ZONEINFO, *, pcp_is_free: bool = True) -> Meter:
        paths = (tmp_path / "meminfo", tmp_path / "zoneinfo")
        for path, text in zip(paths, (meminfo_text, zoneinfo_text), strict=True):
            path.write_text(text)
        made.append(Meter(pcp_is_free=pcp_is_free, meminfo=str(paths[0]), zoneinfo=str(paths[1])))
        return made[-1]

    yield make
    for meter in made:
        meter.close()


def test_the_formula(meter_of: MeterOf) -> None:
    """Each field counts as the contract says, and P only in the exact figures."""
    meter = meter_of(meminfo())
    assert meter.plain() == FIGURES
    assert meter.exact() == FIGURES._replace(used=FIGURES.used - PCP)


def test_the_original_formula(meter_of: MeterOf) -> None:
    """Without pcp_is_free the per-CPU lists count as used."""
    assert meter_of(meminfo(), pcp_is_free=False).exact() == FIGURES


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
def test_what_a_page_more_of_a_field_changes(meter_of: MeterOf, field: str, change: Figures) -> None:
    """One page more of one field moves the figures as its sign in the formula says, or not at all."""
    figures = meter_of(meminfo(**{field: FIELDS[field] + 1})).plain()
    assert Figures(*(now - then for now, then in zip(figures, FIGURES, strict=True))) == change


def test_used_is_never_negative(meter_of: MeterOf) -> None:
    """Free memory may exceed total for a moment: the fields are not counted in one instant."""
    meter = meter_of(meminfo(MemFree=20_000))
    assert meter.plain().used == 0
    nearly = meter_of(meminfo(MemFree=FIELDS["MemFree"] + FIGURES.used - 1))
    assert (nearly.plain().used, nearly.exact().used) == (1, 0)


@pytest.mark.parametrize(
    "field", [name for name in FIELDS if name not in {"MemAvailable", "Inactive", "Dirty", "KReclaimable"}]
)
def test_a_missing_field(meter_of: MeterOf, field: str) -> None:
    """The error names what is wanted and shows what the file said; two fields nobody needs may miss."""
    meter = meter_of(meminfo(**{field: None}))
    if field.startswith("Active("):
        assert meter.plain() == FIGURES
        return
    for read in (meter.plain, meter.exact):
        with pytest.raises(MeterError, match=f"(?s){field}.*it reads:.*Dirty: ") as caught:
            read()
        assert f"\n{field}:" not in str(caught.value)


def test_a_file_that_does_not_open_leaks_none(tmp_path: Path) -> None:
    """The first file is closed when the second cannot be opened."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        Meter(zoneinfo=str(tmp_path / "none"))
    assert os.listdir("/proc/self/fd") == before


def big_zoneinfo(cpus: int = 256, zones: int = 4) -> tuple[str, int]:
    """Return a large machine's file, and the sum of its counts."""
    text, total = [], 0
    for zone in range(zones):
        text.append(f"Node 0, zone {zone:>8}\n  pages free     2817\n        boost    0\n")
        for cpu in range(cpus):
            count = 10_000 + zone * cpus + cpu
            total += count
            text.append(
                f"    cpu: {cpu}\n"
                f"              count:    {count}\n"
                "              high:     14\n              batch:    1\n"
                "              high_min: 1000000\n              high_max: 2000000\n"
                + "".join(f"              fill {n}:     {'x' * 20}\n" for n in range(6))
                + "  vm stats threshold: 125\n"
            )
    return "".join(text), total


def test_a_large_zoneinfo(meter_of: MeterOf) -> None:
    """All of it is read, and a count that a read ends in the middle of is one number still."""
    chunk = 1 << 18
    text, pcp = big_zoneinfo()
    assert len(text) > 1.5 * chunk
    middle = text.rindex("count:", 0, chunk) + len("count:    10")
    text = "#" * (chunk - middle - 1) + "\n" + text
    assert text[chunk - 2 : chunk + 3].isdigit()
    figures = meter_of(meminfo(MemTotal=100_000_000), text).exact()
    assert figures.used == FIGURES.used - FIELDS["MemTotal"] + 100_000_000 - pcp


def test_the_line() -> None:
    """The line is what the original's clients parse: three names, in this order, and a newline."""
    assert Figures(12, 3, 0).line == b"total 12 used 3 active 0\n"
    assert NAMES == ("total", "used", "active")


def test_the_files_are_read_anew(meter_of: MeterOf, tmp_path: Path) -> None:
    """Every reading starts at the beginning of the kept-open files."""
    meter = meter_of(meminfo())
    assert meter.exact() == meter.exact()
    (tmp_path / "meminfo").write_text(meminfo(Active=601))
    (tmp_path / "zoneinfo").write_text("              count:    1\n")
    assert meter.exact() == Figures(15_000, FIGURES.used - 1, 601)


def test_this_machine() -> None:
    """The real files give figures that fit this machine, and the per-CPU lists only lower used."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    with Meter() as meter:
        before, exact, after = meter.plain(), meter.exact(), meter.plain()
    assert exact.total == (kib["MemTotal"] + kib["SwapTotal"]) * 1024 // PAGE_SIZE
    assert 0 < exact.active < exact.total
    # Others may allocate between two readings, if not a fiftieth of the machine.
    assert 0 < exact.used < max(before.used, after.used) + exact.total // 50
    with Meter(pcp_is_free=False) as meter:
        assert abs(meter.exact().used - after.used) < exact.total // 50
