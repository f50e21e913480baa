# SPDX-License-Identifier: MIT
"""The ``memnotify`` command: one file for each subcommand."""

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from memnotify import __version__, interrupts

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS = (
    "serve",
    "check-config",
    "read",
    "wait",
    "run",
    "watch",
    "env",
    "lowmem-bus",
    "simulate",
    "inject",
    "status",
    "exporter",
    "upgrade",
    "doctor",
)
"""The names of the commands, in the order of --help."""
EXTRA_MISSING = 4
"""The exit code of a command that needs a module that is not installed."""
# Those that import more when they run, and call interrupts.raise_again() after that.
_IMPORTING = ("serve", "watch", "lowmem-bus", "simulate", "exporter")

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
  memnotify simulate SCRIPT -- COMMAND    run a command on figures that are made up
  memnotify inject FIGURES --for S    report figures that are made up to every program
  memnotify status             show what the running daemon does
  memnotify exporter           serve metrics to Prometheus
  memnotify upgrade            replace the running daemon, with its clients
  memnotify doctor             check everything that the device depends on
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal.

    argparse itself would import shutil for the width, and with it three compression libraries: 0.5 MB
    that the daemon keeps, as add_argument() creates a formatter.
    """

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else 0
        if width == 0 and sys.__stdout__ is not None:
            with contextlib.suppress(OSError, ValueError):
                width = os.get_terminal_size(sys.__stdout__.fileno()).columns
        # A margin of two columns, as in argparse.
        super().__init__(prog, width=(width or 80) - 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; ``arguments`` defaults to the process's own."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the process that started this one
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the end
    with contextlib.suppress(ValueError):  # not the main thread: this is part of another program
        _prepare_signals()
    try:
        return _answer(sys.argv[1:] if arguments is None else arguments)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _discard(sys.stderr)


def _prepare_signals() -> None:
    # If the parent process ignores SIGCHLD, so does this one, and could not wait for a child.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if os.getpid() == 1:
        # The kernel drops a signal to the init process of a container if that has no handler for it
        # (kernel/signal.c:sig_task_ignored, SIGNAL_UNKILLABLE).
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as a shell reports it


def _answer(arguments: Sequence[str]) -> int:
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it
    except BrokenPipeError:
        code = 141  # 128 + SIGPIPE: the reader of the output has gone
    except OSError as error:
        code = 1
        with contextlib.suppress(OSError):
            print(f"memnotify: {error}", file=sys.stderr)
    _discard(sys.stdout)
    return code


def _discard(stream: TextIO) -> None:
    """Drop what the stream has buffered: Python would try to write it at exit, and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser whose exit code does not depend on whether its message could be written."""

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        # Python 3.11.2, Debian 12's, raises the OSError, which newer ones suppress: exit code 1 instead of 2.
        with contextlib.suppress(OSError):
            super()._print_message(message, file)


def make_parser(*names: str) -> argparse.ArgumentParser:
    """Return the parser of the commands of these names."""
    parser = _Parser(prog="memnotify", description=_DESCRIPTION, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"memnotify {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        importlib.import_module(f"memnotify.cli.{name.replace('-', '_')}").add_to(commands)
    return parser


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a command and return its parser. ``summary`` is its line in the list of commands."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=_Help,
    )


def _run(arguments: Sequence[str]) -> int:
    # Import the module of one command: the daemon keeps in memory what it imports.
    names = arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS
    if not arguments:
        make_parser(*names).print_help(sys.stderr)
        return 2
    parser = make_parser(*names)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = ""
        if any(re.fullmatch(r"[0-9.]+[%KMGT]?", each) for each in unknown):
            hint = " (quote a threshold, as in 'used 80%')"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    # Not options.command: `simulate` and `run` have the user's command there.
    if arguments[0] not in _IMPORTING:
        interrupts.raise_again()
    return int(options.run(options))
