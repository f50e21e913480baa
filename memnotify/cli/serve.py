# SPDX-License-Identifier: MIT
"""``memnotify serve``: the daemon, in the foreground."""

import argparse
import logging
import os
import re
import select
import sys
from contextlib import ExitStack
from typing import TextIO

from memnotify.config import ConfigError, Parameters

_DESCRIPTION = """\
Serve the memnotify device until SIGTERM, SIGINT or SIGHUP.

Where the kernel has CUSE and this user may open /dev/cuse, the device is a
character device /dev/NAME (its mode is udev's business: 0600 without a rule).
Elsewhere it is a FUSE file mounted at the same path, with the same behaviour;
an ordinary user can serve one at a --path of his own.

With --socket, programs that cannot open the device (in a sandbox, or systemd's
services where there is no CUSE) connect to an AF_UNIX stream socket instead:
they write thresholds, a line each, and get a line of figures for each event.
"""
_EPILOG = """\
exit codes: 0 asked to end; 1 the device cannot be served, or was lost; 2 wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    defaults = Parameters()
    parser = commands.add_parser(
        "serve",
        help="serve /dev/memnotify",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--transport",
        choices=("auto", "cuse", "fuse"),
        default="auto",
        help="how to serve: a CUSE device, a FUSE file, or the first of them that works (default)",
    )
    parser.add_argument("--name", default="memnotify", help="the device's name in /dev (default: memnotify)")
    parser.add_argument("--path", help="where to mount the FUSE file (default: /dev/NAME)")
    parser.add_argument("--socket", metavar="PATH", help="serve on an AF_UNIX stream socket too")
    parser.add_argument(
        "--socket-mode",
        type=_mode,
        metavar="MODE",
        default=0o666,
        help="the socket's permissions, in octal (default: 666)",
    )
    parser.add_argument(
        "--update-period",
        type=int,
        metavar="MS",
        default=defaults.update_period_ms,
        help="base sampling interval, greatest age of what is read (default: %(default)s ms)",
    )
    parser.add_argument(
        "--max-update-period",
        type=int,
        metavar="MS",
        default=defaults.max_update_period_ms,
        help="longest interval between samples (default: %(default)s ms)",
    )
    parser.add_argument(
        "--min-update-period",
        type=int,
        metavar="MS",
        default=defaults.min_update_period_ms,
        help="shortest interval while memory would reach a threshold within the update period"
        " (default: %(default)s ms)",
    )
    parser.add_argument(
        "--fill-rate",
        type=int,
        metavar="MIB",
        default=defaults.fill_rate_mib_s,
        help="how fast memory is expected to fill, in MiB/s: the next sample comes before the nearest"
        " threshold can be reached (default: %(default)s)",
    )
    parser.add_argument(
        "--update-space",
        type=int,
        metavar="KB",
        default=defaults.update_space_kib,
        help="a figure counts as moved when it moved by half of this (default: 0, which is 1/64 of total)",
    )
    parser.add_argument(
        "--poll-acknowledges",
        action=argparse.BooleanOptionalAction,
        default=defaults.poll_acknowledges,
        help="a poll that reports an event clears it, for clients that never read (default: off)",
    )
    parser.add_argument(
        "--pcp-is-free",
        action=argparse.BooleanOptionalAction,
        default=defaults.pcp_is_free,
        help="count pages on the kernel's per-CPU free lists as free (default: on)",
    )
    parser.add_argument(
        "--count-pages",
        action=argparse.BooleanOptionalAction,
        default=defaults.count_pages,
        help="sample when as many pages were allocated or freed as the nearest threshold is away, where the"
        " kernel lets this process count them; otherwise by time alone (default: on)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what is logged to stderr (default: info)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve; return the exit code."""
    _occupy_standard_fds()
    logging.basicConfig(
        level=options.log_level.upper(),
        handlers=[_Stderr(sys.stderr)],
        format="memnotify: %(levelname)s: %(message)s",
    )
    log = logging.getLogger(__name__)
    try:
        parameters = Parameters(
            update_period_ms=options.update_period,
            max_update_period_ms=options.max_update_period,
            min_update_period_ms=options.min_update_period,
            fill_rate_mib_s=options.fill_rate,
            update_space_kib=options.update_space,
            poll_acknowledges=options.poll_acknowledges,
            pcp_is_free=options.pcp_is_free,
            count_pages=options.count_pages,
        ).checked()
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - the user's mistake, not a traceback's
        return 2
    # Here, so that the other commands neither load libfuse nor need it.
    from memnotify import daemon  # noqa: PLC0415
    from memnotify.figures import MeterError  # noqa: PLC0415
    from memnotify.transports import TransportError  # noqa: PLC0415
    from memnotify.transports.choice import choose  # noqa: PLC0415

    try:
        with ExitStack() as undo:
            listening = None
            if options.socket is not None:
                # The daemon keeps in memory what it imports.
                from memnotify.transports.listener import Listener  # noqa: PLC0415

                listener = Listener(options.socket, options.socket_mode)
                undo.callback(listener.close)
                listening = listener.socket
                log.info("clients may connect to %s too", listener.path)
            transport = choose(options.transport, options.name, options.path)
            return 0 if daemon.serve(transport, parameters, listening) else 1
    except (TransportError, MeterError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - says what to do; a traceback would not
        return 1


def _mode(text: str) -> int:
    """Convert an argument."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no mode: give three octal digits, such as 660")
    return int(text, 8)


class _Stderr(logging.StreamHandler[TextIO]):
    """Logs to stderr and never waits for its reader, as clients would wait too; drops what does not fit."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record if there is room; a line fits into what a pipe then has, PIPE_BUF."""
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        if poller.poll(0) == [(2, select.POLLOUT)]:
            super().emit(record)


def _occupy_standard_fds() -> None:
    """Let no descriptor of the daemon's become 0, 1 or 2, where something may be printed to it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
