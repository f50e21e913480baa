# SPDX-License-Identifier: MIT
"""The picture of ``memnotify watch``: the only module that needs rich."""

import contextlib
import locale
import os
import re
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, Self

from rich.console import (
    Console,
    ConsoleDimensions,
    ConsoleOptions,
    Group,
    RenderableType,
    RenderResult,
)
from rich.control import Control
from rich.panel import Panel
from rich.screen import Screen
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from memnotify.cli.common import human
from memnotify.cli.watch.machine import Machine, Memory
from memnotify.cli.watch.model import ZOOMS, Line, Note, Watch
from memnotify.client import Pages

_BLOCKS = " ▁▂▃▄▅▆▇█"
_TOPS = (5, 10, 20, 50, 100)
"""Where the scale of a plot may end, in percent."""
_SIGNS = {
    "up": ("▲", "bold red"),
    "down": ("▼", "green"),
    "lost": ("✖", "bold red"),
    "restored": ("●", "green"),
}
_KEYS = (
    ("?", "show or hide this"),
    ("+ -", "zoom the history in and out; a column then has its highest value"),
    ("g", "the largest processes, or the largest cgroups"),
    ("q", "quit; Ctrl-C as well"),
    ("Ctrl-Z", "stop, until the shell's fg"),
)
_ASCII = str.maketrans(
    {
        **dict.fromkeys("╭╮╰╯", "+"),
        **dict.fromkeys("─┄", "-"),
        **dict.fromkeys("│┤┃", "|"),
        **dict.fromkeys("▁▂", "_"),
        **dict.fromkeys("▃▄▅", "="),
        **dict.fromkeys("▆▇█", "#"),
        "╎": ":",
        "▲": "^",
        "▼": "v",
        "✖": "x",
        "●": "o",
        "·": ".",
        "…": "~",
    }
)
"""What stands for the characters of the picture on a terminal that has ASCII only."""
_AXIS = 8
"""Columns left of a plot."""
_WIDE = 120
"""From this width on, the holders are beside the history."""
_STALLED = 10.0
"""From this share of time in percent on, pressure is emphasized."""
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ALSO = (signal.SIGWINCH, signal.SIGTSTP)
_FUNCTION_KEY = re.compile(rb"\x1b(?:O|\[[0-?]*)?.", re.DOTALL)
"""What a function key sends: F2 is ESC O Q."""


