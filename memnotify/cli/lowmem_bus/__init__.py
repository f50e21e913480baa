# SPDX-License-Identifier: MIT
"""``memnotify lowmem-bus``: warn desktop programs over D-Bus."""

import argparse

from memnotify.cli import add_command
from memnotify.cli.common import EXTRA_MISSING, report, seconds
from memnotify.cli.lowmem_bus.levels import LEVELS, Limiter
from memnotify.client import DEFAULT_PATH

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
        from memnotify.cli.lowmem_bus import service  # noqa: PLC0415 - the one that needs dbus-fast
    except ModuleNotFoundError as error:
        if error.name != "dbus_fast":
            raise
        report(
            "lowmem-bus",
            "dbus-fast is not installed: apt install python3-dbus-fast, or pip install 'memnotify[dbus]'",
        )
        return EXTRA_MISSING
    thresholds = {number: getattr(options, level) for level, number in LEVELS.items()}
    return service.serve(options.path, thresholds, Limiter(options.interval))
