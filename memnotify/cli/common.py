# SPDX-License-Identifier: MIT
"""What several commands share: arguments, messages on stderr, the form of figures, a device to wait for."""

import argparse
import contextlib
import errno
import math
import os
import signal
import sys
import warnings

from memnotify.client import (
    Change,
    DeviceLostError,
    DeviceMissingError,
    Figures,
    Memnotify,
    Pages,
    ThresholdError,
    ThresholdWarning,
)

NOTHING_WATCHED = "nothing is watched: give a threshold, such as 'used 80%'"
"""The message for thresholds that can never be crossed."""


def report(command: str, text: str) -> None:
    """Print a line on stderr. If that fails, as on a terminal that has gone, the command goes on."""
    with contextlib.suppress(OSError):
        print(f"memnotify {command}: {text}", file=sys.stderr, flush=True)


def explain(path: str, error: OSError) -> str:
    """Return the message for an error of a device, or of thresholds that were refused."""
    what = "" if isinstance(error, ThresholdError) and error.filename is None else f"{path}: "
    return f"{what}{error.strerror}"


def loss(error: OSError) -> str:
    """Return the text for a device that was lost, in a command that waits for the next daemon by itself."""
    if isinstance(error, DeviceLostError | DeviceMissingError):
        return "the device is no longer served"
    return f"the device cannot be read: {os.strerror(error.errno or errno.EIO)}"


def reap_orphans() -> None:
    """If this is the init process of a container, let the kernel reap the processes that it inherits.

    For a process that waits for no child any more: its own are reaped as well.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def seconds(text: str) -> float:
    """Convert an argument. At most 24 days: epoll takes milliseconds as an int."""
    try:
        number = float(text.removesuffix("s"))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 2_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 2000000")
    return number


def add_durations(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide which crossings count."""
    parser.add_argument(
        "--for",
        dest="for_s",
        type=seconds,
        metavar="S",
        default=0.0,
        help="count a crossing once the figure has stayed on that side for S seconds",
    )
    parser.add_argument(
        "--quiet-for",
        dest="quiet_for_s",
        type=seconds,
        metavar="S",
        default=0.0,
        help="ignore crossings for S seconds after one that counted",
    )


def count(text: str) -> int:
    """Convert an argument."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 3, or 0 for no end")
    return int(text)


def subscribe(command: str, device: Memnotify, thresholds: str) -> Figures:
    """Subscribe, with a line on stderr for what is probably not meant. Raises OSError."""
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", ThresholdWarning)
        figures = device.subscribe(thresholds)
    for doubt in doubts:
        report(command, f"warning: {doubt.message}")
    return figures


def subscribed(command: str, path: str | None, thresholds: str, *, reopen: bool = True) -> Memnotify:
    """Return the device, open and subscribed to. Raises OSError, also if it would watch nothing."""
    device = Memnotify(path, reopen=reopen)
    try:
        subscribe(command, device, thresholds)
        if not device.thresholds:
            raise ThresholdError(errno.EINVAL, NOTHING_WATCHED)
    except OSError:
        device.close()
        raise
    return device


def echo(command: str, device: Memnotify, *, until_reached: bool) -> None:
    """On a terminal: print how each threshold was understood, and where its figure is.

    Elsewhere print only what keeps a command waiting that waits ``until_reached``: a threshold that is
    exceeded already. So the journal of a service has it.
    """
    figures = device.figures
    for (name, given), exceeded in device.exceeded.items():
        if not (sys.stderr.isatty() or (exceeded and until_reached)):
            continue
        threshold, now = device.thresholds[name, given], figures[name]
        next_event = "it counts when it is reached again"
        if command in ("wait", "run"):
            next_event += " (with --now, at once)"
        if not until_reached:
            next_event = "falling below it is the next event"
        if command == "lowmem-bus":
            next_event = "a warning follows"
        state = f"exceeded already: {next_event}" if exceeded else "not reached yet"
        report(command, f"{name} {_amount(threshold)} is {state}; it is {_amount(now)} now")


def _amount(pages: Pages) -> str:
    return f"{pages.percent:.1f} % ({human(pages.bytes)})"


def holding(device: Memnotify, *, up: bool) -> tuple[Change, ...]:
    """Return the thresholds of a new subscription that are on this side, as changes."""
    thresholds = device.thresholds
    return tuple(
        Change(name, thresholds[name, given], up)
        for (name, given), exceeded in device.exceeded.items()
        if exceeded == up
    )


def human(size_bytes: float) -> str:
    """Return a size in the unit that fits it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def as_object(figures: Figures) -> dict[str, dict[str, float]]:
    """Return each figure in pages, bytes and percent of total, by name."""
    return {
        name: {"pages": pages, "bytes": pages.bytes, "percent": round(pages.percent, 3)}
        for name, pages in ((name, figures[name]) for name in figures.names)
    }
