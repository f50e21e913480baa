# SPDX-License-Identifier: MIT
"""The picture of ``memnotify watch``, with fixed figures, at several sizes."""

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.screen import Screen

from memnotify.cli.watch.machine import Holder, Machine, Memory, Tick
from memnotify.cli.watch.model import HISTORY, ZOOMS, Note, Watch
from memnotify.cli.watch.recorder import Recorder, RecordingError
from memnotify.cli.watch.view import Terminal, View
from memnotify.client import PAGE_SIZE, Figures

TOTAL = (16 << 30) // PAGE_SIZE
REPOSITORY = Path(__file__).parents[3]
PICTURES = REPOSITORY / "docs/pictures"
WHEN_S = 1_000_000_000


def _figures(used_percent: float, active_percent: float = 12.5) -> Figures:
    used, active = (round(TOTAL * percent / 100) for percent in (used_percent, active_percent))
    return Figures((("total", TOTAL), ("used", used), ("active", active)))


def _watch(useds_percent: Sequence[float | None], *thresholds: str) -> Watch:
    """Return a history of used in percent; None where no daemon served."""
    history = [None if percent is None else _figures(percent) for percent in useds_percent]
    watch = Watch("/dev/memnotify", 1.0, next(figures for figures in reversed(history) if figures))
    watch.history.extend(history)
    for text in thresholds:
        watch.add(text)
    return watch


def _drawn(
    watch: Watch,
    width: int,
    height: int,
    *,
    no_color: bool = False,
    **shown: Any,
) -> str:
    """Return the bytes that draw the picture."""
    sent = io.StringIO()
    console = Console(
        file=sent, width=width, height=height, force_terminal=True, color_system="standard", no_color=no_color
    )
    console.print(Screen(View(watch, **shown)), end="")
    return sent.getvalue()


def _lines(watch: Watch, width: int, height: int, **shown: Any) -> list[str]:
    """Return the picture as characters."""
    return re.sub(r"\x1b\[[0-9;]*m", "", _drawn(watch, width, height, **shown)).split("\n")


