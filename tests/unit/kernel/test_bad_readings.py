# SPDX-License-Identifier: MIT
"""Readings that fail or are impossible, and locked memory."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.strategies import damages
from support.zoneinfo import zoneinfo

from memnotify.kernel import meminfo
from memnotify.kernel.meminfo import MemInfoError, MemInfoReader

KIB = {
    "MemTotal": 1_048_576,
    "MemFree": 400_000,
    "Buffers": 1_000,
    "Cached": 60_000,
    "SwapCached": 0,
    "Active": 20_000,
    "Active(file)": 10_000,
    "Inactive(file)": 40_000,
    "Mlocked": 0,
    "SwapTotal": 0,
    "SwapFree": 0,
    "Shmem": 11_000,
    "SReclaimable": 8_000,
}
ZONEINFO = """\
Node 0, zone   Normal
  pagesets
    cpu: 0
              count:    %d
              high:     52
              batch:    4
"""
PLAIN_KIB = 1_048_576 - 400_000 - 8_000 - 61_000 + 11_000


class Files:
    """Copies of the kernel's two files, which a test writes."""

    def __init__(self, directory: Path) -> None:
        self.meminfo, self.zoneinfo = directory / "meminfo", directory / "zoneinfo"
        self.zoneinfo.write_text(ZONEINFO % 0)
        self.write()

    def write(self, **changed: int) -> None:
        """Write /proc/meminfo, with some fields changed, in KiB."""
        fields = KIB | changed
        self.meminfo.write_text("".join(f"{name}:{kib:>14} kB\n" for name, kib in fields.items()))


@pytest.fixture
def files() -> Iterator[Files]:
    """Return the two files, in memory where there is /dev/shm: a test writes them thousands of times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - only the directory's parent
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Files(Path(directory))


@pytest.fixture
def reader(files: Files) -> Iterator[MemInfoReader]:
    """Return a reader of the two files."""
    with MemInfoReader(meminfo=str(files.meminfo), zoneinfo=str(files.zoneinfo)) as reader:
        yield reader


@pytest.mark.parametrize(
    ("changed", "locked_kib"),
    [
        # Anonymous memory that is locked is used already: the files are all on their lists.
        ({"Mlocked": 512_000}, 0),
        # Files that are locked are on no list: 61,000 - 11,000 - 10,000 - 10,000 on none of them.
        ({"Mlocked": 512_000, "Inactive(file)": 10_000}, 30_000),
        # Nothing anonymous is locked: the original's figure.
        ({"Mlocked": 30_000, "Inactive(file)": 10_000}, 30_000),
        # A list of files may be behind for a moment, and be more than all files.
        ({"Mlocked": 512_000, "Inactive(file)": 90_000}, 0),
    ],
)
def test_locked_memory_counts_once(
    files: Files, reader: MemInfoReader, changed: dict[str, int], locked_kib: int
) -> None:
    files.write(**changed)
    assert reader.read_plain().used == (PLAIN_KIB + locked_kib) // 4


def test_no_figure_is_above_total(files: Files, reader: MemInfoReader) -> None:
    files.write(MemFree=0, Shmem=500_000, Cached=0, Buffers=0, SReclaimable=0, Active=2_000_000)
    figures = reader.read_plain()
    assert figures.used == figures.active == figures.total == 1_048_576 // 4


@pytest.mark.parametrize(
    "changed",
    [
        {"SwapTotal": 0, "SwapFree": 18446744073709346016},
        {"SwapTotal": 1_000, "SwapFree": 1_004},
        {"MemFree": 1_048_580},
        {"Cached": (1 << 52) + 1},
    ],
)
def test_impossible_figures_are_not_believed(
    files: Files, reader: MemInfoReader, changed: dict[str, int]
) -> None:
    """A part larger than its whole is an error with the text of the file; the next reading may succeed."""
    files.write(**changed)
    name, value = list(changed.items())[-1]
    with pytest.raises(MemInfoError, match=rf"(?s)impossible.*{name}: *{value} kB") as caught:
        reader.read_plain()
    assert caught.value.errno == errno.EIO
    with pytest.raises(MemInfoError):
        reader.read_exact()
    files.write()
    assert reader.read_plain().used == PLAIN_KIB // 4


def test_more_pages_on_the_lists_than_there_are(files: Files, reader: MemInfoReader) -> None:
    files.zoneinfo.write_text(ZONEINFO % 262_145)
    with pytest.raises(MemInfoError, match="262145 pages"):
        reader.read_exact()
    files.zoneinfo.write_text(ZONEINFO % 100)
    assert reader.read_exact()[1] == 100


@pytest.mark.parametrize("file", ["meminfo", "zoneinfo"])
@pytest.mark.parametrize("text", ["", "MemTotal:", "garbage\n" * 100])
def test_garbage_is_an_error_of_the_reading_alone(
    files: Files, reader: MemInfoReader, file: str, text: str
) -> None:
    good = reader.read_exact()
    path: Path = getattr(files, file)
    content = path.read_text()
    path.write_text(text)
    with pytest.raises(MemInfoError):
        reader.read_exact()
    path.write_text(content)
    assert reader.read_exact() == good


@pytest.mark.parametrize("read", ["pread", "preadv"])
def test_after_an_error_the_files_are_opened_again(
    files: Files, reader: MemInfoReader, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor of a dead server never works again (lxcfs); its errno is not passed to the client."""

    def gone(*_: object) -> bytes:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with monkeypatch.context() as patch:
        patch.setattr(os, read, gone)
        with pytest.raises(MemInfoError, match="cannot be read: Transport endpoint") as caught:
            reader.read_exact()
        assert caught.value.errno == errno.EIO
    # Another file, which only a new descriptor sees.
    files.meminfo.unlink()
    files.write(MemFree=300_000)
    descriptors = set(os.listdir("/proc/self/fd"))
    assert reader.read_exact()[0].used == (PLAIN_KIB + 100_000) // 4
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_a_file_that_cannot_be_opened_again(files: Files, reader: MemInfoReader) -> None:
    files.meminfo.write_text("")
    files.meminfo.unlink()
    for _ in range(2):
        with pytest.raises(MemInfoError):
            reader.read_plain()
    files.write()
    assert reader.read_plain().used == PLAIN_KIB // 4


