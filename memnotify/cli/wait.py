# SPDX-License-Identifier: MIT
"""``memnotify wait``: sleep until a threshold is crossed."""

import argparse
import json
import math
import time
from collections.abc import Iterator

from memnotify.cli import add_command
from memnotify.cli.causes import Causes
from memnotify.cli.common import (
    add_durations,
    as_object,
    count,
    echo,
    explain,
    holding,
    reap_orphans,
    report,
    seconds,
    subscribed,
)
from memnotify.client import PAGE_SIZE, Crossed, Event, Memnotify, default_path

_DESCRIPTION = """\
Wait until one of the thresholds is crossed, up or down, and print the figures.

A threshold is the name of a figure and a value: pages, a percentage of total, or a size.
  memnotify wait 'used 80%'
  memnotify wait 'used 6G active 1500000'
  memnotify wait 'used 80%' --up --count 0 --json
A threshold that is exceeded at the start is not an event; falling below it is. With --now
it counts at once; with --down, a figure that is below its threshold at the start does.
With --for S, a crossing counts once the figure has stayed on that side for S seconds.
"""
_EPILOG = """\
exit codes: 0 crossed; 1 the daemon has ended; 2 thresholds not understood,
            no device, or wrong arguments; 3 time-out
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "wait", "wait until a threshold is crossed", _DESCRIPTION, _EPILOG)
    parser.add_argument("thresholds", metavar="THRESHOLDS", help="such as 'used 80%%'")
    parser.add_argument("--path", default=default_path(), help="the device (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="end S seconds after the start (default: never)"
    )
    parser.add_argument(
        "--count",
        type=count,
        metavar="N",
        default=1,
        help="end after N events; 0: never (default: %(default)s)",
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--up", action="store_true", help="only when a figure reached its threshold")
    direction.add_argument("--down", action="store_true", help="only when a figure fell below its threshold")
    parser.add_argument("--now", action="store_true", help="count what holds at the start as the first event")
    add_durations(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each event: the figures before and after,"
        " and the thresholds that changed side",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Wait; return the exit code."""
    reap_orphans()
    try:
        device = subscribed("wait", options.path, options.thresholds, reopen=False)
    except OSError as error:
        report("wait", explain(options.path, error))
        return 2
    with device:
        echo("wait", device, until_reached=options.up and not options.now)
        events, left = _crossings(device, options), options.count or math.inf
        while left:
            try:
                event = next(events, None)
            except OSError as error:
                report("wait", explain(options.path, error))
                return 1
            if event is None:
                return 3
            # An error of the output is none of the device: it leaves this function.
            print(_as_json(event) if options.json else event.after, flush=True)
            left -= 1
        return 0


def _crossings(device: Memnotify, options: argparse.Namespace) -> Iterator[Crossed]:
    """Give each event that counts, until the time-out. Raises OSError."""
    causes = Causes(for_s=options.for_s)
    direction = options.up if options.up or options.down else None
    quiet_until_s = -math.inf
    now_s = time.monotonic()
    end_s = math.inf if options.timeout is None else now_s + options.timeout
    event: Event | None = None
    if options.now:
        holds = holding(device, up=not options.down)
        event = Crossed(device.figures, device.figures, holds) if holds else None
    while True:
        if isinstance(event, Crossed):
            if options.for_s:
                causes.note(event.changes, event.after, now_s, up=direction)
                event = None
            elif not _wanted(event, direction=direction):
                event = None
        changes = causes.take_all(now_s)
        if changes:
            event = Crossed(device.figures, device.read(), changes)
        if isinstance(event, Crossed) and now_s >= quiet_until_s:
            yield event
            quiet_until_s = now_s + options.quiet_for_s
        if now_s >= end_s:
            return
        counts_s = causes.wait_s(now_s)
        timeout = min(end_s - now_s, math.inf if counts_s is None else counts_s)
        event = device.wait(None if timeout == math.inf else timeout)
        now_s = time.monotonic()


def _wanted(event: Crossed, *, direction: bool | None) -> bool:
    return direction is None or any(change.up is direction for change in event.changes)


def _as_json(event: Crossed) -> str:
    changes = [
        {"name": change.name, "threshold_pages": change.threshold, "direction": "up" if change.up else "down"}
        for change in event.changes
    ]
    before, after = as_object(event.before), as_object(event.after)
    return json.dumps({"page_size": PAGE_SIZE, "before": before, "after": after, "changes": changes})
