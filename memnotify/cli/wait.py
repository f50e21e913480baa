# SPDX-License-Identifier: MIT
"""``memnotify wait``: sleep until a threshold is crossed."""

import argparse
import json
import math
import time

from memnotify.cli import add_command
from memnotify.cli.common import (
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
from memnotify.client import PAGE_SIZE, Crossed, default_path

_DESCRIPTION = """\
Wait until one of the thresholds is crossed, up or down, and print the figures.

A threshold is the name of a figure and a value: pages, a percentage of total, or a size.
  memnotify wait 'used 80%'
  memnotify wait 'used 6G active 1500000'
  memnotify wait 'used 80%' --up --count 0 --json
A threshold that is exceeded at the start is not an event; falling below it is. With --now
it counts at once; with --down, a figure that is below its threshold at the start does.
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
    end_s = None if options.timeout is None else time.monotonic() + options.timeout
    try:
        device = subscribed("wait", options.path, options.thresholds, reopen=False)
    except OSError as error:
        report("wait", explain(options.path, error))
        return 2
    with device:
        echo("wait", device)
        left = options.count or math.inf
        holds = holding(device, up=not options.down) if options.now else ()
        if holds:
            _print(Crossed(device.figures, device.figures, holds), options)
            left -= 1
        while left:
            try:
                event = device.wait(None if end_s is None else max(0, end_s - time.monotonic()))
            except OSError as error:
                report("wait", explain(options.path, error))
                return 1
            if event is None:
                return 3
            if isinstance(event, Crossed) and _wanted(event, options):
                _print(event, options)
                left -= 1
    return 0


def _print(event: Crossed, options: argparse.Namespace) -> None:
    print(_as_json(event) if options.json else event.after, flush=True)


def _wanted(event: Crossed, options: argparse.Namespace) -> bool:
    if options.up or options.down:
        return any(change.up is options.up for change in event.changes)
    return True


def _as_json(event: Crossed) -> str:
    changes = [
        {"name": change.name, "threshold_pages": change.threshold, "direction": "up" if change.up else "down"}
        for change in event.changes
    ]
    before, after = as_object(event.before), as_object(event.after)
    return json.dumps({"page_size": PAGE_SIZE, "before": before, "after": after, "changes": changes})
