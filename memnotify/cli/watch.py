# SPDX-License-Identifier: MIT
"""``memnotify watch``: the figures and what happens to them, live."""

import argparse
import contextlib
import math
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from memnotify.cli import add_command
from memnotify.cli.read import human
from memnotify.cli.tell import explain, tell
from memnotify.cli.wait import EXTRA_MISSING, seconds, subscribed
from memnotify.client import (
    DEFAULT_PATH,
    Change,
    Crossed,
    Figures,
    Lost,
    Memnotify,
    Pages,
    Restored,
    ThresholdError,
)
from memnotify.client.thresholds import parse

HISTORY = 1000
"""So many samples are kept, more than a terminal has columns."""
_INTERVAL_MIN_S = 0.2

_DESCRIPTION = """\
Show the figures as they are now and have been, and when thresholds of your own are crossed.

  memnotify watch
  memnotify watch --when 'used 80%' --when 'used 90% active 6G'

On a terminal it is a picture, until q or Ctrl-C; it needs rich. Elsewhere, and with --plain,
it prints a line for each interval and for each event. A daemon that ends is waited for.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 a new daemon does not understand the thresholds;
            2 thresholds not understood, no device, or wrong arguments; 4 rich is missing;
            130 Ctrl-C with --plain
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "watch", "show the memory figures live", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--when",
        metavar="THRESHOLDS",
        action="append",
        default=[],
        help="tell when one is crossed, such as 'used 80%%'; may be given several times",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        metavar="S",
        default=1.0,
        help="look every S seconds, 0.2 at least (default: 1)",
    )
    parser.add_argument("--plain", action="store_true", help="lines, no picture")
    parser.add_argument("--path", default=DEFAULT_PATH, help="the device (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Watch; return the exit code."""
    output: Output = Lines()
    if not options.plain and sys.stdout.isatty():
        try:
            from memnotify.cli import view  # noqa: PLC0415 - the one that needs rich
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "rich":
                raise
            tell(
                "watch",
                "rich is not installed: apt install python3-rich, or pip install 'memnotify[watch]',"
                " or use --plain",
            )
            return EXTRA_MISSING
        if view.can_draw():
            output = view.Terminal()
    with contextlib.ExitStack() as opened:
        try:
            reader = opened.enter_context(contextlib.closing(Memnotify(options.path)))
            watch = Watch(options.path, options.interval, reader.read())
            devices = {}
            for text in options.when:
                device = opened.enter_context(subscribed(options.path, text))
                devices[device.fileno()] = device
                watch.add(text)
        except OSError as error:
            tell("watch", explain(options.path, error))
            return 2
        try:
            with output:
                _follow(watch, reader, devices, output)
        except ThresholdError as error:  # a new daemon that has not the figures of the old one
            tell("watch", explain(options.path, error))
            return 1
    return 0


@dataclass(frozen=True)
class Note:
    """Something that happened, and when, in seconds since the epoch."""

    when_s: float
    kind: str
    """up, down, lost or restored"""
    text: str


@dataclass(frozen=True)
class Line:
    """A threshold, in pages, and the name of the figure that has it."""

    name: str
    pages: Pages


