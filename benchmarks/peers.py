# SPDX-License-Identifier: MIT
"""Measure memnotify against programs of Debian packages that watch memory as well."""

import argparse
import os
import platform
import sys
from argparse import Namespace
from pathlib import Path

import idle
import latency
import watchers
from common import BenchmarkError, positive, progress, run

_EPILOG = """\
Run as root, from an environment in which memnotify is installed, on a machine
that does nothing else. Nothing is killed and nothing is left behind, whenever
you interrupt it. benchmarks/README.md says what each row means, what to install
and what to mind about it.
"""


def parse_options() -> Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def add(name: str, text: str, rounds: int) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        command.add_argument("--rounds", type=positive, default=rounds, help="rounds, interleaved")
        return command

    def add_windows(command: argparse.ArgumentParser, idle_s: float, window_s: float) -> None:
        command.add_argument(
            "--idle", type=float, default=idle_s, metavar="S", help="seconds of idling before each window"
        )
        command.add_argument(
            "--window", type=float, default=window_s, metavar="S", help="seconds that are measured"
        )
        command.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")

    _add_latency(add("latency", "how soon a crossing is noticed when memory is taken", 7))
    add_windows(add("idle", "wake-ups and CPU time of programs that have nothing to do", 7), 30, 60)
    command = add("watchers", "CPU time of many watchers", 7)
    add_windows(command, 10, 10)
    command.add_argument("--watchers", type=positive, default=1000, help="how many")
    add("tick", "CPU time of one sample, by the number of thresholds", 100)
    return parser.parse_args()


def _add_latency(command: argparse.ArgumentParser) -> None:
    command.add_argument("ways", nargs="+", choices=latency.WAYS, help="how memory is taken")
    command.add_argument(
        "--idle", type=float, default=30, metavar="S", help="seconds of idling before memory is taken"
    )
    command.add_argument(
        "--distance-mib",
        type=positive,
        default=2048,
        metavar="MIB",
        help="how far away each threshold is; a quarter more is taken",
    )
    cores = sorted(os.sched_getaffinity(0))
    command.add_argument(
        "--core", type=int, choices=cores, default=cores[-1], help="the core that takes memory"
    )
    command.add_argument(
        "--only", nargs="+", choices=latency.NAMES, default=latency.NAMES, help="measure only these"
    )
    command.add_argument("--plot", type=Path, metavar="PNG", help="draw each round's latency, too")
    command.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")


def measure(options: Namespace, directory: Path) -> None:
    """Do what the command line asks for. Raises BenchmarkError."""
    print(f"Linux {platform.release()}, {platform.machine()}, Python {platform.python_version()}")
    if options.command == "latency":
        _announce(latency.seconds(options))
        latency.measure(options, directory)
    elif options.command == "idle":
        _announce(idle.seconds(options))
        idle.measure(options, directory)
    elif options.command == "watchers":
        _announce(watchers.seconds(options))
        watchers.measure(options, directory)
    else:
        try:
            import tick  # noqa: PLC0415 - the others need memnotify only where the daemon runs
        except ImportError as error:
            raise BenchmarkError(
                f"memnotify is not installed in this Python ({error}): pip install ."
            ) from None
        _announce(tick.seconds(options))
        tick.measure(options)


def _announce(seconds: float) -> None:
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    progress(f"this takes about {time}")


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    return run("peers", lambda directory: measure(options, directory))


if __name__ == "__main__":
    sys.exit(main())
