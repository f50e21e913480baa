# SPDX-License-Identifier: MIT
"""``memnotify read``: print the figures once."""

import argparse
import json

from memnotify.cli import add_command
from memnotify.cli.common import as_object, explain, human, report
from memnotify.client import PAGE_SIZE, Figures, Memnotify, default_path

_EPILOG = """\
exit codes: 0 figures printed; 2 no device, or wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands,
        "read",
        "print the memory figures",
        "Print the figures in pages, in human units and in percent of total.",
        _EPILOG,
    )
    parser.add_argument("--path", default=default_path(), help="the device (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the figures; return the exit code."""
    try:
        with Memnotify(options.path) as device:
            figures = device.read()
    except OSError as error:
        report("read", explain(options.path, error))
        return 2
    print(as_json(figures) if options.json else as_table(figures))
    return 0


def as_table(figures: Figures) -> str:
    """Return a line for each figure: pages, a size in human units, percent of total."""
    longest = max(map(len, figures.names))
    return "\n".join(
        f"{name:<{longest}} {pages:>12} pages {human(pages.bytes):>10} {pages.percent:>6.1f} %"
        for name, pages in ((name, figures[name]) for name in figures.names)
    )


def as_json(figures: Figures) -> str:
    """Return a line of JSON: each figure in pages, bytes and percent of total, and the page size in bytes."""
    return json.dumps({"page_size": PAGE_SIZE, **as_object(figures)})
