# SPDX-License-Identifier: MIT
"""``memnotify watch``: the figures and what happens to them, live."""

import argparse
import contextlib
import math
import select
import sys
import time
from collections.abc import Sequence
from typing import Protocol, Self

from memnotify.cli import add_command
from memnotify.cli.common import EXTRA_MISSING, explain, human, report, seconds, subscribed
from memnotify.cli.watch.model import Note, Watch
from memnotify.client import (
    DEFAULT_PATH,
    Crossed,
    Lost,
    Memnotify,
    Restored,
    ThresholdError,
)

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
            from memnotify.cli.watch import view  # noqa: PLC0415 - the one that needs rich
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "rich":
                raise
            report(
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
            report("watch", explain(options.path, error))
            return 2
        try:
            with output:
                _follow(watch, reader, devices, output)
        except ThresholdError as error:  # a new daemon that has not the figures of the old one
            report("watch", explain(options.path, error))
            return 1
    return 0


class Output(Protocol):
    """Where it is shown, while the block is not left."""

    def show(self, watch: Watch, news: Sequence[Note], *, sampled: bool) -> None:
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

    def show(self, watch: Watch, news: Sequence[Note], *, sampled: bool) -> None:
        """Print a line for each event, and one for the figures."""
        for note in news:
            print(f"{stamp(note.when_s)} {note.text}")
        if sampled and not watch.lost:
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
        sampled = time.monotonic() >= next_s
        if sampled:
            next_s = time.monotonic() + watch.interval_s
            news += watch.sample(reader, time.time())
        output.show(watch, news, sampled=sampled)
        news = []
        for fd, _ in poller.poll(max(0, math.ceil(1000 * (next_s - time.monotonic())))):
            if fd not in devices:
                if not output.ready(fd):
                    return
                continue
            event = devices[fd].wait(0)
            if isinstance(event, Restored if watch.lost else Lost):
                news += watch.sample(reader, time.time())
            if isinstance(event, Crossed | Restored):
                news += watch.add_changes(event.changes, event.after, time.time())


def _interval(text: str) -> float:
    number = seconds(text)
    if number < _INTERVAL_MIN_S:
        raise argparse.ArgumentTypeError(f"{text!r} is too often: {_INTERVAL_MIN_S} s at least")
    return number
