# SPDX-License-Identifier: MIT
"""``memnotify lowmem-bus``: warn desktop programs over D-Bus."""

import argparse
import math
from collections.abc import Iterable

from memnotify.cli import add_command
from memnotify.cli.tell import tell
from memnotify.cli.wait import EXTRA_MISSING, seconds
from memnotify.client import DEFAULT_PATH, Change

_DESCRIPTION = """\
Serve org.freedesktop.LowMemoryMonitor on the system bus, until SIGTERM or SIGINT. Programs
that use GLib's GMemoryMonitor listen to it. It is a client of the device like any other.

  memnotify lowmem-bus
  memnotify lowmem-bus --low 'used 70%' --medium 'used 6G' --critical 'used 90% active 50%'

A level whose thresholds are reached is warned of once: what holds already at the start, or
goes on, is no news. A warning is sent at once, but in the interval after it only a graver
one; what is reached meanwhile and still holds then makes one warning, of the gravest.
'used 0' is never reached, and so means that there is no such level.

If the name is taken it waits, silently, and takes over when the other service ends. A daemon
that ends is waited for.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 no bus, the bus has ended, or it lets this user not have the name;
            2 thresholds not understood, no device, or wrong arguments; 4 dbus-fast is missing
"""
LEVELS = {"low": 50, "medium": 100, "critical": 255}
"""GMemoryMonitorWarningLevel."""
_DEFAULTS = {"low": "used 80%", "medium": "used 90%", "critical": "used 95%"}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands,
        "lowmem-bus",
        "warn desktop programs over D-Bus (GLib's GMemoryMonitor)",
        _DESCRIPTION,
        _EPILOG,
    )
    for level, number in LEVELS.items():
        parser.add_argument(
            f"--{level}",
            metavar="THRESHOLDS",
            default=_DEFAULTS[level],
            help=f"send {number} when one is reached (default: '{_DEFAULTS[level]}')".replace("%", "%%"),
        )
    parser.add_argument(
        "--interval",
        type=seconds,
        metavar="S",
        default=15.0,
        help="after a warning only a graver one for S seconds (default: 15)",
    )
    parser.add_argument("--path", default=DEFAULT_PATH, help="the device (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve; return the exit code."""
    try:
        from memnotify.cli import bus  # noqa: PLC0415 - the one that needs dbus-fast
    except ModuleNotFoundError as error:
        if error.name != "dbus_fast":
            raise
        tell(
            "lowmem-bus",
            "dbus-fast is not installed: apt install python3-dbus-fast, or pip install 'memnotify[dbus]'",
        )
        return EXTRA_MISSING
    thresholds = {number: getattr(options, level) for level, number in LEVELS.items()}
    return bus.serve(options.path, thresholds, Limiter(options.interval))


class Limiter:
    """Which level is to be warned of, and when. Pure: the time is passed in, in seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._reached: dict[int, set[str]] = {}
        self._due: set[int] = set()
        self._sent = 0
        self._not_before_s = -math.inf

    def note(self, level: int, changes: Iterable[Change]) -> None:
        """Let the changes of a level's thresholds make it due, or no longer due."""
        names = self._reached.setdefault(level, set())
        for change in changes:
            if change.up:
                names.add(change.name)
                self._due.add(level)
            else:
                names.discard(change.name)
                if not names:
                    self._due.discard(level)

    def wait_s(self, now_s: float) -> float | None:
        """Return how long nothing is to be sent; None if that is up to the next change."""
        if not self._due:
            return None
        return 0.0 if max(self._due) > self._sent else max(0.0, self._not_before_s - now_s)

    def take(self, now_s: float) -> int | None:
        """Return the level to warn of now, if there is one; it is taken as sent."""
        if now_s >= self._not_before_s:
            self._sent = 0
        if self.wait_s(now_s) != 0:
            return None
        self._sent = max(self._due)
        self._due.clear()
        self._not_before_s = now_s + self._interval_s
        return self._sent
