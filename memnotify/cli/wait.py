# SPDX-License-Identifier: MIT
"""``memnotify wait``: sleep until a threshold is crossed."""

import argparse
import errno
import json
import math
import time

from memnotify.cli import add_command
from memnotify.cli.common import explain, tell
from memnotify.cli.read import as_object
from memnotify.client import DEFAULT_PATH, PAGE_SIZE, Crossed, Memnotify, ThresholdError
from memnotify.client._thresholds import parse, spell

EXTRA_MISSING = 4
"""The exit code of a command whose extra is not installed."""
NOTHING_WATCHED = "nothing is watched: give a threshold, such as 'used 80%'"
"""What to tell the user of thresholds that would be waited for in vain."""

_DESCRIPTION = """\
Wait until one of the thresholds is crossed, up or down, and print the figures' line.

A threshold is a figure's name and a value: pages, a percentage of total, or a size.
  memnotify wait 'used 80%'
  memnotify wait 'used 6G active 1500000'
  memnotify wait 'used 80%' --up --count 0 --json
A threshold that is exceeded already is not an event; going below it is.
"""
_EPILOG = """\
exit codes: 0 crossed; 1 the daemon ended while waiting; 2 thresholds not understood,
            no device, or wrong arguments; 3 time-out
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "wait", "wait until a threshold is crossed", _DESCRIPTION, _EPILOG)
    parser.add_argument("thresholds", metavar="THRESHOLDS", help="such as 'used 80%%'")
    parser.add_argument("--path", default=DEFAULT_PATH, help="the device (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, metavar="S", help="give up S seconds after the start (default: never)"
    )
    parser.add_argument(
        "--count",
        type=count,
        metavar="N",
        default=1,
        help="end after N events, 0 for never (default: %(default)s)",
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--up", action="store_true", help="only when a figure reached its threshold")
    direction.add_argument("--down", action="store_true", help="only when a figure fell below its threshold")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object for each event: the figures before and after,"
        " and the thresholds that changed side",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Wait; return the exit code."""
    end_s = None if options.timeout is None else time.monotonic() + options.timeout
    try:
        device = subscribed(options.path, options.thresholds, reopen=False)
    except OSError as error:
        tell("wait", explain(options.path, error))
        return 2
    with device:
        left = options.count or math.inf
        while left:
            try:
                event = device.wait(None if end_s is None else max(0, end_s - time.monotonic()))
            except OSError as error:
                tell("wait", explain(options.path, error))
                return 1
            if event is None:
                return 3
            if isinstance(event, Crossed) and _wanted(event, options):
                print(_as_json(event) if options.json else event.after, flush=True)
                left -= 1
    return 0


def subscribed(path: str, thresholds: str, *, reopen: bool = True) -> Memnotify:
    """Return the device, open and subscribed to. Raises OSError, also if it would watch nothing."""
    device = Memnotify(path, reopen=reopen)
    try:
        figures = device.subscribe(thresholds)
        if not parse(spell(thresholds, {}), figures.names):
            raise ThresholdError(errno.EINVAL, NOTHING_WATCHED)
    except OSError:
        device.close()
        raise
    return device


def seconds(text: str) -> float:
    """Convert an argument. epoll takes milliseconds as an int, so 24 days are the most."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 2_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 2000000")
    return number


def count(text: str) -> int:
    """Convert an argument."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 3, or 0 for no end")
    return int(text)


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