MEMINFO_TEXT = "".join(f"{name}:{kib:>14} kB\n" for name, kib in KIB.items()).encode()
ZONEINFO_TEXT = zoneinfo(cpus=2, nodes=1).text.encode()


@pytest.mark.parametrize(("file", "whole"), [("meminfo", MEMINFO_TEXT), ("zoneinfo", ZONEINFO_TEXT)])
def test_a_file_that_is_cut_at_any_byte(files: Files, reader: MemInfoReader, file: str, whole: bytes) -> None:
    """The reading fails with EIO or gives figures that can be; the next one of the whole file is good."""
    files.write(MemTotal=1 << 31)
    path: Path = getattr(files, file)
    path.write_bytes(whole)
    good = reader.read_exact()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        _read_or_fail(reader)
    path.write_bytes(whole)
    assert reader.read_exact() == good


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_files_that_are_damaged(files: Files, reader: MemInfoReader, data: st.DataObject) -> None:
    """Bytes are cut out, exchanged or put in: no error but MemInfoError."""
    for path, whole in ((files.meminfo, MEMINFO_TEXT), (files.zoneinfo, ZONEINFO_TEXT)):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
        path.write_bytes(whole[:start] + data.draw(damages) + whole[end:])
    _read_or_fail(reader)


@pytest.mark.parametrize("file", ["meminfo", "zoneinfo"])
def test_a_number_without_an_end(files: Files, reader: MemInfoReader, file: str) -> None:
    path: Path = getattr(files, file)
    path.write_text(path.read_text().replace("0", "9" * 5000))
    with pytest.raises(MemInfoError):
        reader.read_exact()


def test_a_zoneinfo_that_does_not_end(
    files: Files, reader: MemInfoReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a bounded amount of memory."""
    monkeypatch.setattr(meminfo, "_ZONEINFO_MAX", 1 << 18)
    files.zoneinfo.write_bytes(bytes(1 << 19))
    with pytest.raises(MemInfoError, match="does not end"):
        reader.read_exact()


def _read_or_fail(reader: MemInfoReader) -> None:
    try:
        figures, pcp_pages = reader.read_exact()
    except MemInfoError as error:
        assert error.errno == errno.EIO
    else:
        assert 0 <= figures.used <= figures.total
        assert pcp_pages >= 0
