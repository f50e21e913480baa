# SPDX-License-Identifier: MIT
"""``memnotify lowmem-bus``: warn desktop programs over D-Bus."""

import argparse

from memnotify import interrupts
from memnotify.abi.figures import CGROUP
from memnotify.cli import EXTRA_MISSING, add_command
from memnotify.cli.common import reap_orphans, report, seconds
from memnotify.cli.lowmem_bus.levels import LEVELS, WarningLimiter
from memnotify.client import default_path

_DESCRIPTION = """\
Serve org.freedesktop.LowMemoryMonitor on the system bus, until SIGTERM or SIGINT. Programs
that use GLib's GMemoryMonitor listen to it. The command is an ordinary client of the device.

  memnotify lowmem-bus
  memnotify lowmem-bus --low 'used 70%' --medium 'used 6G' --critical 'used 90% active 50%'

Each time a threshold of a level is reached, one warning of that level is sent, at once. One
second after the start a warning is sent of what is exceeded already. In the interval after a
warning only a more severe one is sent. The levels that are reached meanwhile, and still are at
its end, cause one warning, of the most severe level. 'used 0' is never reached: it disables a
level. 'cgroup' is refused: all programs hear the warning, and each has a cgroup of its own.

If another service has the name, the command sends nothing, and takes over when that service
ends. If the daemon ends, the command waits for it to come back.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 no bus, the bus has ended, or this user may not have the name;
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
            type=_of_the_machine,
            metavar="THRESHOLDS",
            default=_DEFAULTS[level],
            help=f"send {number} when one is reached (default: '{_DEFAULTS[level]}')".replace("%", "%%"),
        )
    parser.add_argument(
        "--interval",
        type=seconds,
        metavar="S",
        default=15.0,
        help="for S seconds after a warning send only a more severe one (default: 15)",
    )
    parser.add_argument("--path", default=default_path(), help="the device (default: %(default)s)")
    parser.set_defaults(run=run)


def _of_the_machine(text: str) -> str:
    """Return the thresholds of a level. Raises ArgumentTypeError if one is on a cgroup."""
    if CGROUP in text.replace("=", " ").split():
        raise argparse.ArgumentTypeError(
            "'cgroup' would be this service's own cgroup, but all programs hear the warning: each program"
            " can watch its own, by memnotify.client or 'memnotify run'"
        )
    return text


def run(options: argparse.Namespace) -> int:
    """Serve; return the exit code."""
    try:
        from memnotify.cli.lowmem_bus import service  # noqa: PLC0415 - the module that needs dbus-fast
    except ModuleNotFoundError as error:
        if error.name != "dbus_fast":
            raise
        report(
            "lowmem-bus",
            "dbus-fast is not installed: apt install python3-dbus-fast, or pip install dbus-fast",
        )
        return EXTRA_MISSING
    interrupts.raise_again()
    reap_orphans()
    thresholds = {number: getattr(options, level) for level, number in LEVELS.items()}
    return service.serve(options.path, thresholds, WarningLimiter(options.interval))
