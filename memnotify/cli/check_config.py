# SPDX-License-Identifier: MIT
"""``memnotify check-config``: the configuration that ``serve`` would use."""

import argparse
import io
import sys

from memnotify.abi.figures import select_extra_figures
from memnotify.cli import add_command
from memnotify.cli.common import report
from memnotify.cli.loading import obstacle
from memnotify.cli.serve import add_settings, load
from memnotify.config.settings import SETTINGS, ConfigError, Settings, show

_DESCRIPTION = """\
Check the configuration as 'memnotify serve' would, with the same options.
Print each value with its origin: the line of a file, the command line or the
defaults. The output can be used as a configuration file.
With --here, also check that a daemon with these settings can start on this
machine: its libraries, user, directories and figures.
"""
_EPILOG = """\
exit codes: 0 valid; 1 with --here, a daemon could not start; 2 not valid,
            a file cannot be read, or wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "check-config", "check the configuration, and print it", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("--here", action="store_true", help="check that a daemon could start here as well")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the configuration; return the exit code."""
    try:
        settings, origins = load(options)
    except ConfigError as error:
        for problem in str(error).splitlines():
            report("check-config", problem)
        return 2
    if options.here:
        problems = [text for check in _CHECKS if (text := check(settings))]
        for problem in problems:
            report("check-config", problem)
        if problems:
            return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file may have any bytes.
        sys.stdout.reconfigure(errors="backslashreplace")
    for setting in SETTINGS.values():
        line = f"{setting.name} = {show(getattr(settings, setting.attribute))}"
        notes = filter(None, (setting.unit, origins[setting.name]))
        print(f"{line:<30} # {', '.join(notes)}")
    return 0


def _check_libraries(_: Settings) -> str:
    return "; ".join(obstacle() or ())


def _check_user(settings: Settings) -> str:
    # Imported here, and below: the check of the files alone needs neither pwd nor the daemon.
    from memnotify.daemon.privileges import PrivilegesError, find_user  # noqa: PLC0415

    try:
        if settings.user:
            find_user(settings.user)
    except PrivilegesError as error:
        return str(error)
    return ""


def _check_places(settings: Settings) -> str:
    from memnotify.kernel.mounts import canonical_path  # noqa: PLC0415
    from memnotify.transports import TransportError  # noqa: PLC0415
    from memnotify.transports.paths import refuse_untrusted_directory  # noqa: PLC0415
    from memnotify.transports.unix_listener import check_place  # noqa: PLC0415

    try:
        if settings.path:
            refuse_untrusted_directory(canonical_path(settings.path))
        for place in filter(None, (settings.socket, settings.status_socket)):
            check_place(place)
    except (TransportError, OSError) as error:
        return str(error)
    return ""


def _check_figures(settings: Settings) -> str:
    from memnotify.kernel.meminfo import MemInfoError, MemInfoReader  # noqa: PLC0415

    try:
        extra = select_extra_figures(settings.figures)
        with MemInfoReader(pcp_is_free=settings.pcp_is_free, extra=extra) as reader:
            reader.read_exact()
    except (MemInfoError, OSError) as error:
        return str(error)
    return ""


_CHECKS = (_check_libraries, _check_user, _check_places, _check_figures)
