# SPDX-License-Identifier: MIT
"""``memnotify exporter``: the status of the daemon as metrics for Prometheus."""

import argparse

from memnotify import interrupts
from memnotify.cli import EXTRA_MISSING, add_command
from memnotify.cli.common import reap_orphans, report, seconds
from memnotify.cli.varlink import add_socket_option

_DESCRIPTION = """\
Serve the figures and the counts of the running daemon to Prometheus, over HTTP, until a
signal ends the command. Each scrape asks the daemon's status socket.

  memnotify exporter
  memnotify exporter --listen '[::]:9012'
  memnotify exporter --textfile /var/lib/prometheus/node-exporter/memnotify.prom --interval 15

With --textfile, the metrics are in a file that node_exporter reads, replaced as a whole:
once, or every --interval seconds. While no daemon answers, memnotify_up is 0.
"""
_EPILOG = """\
exit codes: 0 the file is written; 1 cannot listen, or the file cannot be written;
            2 wrong arguments; 4 prometheus_client is missing; 130 Ctrl-C
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(commands, "exporter", "serve metrics to Prometheus", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--listen",
        type=_address,
        metavar="ADDRESS:PORT",
        default="127.0.0.1:9012",
        help="serve HTTP there, /metrics (default: %(default)s)",
    )
    parser.add_argument("--textfile", metavar="FILE", help="write FILE, which ends in .prom, instead")
    parser.add_argument("--interval", type=seconds, metavar="S", help="write FILE again every S seconds")
    add_socket_option(parser)
    parser.set_defaults(run=run)


def _address(text: str) -> tuple[str, int]:
    """Convert an argument: HOST:PORT, with an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16) or (
        ":" in bare and bare == host
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT, such as 127.0.0.1:9012")
    return bare, int(port)


def run(options: argparse.Namespace) -> int:
    """Export; return the exit code."""
    if options.textfile is None and options.interval is not None:
        report("exporter", "--interval is for --textfile: Prometheus has its own interval")
        return 2
    # node_exporter ignores other names without a message.
    if options.textfile is not None and not options.textfile.endswith(".prom"):
        report("exporter", f"{options.textfile}: node_exporter reads only files that end in .prom")
        return 2
    try:
        from memnotify.cli.exporter import output  # noqa: PLC0415 - the module that needs prometheus_client
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "prometheus_client":
            raise
        report(
            "exporter",
            "prometheus_client is not installed: apt install python3-prometheus-client,"
            " or pip install prometheus_client",
        )
        return EXTRA_MISSING
    interrupts.raise_again()
    reap_orphans()
    try:
        if options.textfile is None:
            output.serve(options.listen, options.socket)
        else:
            output.write(options.textfile, options.socket, options.interval)
    except OSError as error:
        where = options.textfile or "{}:{}".format(*options.listen)
        report("exporter", f"{where}: {error.strerror or error}")
        return 1
    return 0