def _machine() -> Machine:
    machine = Machine("/dev/memnotify", "/nonexistent")
    machine.memory = Memory(8 << 30, 3 << 30, (2 << 30, 500 << 20), (12.0, 0.5))
    machine.holders = [Holder("postgres", 12, 2 << 30), Holder("é" * 300, 3456, 5 << 20)]
    machine.ticks = [Tick("used", TOTAL // 10)]
    return machine


PICTURE = """\
╭─ memnotify /dev/memnotify, 16.0 GiB ─────────────────────────────────────────╮
│ used    ▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▁▁▁▁┃▁▁▁▁▁▁▁  75.0 %   12.0 GiB │
│ active  ▆▆▆▆▆▆▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  12.5 %    2.0 GiB │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ used in the last 1 min 8 s ─────────────────────────────────────────────────╮
│  100 % ┤                                                              ██     │
│   85 % ┤┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄██┄┄┄┄ │
│        │                                                              ██     │
│        │                                                              ██ ███ │
│        │                                                              ██ ███ │
│   50 % ┤                                                              ██ ███ │
│        │                                                          ██████ ███ │
│        │                                                          ██████ ███ │
│        │                                                          ██████ ███ │
│        │                                                          ██████ ███ │
│        │                                                          ██████ ███ │
│    0 % ┤▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁██████·███ │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ events ─────────────────────────────────────────────────────────────────────╮
│ 09-09 01:47  ● the device is served again                                    │
│ 09-09 01:46  ▲ used reached 85 %                                             │
│                                                                              │
│                                                                              │
╰─────────────────────────────────────────────── q quits · ? keys · every 1 s ─╯"""


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.usefixtures("_utc")
def test_the_picture_of_80_by_24() -> None:
    watch = _watch([0] * 100 + [50] * 4 + [100] * 2 + [None] + [75] * 3, "used 85%")
    watch.notes += [
        Note(WHEN_S, "up", "used reached 85 %"),
        Note(WHEN_S + 60, "restored", "the device is served again"),
    ]
    assert "\n".join(_lines(watch, 80, 24)) == PICTURE


@pytest.mark.parametrize(
    "size", [(120, 40), (80, 24), (60, 16), (60, 15), (40, 10), (30, 8), (20, 5), (10, 3), (1, 1)]
)
def test_it_fits(size: tuple[int, int]) -> None:
    """Every line is as wide as the terminal. What does not fit is left out, the bars last."""
    width, height = size
    watch = _watch([40, None, 60] * 50, "used 50% active 10%")
    watch.notes += [Note(WHEN_S, "up", f"something {number} " + "x" * 200) for number in range(99)]
    lines = _lines(watch, width, height)
    assert len(lines) == height
    assert {cell_len(line) for line in lines} == {width}
    picture = "\n".join(lines)
    assert ("events" in picture) == (height >= 15)
    assert ("in the last" in picture) == (height >= 8)
    assert ("active in the last" in picture) == (height >= 24)
    assert ("60.0 %" in picture) == (width >= 30)
    assert ("q quits" in picture) == (width >= 20 and height >= 5)


def test_the_last_events_are_in_a_small_terminal() -> None:
    watch = _watch([40, 60], "used 50%")
    watch.notes += [Note(WHEN_S, "up", f"event {number}") for number in range(9)]
    picture = "\n".join(_lines(watch, 60, 15))
    assert re.findall(r"event [0-9]", picture) == ["event 8", "event 7"]


@given(
    width=st.integers(1, 150),
    height=st.integers(1, 50),
    useds_percent=st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=200),
    keys=st.booleans(),
    ascii_only=st.booleans(),
    zoom=st.sampled_from(ZOOMS),
    has_machine=st.booleans(),
)
def test_it_fits_whatever_it_shows(
    width: int, height: int, useds_percent: list[float | None], *, has_machine: bool, **shown: Any
) -> None:
    watch = _watch([*useds_percent, 3], "used 50%")
    watch.notes.append(Note(WHEN_S, "up", "réached " + "x" * 200))
    lines = _lines(watch, width, height, machine=_machine() if has_machine else None, **shown)
    assert [cell_len(line) for line in lines] == [width] * height
    assert not shown["ascii_only"] or "".join(lines).isascii()


@given(st.floats(0, 100), st.floats(0.01, 100), st.integers(10, 40))
@example(75.0, 49.9999, 22)
def test_no_label_is_on_an_axis_twice(used_percent: float, level_percent: float, height: int) -> None:
    plot = "\n".join(_lines(_watch([used_percent], f"used {level_percent:.8f}%"), 80, height)).split("╭")[2]
    labels = re.findall(r"│ +(\S+ %) ┤", plot)
    assert len(labels) == len(set(labels)) > 0


def test_help() -> None:
    lines = _lines(_watch([40], "used 50%"), 80, 24, keys=True)
    told = [line.split()[1] for line in lines[1:6]]
    assert told == ["?", "+", "g", "q", "Ctrl-Z"]


@pytest.mark.parametrize(
    ("highest", "top"),
    [(0, "5 %"), (4, "5 %"), (5, "10 %"), (9.5, "20 %"), (40, "50 %"), (46, "100 %"), (100, "100 %")],
)
def test_the_scale_fits_the_history(highest: float, top: str) -> None:
    lines = _lines(_watch([0, highest, 0]), 80, 24)
    assert lines[5].split()[1:4] == [*top.split(), "┤"] if highest < 100 else [*top.split(), "┤█"]


@pytest.mark.parametrize(
    ("thresholds", "colour"),
    [([], 36), (["used 80%"], 32), (["used 80%", "used 40%"], 33), (["used 45%", "used 40%"], 31)],
)
def test_colours_say_how_many_thresholds_are_exceeded(thresholds: list[str], colour: int) -> None:
    bar = _drawn(_watch([50], *thresholds), 80, 24).split("\n")[1]
    assert f"\x1b[{colour}m▆" in bar


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 10)])
@pytest.mark.parametrize("keys", [False, True])
def test_no_text_is_in_a_colour_that_is_pale_on_white(size: tuple[int, int], *, keys: bool) -> None:
    """Letters and digits are in the terminal's own colour or red; green, yellow and cyan are for areas."""
    watch = _watch([40, 60, 100], "used 50%", "used 80% active 1%")
    watch.notes += [Note(WHEN_S, "up", "used reached 50 %"), Note(WHEN_S, "restored", "served again")]
    drawn = _drawn(watch, *size, machine=_machine(), keys=keys)
    colored = re.findall(r"\x1b\[[0-9;]*(?:3[2-7]|9[1-7])m([^\x1b]*)", drawn)
    assert colored
    assert not [text for text in colored if re.search(r"\w", text)]


def test_without_colours_it_is_the_same_picture() -> None:
    watch = _watch([40, 90, None], "used 80%")
    plain = _drawn(watch, 80, 24, no_color=True)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|9[0-7])m", plain)
    assert re.sub(r"\x1b\[[0-9;]*m", "", plain).split("\n") == _lines(watch, 80, 24)


def test_the_title_of_a_lost_device() -> None:
    assert "not served" in _lines(_watch([40, None]), 80, 24)[0]
    assert "not served" not in _lines(_watch([40, None, 40]), 80, 24)[0]