class Watch:
    """What is to be seen; in the history there is None where nobody served the device."""

    def __init__(self, path: str, interval_s: float, figures: Figures) -> None:
        self.path = path
        self.interval_s = interval_s
        self.last = figures
        self.history: deque[Figures | None] = deque(maxlen=HISTORY)
        self.notes: deque[Note] = deque(maxlen=HISTORY)
        self.lines: list[Line] = []
        self._texts: list[str] = []

    @property
    def lost(self) -> bool:
        """Whether nobody serves the device."""
        return bool(self.history) and self.history[-1] is None

    def add(self, thresholds: str) -> None:
        """Watch more thresholds, as they were written to the device."""
        self._texts.append(thresholds)
        self._measure()

    def look(self, reader: Memnotify, now_s: float) -> Sequence[Note]:
        """Take a sample; return what it shows to have happened."""
        was_lost = self.lost
        try:
            figures = reader.read()
        except OSError as error:
            self.history.append(None)
            # What to do about it is the last that it says.
            hint = str(error.strerror).rpartition("; ")[2]
            return [] if was_lost else self._note(now_s, "lost", hint)
        if figures.total != self.last.total:
            self.last = figures
            self._measure()
        self.last = figures
        self.history.append(figures)
        return self._note(now_s, "restored", "it is served again") if was_lost else []

    def tell(self, changes: Sequence[Change], figures: Figures, now_s: float) -> Sequence[Note]:
        """Take an event's changes; return them as what has happened."""
        return [
            note
            for change in changes
            for note in self._note(now_s, "up" if change.up else "down", crossing(change, figures))
        ]

    def _note(self, now_s: float, kind: str, text: str) -> Sequence[Note]:
        self.notes.append(Note(now_s, kind, text))
        return [self.notes[-1]]

    def _measure(self) -> None:
        """Find out the thresholds in pages, of what is the total now."""
        found = {
            Line(name, Pages(pages, self.last.total))
            for text in self._texts
            for name, pages in parse(text.encode(errors="surrogateescape"), self.last).items()
        }
        self.lines = sorted(found, key=lambda line: (line.name, line.pages))


def crossing(change: Change, figures: Figures) -> str:
    """Return what crossed, and where it is now."""
    threshold, now = Pages(change.threshold, figures.total), figures[change.name]
    relation = "reached" if change.up else "fell below"
    return f"{change.name} {relation} {amount(threshold)}: now {amount(now)}"


def amount(pages: Pages) -> str:
    """Return it in percent and in human units."""
    return f"{pages.percent:.1f} % ({human(pages.bytes)})"


class Output(Protocol):
    """Where it is shown, while the block is not left."""

    def show(self, watch: Watch, news: Sequence[Note], *, looked: bool) -> None:
        """Show what has happened, and whether there was a new look at the figures."""

    def fds(self) -> Sequence[int]:
        """Return the descriptors of which it wants to know that they are readable."""

    def ready(self, fd: int) -> bool:
        """Take what has come by a descriptor; return whether it goes on."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """Leave everything as it was."""


class Lines:
    """Lines on stdout."""

    def show(self, watch: Watch, news: Sequence[Note], *, looked: bool) -> None:
        """Print a line for each event, and one for the figures."""
        for note in news:
            print(f"{stamp(note.when_s)} {note.text}")
        if looked and not watch.lost:
            figures = watch.last
            told = "  ".join(
                f"{name} {human(figures[name].bytes)} {figures[name].percent:.1f} %"
                for name in figures.names
                if name != "total"
            )
            print(f"{stamp(time.time())} {told}  of {human(figures.total.bytes)}")
        sys.stdout.flush()

    def fds(self) -> Sequence[int]:
        """Return none: Ctrl-C is a signal."""
        return ()

    def ready(self, _fd: int) -> bool:
        """Go on."""
        return True

    def __enter__(self) -> Self:
        """Return it itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def stamp(when_s: float) -> str:
    """Return a time as a line begins with it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when_s))


def _follow(watch: Watch, reader: Memnotify, devices: dict[int, Memnotify], output: Output) -> None:
    poller = select.poll()
    for fd in (*devices, *output.fds()):
        poller.register(fd, select.POLLIN)
    next_s = time.monotonic()
    news: list[Note] = []
    while True:
        looked = time.monotonic() >= next_s
        if looked:
            next_s = time.monotonic() + watch.interval_s
            news += watch.look(reader, time.time())
        output.show(watch, news, looked=looked)
        news = []
        for fd, _ in poller.poll(max(0, math.ceil(1000 * (next_s - time.monotonic())))):
            if fd not in devices:
                if not output.ready(fd):
                    return
                continue
            event = devices[fd].wait(0)
            if isinstance(event, Restored if watch.lost else Lost):
                news += watch.look(reader, time.time())
            if isinstance(event, Crossed | Restored):
                news += watch.tell(event.changes, event.after, time.time())


def _interval(text: str) -> float:
    number = seconds(text)
    if number < _INTERVAL_MIN_S:
        raise argparse.ArgumentTypeError(f"{text!r} is too often: {_INTERVAL_MIN_S} s at least")
    return number
