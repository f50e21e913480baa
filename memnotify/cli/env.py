# SPDX-License-Identifier: MIT
"""``memnotify env``: the environment that makes a program of systemd's memory-pressure protocol a client."""

import argparse
import base64
import os
import shlex

from memnotify.abi.figures import EXTRA_FIGURES, NAMES
from memnotify.cli import add_command
from memnotify.cli.common import NOTHING_WATCHED, report
from memnotify.cli.doctor.probe import read_kib
from memnotify.client import PAGE_SIZE, Figures, ThresholdError, default_path
from memnotify.client._thresholds import check_reachable, doubts, parse, spell

_DESCRIPTION = """\
Print the two variables with which a program that follows systemd's
memory-pressure protocol (https://systemd.io/MEMORY_PRESSURE), as all programs on
sd-event do, watches thresholds instead of the kernel's pressure figures:

  MEMORY_PRESSURE_WATCH   the device, or the socket of 'memnotify serve --socket'
  MEMORY_PRESSURE_WRITE   the thresholds, in base64

For a shell, or with --format unit as a drop-in for a service:
  eval "$(memnotify env --when 'used 80%')" && exec my-daemon
  memnotify env --when 'used 80%' --format unit \\
    >/etc/systemd/system/my.service.d/memory.conf

The program calls its callback at each crossing, up and down. sd-event accepts a
character device or a socket. It refuses the FUSE file that is served without
CUSE: name the socket there. GLib's GMemoryMonitor (2.90) is the other way round:
it accepts the device, also as a FUSE file, and gets no event from the socket.
It needs GIO_USE_MEMORY_MONITOR=psi as well, and spins once the daemon has ended
(BindsTo=).
A threshold above this machine's total, which can never
be reached, is refused. Thresholds on extra figures (available, free, ...) need
a device that has them: 'memnotify serve --figures'.
"""
_EPILOG = """\
exit codes: 0 printed; 2 thresholds not understood, or wrong arguments
"""
# The device is not asked: it may have any of the extra figures.
_ANY_NAMES = (*NAMES, *EXTRA_FIGURES)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "env", "print the variables of systemd's memory-pressure protocol", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("--when", metavar="THRESHOLDS", required=True, help="such as 'used 80%%'")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--path", type=_path, default=default_path(), help="the device (default: %(default)s)")
    where.add_argument(
        "--socket", type=_path, metavar="PATH", help="the socket of 'memnotify serve --socket PATH'"
    )
    parser.add_argument(
        "--format",
        choices=("shell", "unit"),
        default="shell",
        help="export commands for a shell, or a drop-in for a systemd unit (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the variables; return the exit code."""
    # A socket takes each line as a write of its own; the device takes a newline as a blank.
    thresholds = " ".join(options.when.split())
    try:
        (writing,) = spell(thresholds, {})
        levels = parse(writing.text, _ANY_NAMES)
        if not levels:
            report("env", f"--when: {NOTHING_WATCHED}")
            return 2
        figures = _figures()
        check_reachable(levels, figures)
    except ThresholdError as error:
        report("env", f"--when: {error.strerror}")
        return 2
    for doubt in doubts(levels, writing.given, figures):
        report("env", f"warning: {doubt}")
    variables = {
        "MEMORY_PRESSURE_WATCH": options.path if options.socket is None else options.socket,
        "MEMORY_PRESSURE_WRITE": base64.b64encode(os.fsencode(thresholds) + b"\n").decode(),
    }
    if options.format == "unit":
        # Otherwise the manager would set the same variables to the kernel's pressure figures.
        print("[Service]\nMemoryPressureWatch=skip")
    for name, value in variables.items():
        if options.format == "unit":
            # systemd.syntax(7), and % begins a specifier.
            escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("%", "%%")
            print(f'Environment="{name}={escaped}"')
        else:
            print(f"export {name}={shlex.quote(value)}")
    return 0


def _figures() -> Figures:
    """Return figures with this machine's total, as the device may be served later only."""
    kib = read_kib("/proc/meminfo")
    total = (kib["MemTotal"] + kib["SwapTotal"]) * 1024 // PAGE_SIZE
    return Figures((("total", total), ("used", 0), ("active", 0)))


def _path(text: str) -> str:
    """Check an argument: sd-event refuses a path that is not absolute and normalized."""
    if not text.startswith("/") or os.path.normpath(text) != text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} must be an absolute path without '.', '..' or '//'")
    return text