def test_thresholds_follow_the_total() -> None:
    """A threshold in percent moves when total changes."""

    class Reader:
        def __init__(self, figures: Figures) -> None:
            self.read = lambda: figures

    watch = _watch([40], "used 50%", "used 1G")
    watch.sample(Reader(Figures((("total", 2 * TOTAL), ("used", 5), ("active", 5)))), WHEN_S)  # type: ignore[arg-type] # as good
    assert [line.pages for line in watch.lines] == [(1 << 30) // PAGE_SIZE, TOTAL]


@pytest.mark.parametrize(
    ("keys", "goes_on"),
    [
        (b"q", False),
        (b"Q", False),
        (b"\x03", False),
        (b"x", True),
        (b"\x1bOQ", True),  # F2
        (b"\x1b[1;2Q", True),  # with shift
        (b"\x1b[A\x1b[Bq", False),
        (b"", False),
    ],
)
def test_keys(keys: bytes, *, goes_on: bool) -> None:
    terminal = Terminal("/dev/memnotify", "/nonexistent")
    read, write = os.pipe()
    os.write(write, keys)
    os.close(write)
    terminal._keys = read
    assert terminal.ready(read) is goes_on
    os.close(read)


@pytest.mark.parametrize(("width", "beside"), [(80, False), (160, True)])
def test_what_holds_memory(width: int, *, beside: bool) -> None:
    """It is below the history, or beside it on a wide terminal."""
    lines = _lines(_watch([40], "used 80%"), width, 30, machine=_machine())
    (row,) = (line for line in lines if "postgres" in line)
    assert re.search(r" 2\.0 GiB postgres 12 ", row)
    assert ("│ │" in row.replace("││", "│ │")) == beside
    assert "stalls 12 %, all 0.5 % · swap 3.0 GiB of 8.0 GiB · zram 2.0 GiB in 500.0 MiB" in "".join(lines)
    # A cgroup's name ends with what it is.
    assert any("…é" in line and "é 3456" in line for line in lines)


def test_a_small_terminal_has_no_room_for_it() -> None:
    picture = "\n".join(_lines(_watch([40]), 40, 10, machine=_machine()))
    assert "stalls" not in picture
    assert "resident" not in picture


def test_other_observers_thresholds_are_ticks() -> None:
    bars = _lines(_watch([40], "used 80%"), 80, 24, machine=_machine())[1:3]
    assert [bar.count("╎") for bar in bars] == [1, 0]
    assert bars[0].index("╎") < bars[0].index("┃")


@pytest.mark.parametrize("taken", [1, 7, 12, 30, 2 * HISTORY])
@pytest.mark.parametrize("zoom", ZOOMS)
def test_a_zoomed_column_has_the_highest_of_its_samples(zoom: int, taken: int) -> None:
    """The same samples in each picture, so a column does not change once it is complete."""
    watch = _watch([1])
    watch.history.clear()
    watch.samples = taken
    used = [number % 97 for number in range(taken)]
    kept = [Figures((("total", 100), ("used", pages), ("active", 0))) for pages in used[-HISTORY:]]
    watch.history.extend(kept)
    wanted = [max(used[place : place + zoom]) for place in range(0, taken, zoom)][-5:]
    assert watch.columns("used", 5, zoom) == wanted


def test_a_zoomed_column_without_a_daemon() -> None:
    watch = _watch([None, None, 40, None])
    watch.samples = 4
    assert [column is None for column in watch.columns("used", 9, 2)] == [True, False]


def test_zooming_keys() -> None:
    watch = _watch([10, 80] + [20] * 9)
    watch.samples = 11
    assert "in the last 11 min 20 s, the highest of each 10 s" in "\n".join(_lines(watch, 80, 24, zoom=10))


def test_the_documented_pictures(tmp_path: Path) -> None:
    """Each has the text that tools/pictures.py draws now."""
    subprocess.run([sys.executable, str(REPOSITORY / "tools/pictures.py"), str(tmp_path)], check=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in PICTURES.glob("watch*.svg"))
    for name in names:
        drawn, documented = (
            re.findall(r">([^<\s][^<]*)</text>", (directory / name).read_text())
            for directory in (tmp_path, PICTURES)
        )
        assert drawn == documented
        assert "http" not in re.sub(r"http://www\.w3\.org/|<!--.*?-->", "", (PICTURES / name).read_text())


def test_a_recording_that_cannot_be_written_names_its_file() -> None:
    with pytest.raises(RecordingError, match=r"^/dev/full: "):
        Recorder("/dev/full")
