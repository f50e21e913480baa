# SPDX-License-Identifier: MIT
"""The ``memnotify`` command: one file for each subcommand."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from memnotify import __version__

_COMMANDS = ("serve", "check-config", "read", "wait", "run", "watch", "env", "lowmem-bus")

_DESCRIPTION = """\
A memory meter that programs can poll: /dev/memnotify in userspace.

  memnotify serve              serve /dev/memnotify, in the foreground
  memnotify check-config       check its configuration, and print it
  memnotify read               print the memory figures
  memnotify wait 'used 80%'    wait until use crosses 80 % of RAM + swap, up or down
  memnotify run --when 'used 80%' -- COMMAND    run a command each time it does, up
  memnotify env --when 'used 80%'    the variables of systemd's memory-pressure protocol
  memnotify watch              show the figures live
  memnotify lowmem-bus         warn desktop programs over D-Bus
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; ``arguments`` defaults to the process's own."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it
    except BrokenPipeError:
        code = 141  # 128 + SIGPIPE: the reader of our output has gone
    except OSError as error:
        code = 1
        with contextlib.suppress(OSError):
            print(f"memnotify: {error}", file=sys.stderr)
    # Nothing may be flushed to it at exit either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="memnotify", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"memnotify {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # The daemon, which stays in memory for good, has no use for what the others import.
    for name in arguments[:1] if arguments and arguments[0] in _COMMANDS else _COMMANDS:
        importlib.import_module(f"memnotify.cli.{name.replace('-', '_')}").add_to(commands)
    options = parser.parse_args(arguments)
    return int(options.run(options))
