# SPDX-License-Identifier: MIT
"""``memnotify wait``: sleep until a threshold is crossed."""

import argparse
import errno
import math
import sys

from memnotify.cli.read import no_device
from memnotify.client import DEFAULT_PATH, Memnotify

_DESCRIPTION = """\
Wait until one of the thresholds is crossed, up or down, and print the figures' line.

A threshold is a figure's name and a value: pages, a percentage of total, or a size.
  memnotify wait 'used 80%'
  memnotify wait 'used 6G active 1500000'
A threshold that is exceeded already is not an event; going below it is.
"""
_EPILOG = """\
exit codes: 0 crossed; 1 the daemon ended while waiting; 2 thresholds not understood,
            no device, or wrong arguments; 3 time-out
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = commands.add_parser(
        "wait",
        help="wait until a threshold is crossed",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("thresholds", metavar="THRESHOLDS", help="such as 'used 80%%'")
    parser.add_argument("--path", default=DEFAULT_PATH, help="the device (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="S", help="give up after S seconds (default: never)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Wait; return the exit code."""
    try:
        device = Memnotify(options.path)
    except OSError as error:
        print(no_device("wait", options.path, error), file=sys.stderr)
        return 2
    with device:
        try:
            device.read()  # or an ordinary file would be written to
            device.subscribe(options.thresholds)
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno != errno.EINVAL:
                print(no_device("wait", options.path, error), file=sys.stderr)
            else:
                print(
                    f"memnotify wait: {options.thresholds!r} is not understood: write pairs of a name"
                    " (total, used, active) and a value (5000 pages, 80%, 1.5G), such as 'used 80%'",
                    file=sys.stderr,
                )
            return 2
        try:
            figures = device.wait(options.timeout)
        except (OSError, ValueError) as error:
            print(f"memnotify wait: {options.path}: {error}", file=sys.stderr)
            return 1
    if figures is None:
        return 3
    print(" ".join(f"{name} {pages}" for name, pages in figures._asdict().items()))
    return 0


def _seconds(text: str) -> float:
    """Convert an argument. poll() takes milliseconds as an int, so 24 days are the most."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 2_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 2000000")
    return seconds