class View:
    """The picture, for any size of terminal."""

    def __init__(
        self,
        watch: Watch,
        machine: Machine | None = None,
        *,
        keys: bool = False,
        ascii_only: bool = False,
        zoom: int = 1,
    ) -> None:
        """Show ``machine`` as well, if given. ``zoom`` is the number of samples in a column of a plot."""
        self._watch = watch
        self._machine = machine
        self._zoom = zoom
        self._keys = keys
        self._ascii_only = ascii_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the panels that fit."""
        width, height = options.max_width, options.height or console.height
        for panel in [self._help(height)] if self._keys else self._panels(width, height):
            if not self._ascii_only:
                yield panel
                continue
            for segment in console.render(panel, options):
                text = segment.text.translate(_ASCII).encode("ascii", "replace").decode()
                yield Segment(text, segment.style)

    def _panels(self, width: int, height: int) -> Iterable[RenderableType]:
        watch = self._watch
        names = [name for name in watch.last.names if name != "total"]
        more = self._machine is not None and height >= 12
        left = height - len(names) - 2 - more
        yield self._bars(names, width, last=left < 4, more=more)
        if left < 4:
            return
        if self._machine is None or left < 18:
            yield from self._history(width, left)
        elif width < _WIDE:
            holders = max(5, left // 5)
            *plots, notes = self._history(width, left - holders)
            yield from (*plots, self._holders(width, holders), notes)
        else:
            side = min(60, width // 3)
            table = Table.grid()
            table.add_column(width=width - side)
            table.add_column(width=side)
            table.add_row(Group(*self._history(width - side, left)), self._holders(side, left))
            yield table

    def _history(self, width: int, left: int) -> Iterator[Panel]:
        """Yield the plots, and the events below them if there is room."""
        watch = self._watch
        # For a figure without thresholds its bar is enough.
        plotted = ["used", *sorted({line.name for line in watch.lines} - {"used", "total"})]
        notes = min(12, max(5, left // 3)) if left >= 12 else 4 if left >= 9 else 0
        plotted = plotted[: max(1, (left - notes) // 7)]
        rows = left - notes
        for index, name in enumerate(plotted):
            share = rows // (len(plotted) - index)
            rows -= share
            last = not notes and index == len(plotted) - 1
            yield self._plot(name, width, share, last=last)
        if notes:
            yield self._notes(notes)

    def _bars(self, names: Sequence[str], width: int, *, last: bool, more: bool) -> Panel:
        watch = self._watch
        figures = watch.last
        longest = max(map(len, names))
        text = Text(no_wrap=True)
        for name in names:
            pages = figures[name]
            label = f" {pages.percent:5.1f} %"
            if width >= 50:
                label += f" {human(pages.bytes):>10}"
            columns = max(1, width - 4 - longest - 2 - len(label))
            style = "dim" if watch.lost else self._style(name, pages)
            text.append(f"{name:<{longest}}  ", "bold")
            filled = min(columns, round(columns * pages.percent / 100))
            marks = {min(columns - 1, int(columns * line.pages.percent / 100)) for line in self._lines(name)}
            ticks = {min(columns - 1, int(columns * share)) for share in self._ticks(name, pages.total)}
            for column in range(columns):
                if column in marks:
                    text.append("┃", "bold")
                elif column in ticks:
                    text.append("╎", "magenta")
                else:
                    text.append(*(("▆", style) if column < filled else ("▁", "dim")))
            # Text has the terminal's colour: xterm's yellow and cyan on white cannot be read.
            text.append(f"{label}\n", "dim" if watch.lost else "bold")
        if more and self._machine is not None:
            text.append_text(_memory(self._machine.memory, width))
        text.rstrip()
        title = Text.assemble(("memnotify ", "bold default"), f"{watch.path}, {human(figures.total.bytes)}")
        return _panel(
            text, title, len(names) + 2 + more, style="red" if watch.lost else "", last=last, watch=watch
        )

    def _plot(self, name: str, width: int, height: int, *, last: bool) -> Panel:
        watch = self._watch
        rows, columns = height - 2, max(1, width - 4 - _AXIS)
        shown = watch.columns(name, columns, self._zoom)
        highest = max((pages.percent for pages in shown if pages is not None), default=0)
        top = next((top for top in _TOPS if highest <= 0.9 * top), 100)
        bars = [
            # No daemon served the device then.
            (0, "red")
            if pages is None
            else (max(1, min(8 * rows, round(8 * rows * pages.percent / top))), self._style(name, pages))
            for pages in shown
        ]
        levels = {
            min(rows - 1, int(line.pages.percent / top * rows)): f"{line.pages.percent:.4g} %"
            for line in self._lines(name)
            if line.pages.percent <= top
        }
        scale = {rows // 2: f"{top / 2:g} %"} if rows > 4 else {}
        scale |= {rows - 1: f"{top} %", 0: "0 %"}
        # A level that is rounded to a value of the scale may be in the row beside it.
        labels = {row: label for row, label in scale.items() if label not in levels.values()} | levels
        text = Text(no_wrap=True)
        for row in reversed(range(rows)):
            is_level = row in levels
            label = labels.get(row, "")
            text.append(f"{label:>{_AXIS - 2}} ", "bold" if is_level else "dim")
            text.append("┤" if label else "│", "dim")
            empty = "┄" if is_level else " "
            text.append(empty * (columns - len(bars)))
            for eighths, style in bars:
                block = "·" if row == eighths == 0 else _BLOCKS[max(0, min(8, eighths - 8 * row))]
                text.append(*((empty, "") if block == " " else (block, style)))
            text.append("\n")
        text.rstrip()
        column_s = self._zoom * watch.interval_s
        title = Text.assemble((f"{name} ", "bold default"), f"in the last {_duration(columns * column_s)}")
        if self._zoom > 1:
            title.append(f", the highest of each {_duration(column_s)}")
        return _panel(text, title, height, last=last, watch=watch)

    def _holders(self, width: int, height: int) -> Panel:
        machine = self._machine
        text = Text(no_wrap=True, overflow="ellipsis")
        room = width - 4 - 11
        for holder in machine.holders[: height - 2] if machine else ():
            number = f" {holder.pid}"
            name = holder.name
            if len(name) + len(number) > room:
                # The end of a cgroup's path says what it is.
                name = "…" + name[len(name) + len(number) + 1 - room :]
            text.append(f"{human(holder.size_bytes):>10} ", "bold" if holder.size_bytes else "")
            text.append(name)
            text.append(f"{number}\n", "dim")
        text.rstrip()
        kind = "of cgroups (processes)" if machine and machine.by_group else "of processes"
        title = Text.assemble(("resident memory ", "bold default"), kind)
        return _panel(text, title, height, last=False, watch=self._watch)

    def _ticks(self, name: str, total: int) -> Iterable[float]:
        machine = self._machine
        return (
            tick.pages / max(1, total) for tick in (machine.ticks if machine else ()) if tick.name == name
        )

    def _notes(self, height: int) -> Panel:
        watch = self._watch
        text = Text(no_wrap=True, overflow="ellipsis")
        today = time.strftime("%F")
        for note in list(watch.notes)[: -(height - 1) : -1]:
            when = time.localtime(note.when_s)
            clock = "%H:%M:%S  " if time.strftime("%F", when) == today else "%m-%d %H:%M  "
            text.append(time.strftime(clock, when), "dim")
            sign, style = _SIGNS[note.kind]
            text.append(f"{sign} ", style)
            text.append(f"{note.text}\n")
        if not watch.notes:
            hint = "none yet" if watch.lines else "none: give thresholds, such as --when 'used 80%'"
            text.append(hint, "dim")
        text.rstrip()
        return _panel(text, Text("events", "bold default"), height, last=True, watch=watch)

    def _help(self, height: int) -> Panel:
        text = Text(no_wrap=True, overflow="ellipsis")
        for key, meaning in _KEYS:
            text.append(f"{key:<8}", "bold")
            text.append(f"{meaning}\n")
        text.append("\n┃", "bold")
        text.append(" a threshold, in the bar of its figure\n")
        text.append("╎", "magenta")
        text.append(" a threshold of another observer (from the status socket; root sees all)\n")
        text.append("stalls", "bold")
        text.append(" how much of 10 s some task, or all, waited for memory (PSI)\n")
        for kind, meaning in (
            ("up", "a threshold was reached"),
            ("down", "the figure fell below a threshold"),
            ("lost", "the device is no longer served"),
            ("restored", "the device is served again"),
        ):
            text.append(*_SIGNS[kind])
            text.append(f" {meaning}\n")
        text.append("\n")
        for color, reached in (("green", "no threshold reached, "), ("yellow", "some, "), ("red", "all")):
            text.append("▆", color)
            text.append(f" {color}: {reached}")
        return _panel(text, Text("keys and signs", "bold default"), height, last=True, watch=self._watch)

    def _lines(self, name: str) -> Iterable[Line]:
        return (line for line in self._watch.lines if line.name == name)

    def _style(self, name: str, pages: Pages) -> str:
        """Return the colour of a value: it depends on how many of its thresholds are reached."""
        exceeded = [pages >= line.pages for line in self._lines(name)]
        if not exceeded:
            return "cyan"
        return "red" if all(exceeded) else "yellow" if any(exceeded) else "green"


def _memory(memory: Memory, width: int) -> Text:
    """Return the row about swap and pressure."""
    parts = []
    if memory.pressure is not None:
        some, every = memory.pressure
        style = "bold red" if every >= _STALLED else "bold" if some >= _STALLED else "default"
        parts.append(Text(f"stalls {_share(some)}, all {_share(every)}", style))
    if memory.swap_bytes:
        parts.append(Text(f"swap {human(memory.swap_used_bytes)} of {human(memory.swap_bytes)}"))
    else:
        parts.append(Text("no swap", "dim"))
    if memory.zram is not None:
        held, taken = map(human, memory.zram)
        parts.append(Text(f"zram {held} in {taken}"))
    text = Text(" · ").join(parts)
    text.truncate(max(0, width - 4), overflow="ellipsis")
    return text


def _share(percent: float) -> str:
    return f"{percent:.{0 if percent >= 10 else 1}f} %"


def _panel(text: Text, title: Text, height: int, *, last: bool, watch: Watch, style: str = "") -> Panel:
    """Return a panel. The last one names the keys, and the interval if there is room."""
    subtitle = Text(f"q quits · ? keys · every {watch.interval_s:g} s") if last else None
    if style:
        title.append(": not served", f"bold {style}")
    return Panel(
        text,
        title=title,
        title_align="left",
        subtitle=subtitle,
        subtitle_align="right",
        height=height,
        border_style=style or "bright_black",
    )


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def can_draw() -> bool:
    """Return True if the terminal can move the cursor."""
    return not Console().is_dumb_terminal


def _has_ascii_only(console: Console) -> bool:
    """Return True unless the terminal has the characters of the picture.

    Under LC_ALL=C Python still writes UTF-8 (PEP 540); the locale says what the terminal has.
    """
    return not (console.encoding.startswith("utf") and locale.getencoding().lower().startswith("utf"))


class Terminal:
    """The terminal in full-screen mode: alternate screen, no cursor, unbuffered keys. Main thread only.

    Leaving the block restores the terminal, as does Ctrl-Z while the command is stopped.
    """

    def __init__(self, path: str, status_socket: str) -> None:
        """``path`` is the device's, ``status_socket`` that of its daemon."""
        self._machine = Machine(path, status_socket)
        self._console = Console()
        self._ascii_only = _has_ascii_only(self._console)
        self._keys: int | None = None
        self._help = False
        self._zoom = 0

    def show(self, watch: Watch, _news: Sequence[Note], *, sampled: bool) -> None:
        """Draw the picture."""
        if sampled:
            self._machine.refresh()
        # That the terminal has gone shows as a signal, or as end of file on its keys.
        with contextlib.suppress(OSError):
            # LINES and COLUMNS would not follow the size of the terminal.
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
            # A serial line has no size.
            self._console.size = ConsoleDimensions(columns or 80, rows or 24)
            with self._console:
                self._console.control(Control.home())
                zoom = ZOOMS[self._zoom]
                view = View(watch, self._machine, keys=self._help, ascii_only=self._ascii_only, zoom=zoom)
                self._console.print(Screen(view), end="")

    def fds(self) -> Sequence[int]:
        """Return the descriptors of signals, and of keys if stdin is a terminal."""
        return [self._near.fileno(), *([] if self._keys is None else [self._keys])]

    def ready(self, fd: int) -> bool:
        """Handle signals or keys; return False if one of them means to end."""
        if fd == self._keys:
            try:
                keys = os.read(fd, 1024)
            except OSError:
                return False
            pressed = _FUNCTION_KEY.sub(b"", keys)
            self._help ^= pressed.count(b"?") % 2 == 1
            if pressed.count(b"g") % 2 == 1:
                self._machine.by_group = not self._machine.by_group
                self._machine.refresh()
            steps = pressed.count(b"-") - pressed.count(b"+") - pressed.count(b"=")
            self._zoom = min(len(ZOOMS) - 1, max(0, self._zoom + steps))
            return bool(keys) and not set(pressed) & set(b"qQ\x03\x04")
        numbers = set(self._near.recv(1024))
        if numbers & set(_ENDS):
            return False
        if signal.SIGTSTP in numbers:
            self._restore()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._switch()
        return True

    def __enter__(self) -> Self:
        """Switch to full-screen mode."""
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)
        self._far.settimeout(0)
        self._wakeup = signal.set_wakeup_fd(self._far.fileno(), warn_on_full_buffer=False)
        # A signal that was ignored at the start stays ignored, as SIGHUP under nohup.
        self._handlers: dict[int, Any] = {
            number: signal.signal(number, _note)
            for number in (*_ENDS, *_ALSO)
            if signal.getsignal(number) != signal.SIG_IGN
        }
        if sys.stdin is not None and sys.stdin.isatty():
            self._keys = sys.stdin.fileno()
            self._attributes = termios.tcgetattr(self._keys)
        self._switch()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the terminal."""
        # The terminal may have gone: SIGHUP says so.
        with contextlib.suppress(OSError, termios.error):
            self._restore()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._near.close()
        self._far.close()

    def _switch(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys, termios.TCSADRAIN)
        self._console.set_alt_screen(enable=True)
        self._console.show_cursor(show=False)

    def _restore(self) -> None:
        if self._keys is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._attributes)
        self._console.set_alt_screen(enable=False)
        self._console.show_cursor(show=True)


def _note(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor wakes the loop."""
