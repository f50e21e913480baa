# SPDX-License-Identifier: MIT
"""``memnotify inject``: made-up figures for every client of the running daemon, for a while."""

import argparse
import select

from memnotify.cli import add_command
from memnotify.cli.common import report, seconds
from memnotify.cli.varlink import CallError, Connection, add_socket_option

_DESCRIPTION = """\
Let the running daemon report figures that are NOT REAL, to rehearse how a whole machine reacts.

  memnotify inject 'used 95%' --for 5s

Each client whose threshold is crossed is notified, and reads the injected figures. Programs will
act on them: kill, drop caches, refuse work. The injection ends after --for, on Ctrl-C, and when this
command ends for any reason, SIGKILL included. The real figures then return, and clients are notified
again. 'memnotify status' and the daemon's log show an injection. Only root may inject. Figures that
are not given stay real. To test one command alone, use 'memnotify simulate'.
"""
_EPILOG = """\
exit codes: 0 injected, and the figures are real again; 1 the daemon ended the injection early;
            2 refused, no daemon with a status socket, or wrong arguments; 130 Ctrl-C
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "inject", "report made-up figures to every program", _DESCRIPTION, _EPILOG)
    parser.add_argument("figures", metavar="FIGURES", help="such as 'used 95%%' or 'used 15G active 2G'")
    parser.add_argument(
        "--for",
        dest="for_s",
        type=seconds,
        metavar="S",
        required=True,
        help="inject for S seconds, at most an hour",
    )
    add_socket_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inject; return the exit code."""
    try:
        with Connection(options.socket) as connection:
            connection.call("org.memnotify.Daemon.Inject", figures=options.figures, seconds=options.for_s)
            report(
                "inject", f"for {options.for_s:g} s figures are NOT REAL: {options.figures}; Ctrl-C ends it"
            )
            return _hold(connection, options.for_s)
    except CallError as error:
        report("inject", str(error))
        return 2


def _hold(connection: Connection, for_s: float) -> int:
    """Wait for the end of the injection, or end it; return the exit code. Raises CallError."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    code = 0
    try:
        if poller.poll(for_s * 1000):
            report("inject", "the daemon has ended; the figures of the next one are real")
            return 1
    except KeyboardInterrupt:
        code = 130
    connection.call("org.memnotify.Daemon.EndInjection")
    report("inject", "the figures are real again")
    return code
