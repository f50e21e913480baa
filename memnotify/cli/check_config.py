# SPDX-License-Identifier: MIT
"""``memnotify check-config``: the configuration that ``serve`` would use."""

import argparse
import io
import sys

from memnotify.cli import add_command
from memnotify.cli.serve import add_settings, load
from memnotify.config.settings import SETTINGS, ConfigError, show

_DESCRIPTION = """\
Check the configuration as 'memnotify serve' would, with the same options.
Print each value with its origin: the line of a file, the command line or the
defaults. The output can be used as a configuration file.
"""
_EPILOG = """\
exit codes: 0 valid; 2 not valid, a file cannot be read, or wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "check-config", "check the configuration, and print it", _DESCRIPTION, _EPILOG
    )
    add_settings(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the configuration; return the exit code."""
    try:
        settings, origins = load(options)
    except ConfigError as error:
        for problem in str(error).splitlines():
            print(f"memnotify check-config: {problem}", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file may have any bytes.
        sys.stdout.reconfigure(errors="backslashreplace")
    for setting in SETTINGS.values():
        line = f"{setting.name} = {show(getattr(settings, setting.attribute))}"
        notes = filter(None, (setting.unit, origins[setting.name]))
        print(f"{line:<30} # {', '.join(notes)}")
    return 0
