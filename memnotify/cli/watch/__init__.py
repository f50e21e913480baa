# SPDX-License-Identifier: MIT
"""``memnotify watch``: the figures, their history and events, live."""

import argparse
import contextlib
import math
import select
import sys
import time
from collections.abc import Sequence
from typing import Protocol, Self

from memnotify import interrupts
from memnotify.abi.figures import CGROUP
from memnotify.cli import EXTRA_MISSING, add_command
from memnotify.cli.common import explain, human, reap_orphans, report, seconds, subscribed
from memnotify.cli.varlink import STATUS_SOCKET
from memnotify.cli.watch.model import Note, Watch
from memnotify.cli.watch.recorder import Recorder, RecordingError
from memnotify.client import (
    Crossed,
    Lost,
    Memnotify,
    Restored,
    ThresholdError,
    default_path,
)

_INTERVAL_MIN_S = 0.2

_DESCRIPTION = """\
Show the figures, their history, and the crossings of given thresholds.

  memnotify watch
  memnotify watch --when 'used 80%' --when 'used 90% active 6G'

On a terminal it draws a picture, until q or Ctrl-C; this needs rich. It also shows the processes or
cgroups with the most resident memory, swap, pressure (PSI), and other observers' thresholds.
Elsewhere, and with --plain, it prints a line for each interval and for each event. If the daemon
ends, the command waits for it to come back.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 a new daemon does not understand the thresholds, or the
            recording cannot be written; 2 thresholds not understood, no device, or wrong
            arguments; 4 rich is missing; 130 Ctrl-C with --plain
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "watch", "show the memory figures live", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--when",
        metavar="THRESHOLDS",
        action="append",
        default=[],
        help="show when one is crossed, such as 'used 80%%'; may be given several times",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        metavar="S",
        default=1.0,
        help="read the figures every S seconds, at least 0.2 (default: 1)",
    )
    parser.add_argument(
        "--record", metavar="FILE", help="write the figures to FILE too, for 'memnotify simulate @FILE'"
    )
    parser.add_argument("--plain", action="store_true", help="print lines, draw no picture")
    parser.add_argument(
        "--status-socket",
        metavar="PATH",
        default=STATUS_SOCKET,
        help="the daemon's status socket, for the thresholds of other observers (default: %(default)s)",
    )
    parser.add_argument("--path", default=default_path(), help="the device (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Watch; return the exit code."""
    reap_orphans()
    output: Output = Lines()
    if not options.plain and sys.stdout.isatty():
        try:
            from memnotify.cli.watch import view  # noqa: PLC0415 - the module that needs rich
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "rich":
                raise
            report(
                "watch",
                "rich is not installed: apt install python3-rich, or pip install rich, or use --plain",
            )
            return EXTRA_MISSING
        if view.can_draw():
            output = view.Terminal(options.path, options.status_socket)
    interrupts.raise_again()
    with contextlib.ExitStack() as opened:
        try:
            reader = opened.enter_context(contextlib.closing(Memnotify(options.path)))
            watch = Watch(options.path, options.interval, reader.read())
            if options.record is not None:
                watch.record = opened.enter_context(Recorder(options.record))
            devices = {}
            for text in options.when:
                device = opened.enter_context(subscribed("watch", options.path, text))
                devices[device.fileno()] = device
                watch.add(text)
            # Others do not read the cgroup's figures.
            reader = next(filter(_is_on_cgroup, devices.values()), reader)
        except RecordingError as error:
            report("watch", str(error))
            return 2
        except OSError as error:
            report("watch", explain(options.path, error))
            return 2
        try:
            with output:
                _follow(watch, reader, devices, output)
        except (ThresholdError, RecordingError) as error:  # a new daemon lacks a figure of the old one
            report("watch", explain(options.path, error) if isinstance(error, OSError) else str(error))
            return 1
    return 0


def _is_on_cgroup(device: Memnotify) -> bool:
    return any(name == CGROUP for name, _ in device.thresholds)


class Output(Protocol):
    """Where figures and events are shown, within a ``with`` block."""

    def show(self, watch: Watch, news: Sequence[Note], *, sampled: bool) -> None:
        """Show new events; and the figures, if they were ``sampled``."""

    def fds(self) -> Sequence[int]:
        """Return the descriptors to poll for POLLIN."""

    def ready(self, fd: int) -> bool:
        """Handle a readable descriptor; return False if the user wants to end."""

    def __enter__(self) -> Self:
        """Prepare the output."""

    def __exit__(self, *_: object) -> None:
        """Restore the state before the block."""


class Lines:
    """Lines on stdout."""

    def show(self, watch: Watch, news: Sequence[Note], *, sampled: bool) -> None:
        """Print a line for each event, and one for the figures if they were sampled."""
        for note in news:
            print(f"{stamp(note.when_s)} {note.text}")
        if sampled and not watch.lost:
            figures = watch.last
            shown = "  ".join(
                f"{name} {human(figures[name].bytes)} {figures[name].percent:.1f} %"
                for name in figures.names
                if name != "total"
            )
            print(f"{stamp(time.time())} {shown}  of {human(figures.total.bytes)}")
        sys.stdout.flush()

    def fds(self) -> Sequence[int]:
        """Return no descriptors: Ctrl-C is a signal."""
        return ()

    def ready(self, _fd: int) -> bool:
        """Return True: the command goes on."""
        return True

    def __enter__(self) -> Self:
        """Return the output."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def stamp(when_s: float) -> str:
    """Return the time that begins a line."""
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
        raise argparse.ArgumentTypeError(f"{text!r} is too short: at least {_INTERVAL_MIN_S} s")
    return number
