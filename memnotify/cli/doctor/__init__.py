# SPDX-License-Identifier: MIT
"""``memnotify doctor``: check all that the device depends on, with advice for each fault."""

import argparse
import json
from collections import Counter

from memnotify import __version__
from memnotify.cli import add_command
from memnotify.cli.common import seconds
from memnotify.cli.doctor.checks import FAILED, NOT_APPLICABLE, examine
from memnotify.cli.doctor.machine import Machine
from memnotify.client import default_path

_DESCRIPTION = """\
Check everything that the device depends on, from the kernel to the daemon, and use it once
as a client. Each check is ok, a warning, failed, or not applicable here; warnings and failures
say what to do next. Run it as root to see all; a check that lacks permission is a warning.

The last check, 'round trip', opens the device, reads it (and compares the figures with
/proc/meminfo), writes thresholds, and one that must be refused, and polls: no event may be
pending at first. Then it sets thresholds at 'used' and allocates 4 MiB for a moment: the poll
must become ready, and must stop being ready after the acknowledgement. A child process does
this, because a stopped daemon hangs its clients; it is abandoned after --timeout, and ends when
the daemon continues.

--json prints {"version", "path", "healthy", "checks": [{"name", "state", "found", "advice"}]};
names, states and keys are stable, the texts may change.
"""
_EPILOG = """\
exit codes: 0 no check failed; 1 a check failed; 2 wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "doctor", "check everything that the device depends on", _DESCRIPTION, _EPILOG
    )
    parser.add_argument(
        "--name", default="memnotify", help="the device's name in /dev (default: %(default)s)"
    )
    parser.add_argument("--path", help="the device (default: /dev/NAME)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        default=5.0,
        help="wait S seconds for each answer, and for the event (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run all checks, print their findings and return the exit code."""
    path = options.path
    if path is None and options.name == "memnotify":
        path = default_path()
    machine = Machine(options.name, path, options.timeout)
    states: Counter[str] = Counter()
    checks = []
    for name, finding in examine(machine):
        states[finding.state] += 1
        checks.append({"name": name, **finding._asdict()})
        if not options.json:
            state = "-" if finding.state == NOT_APPLICABLE else finding.state
            print(f"{state:<8} {name:<14} {finding.found}", flush=True)
            if finding.advice:
                print(f"{'':<8} {'':<14} -> {finding.advice}", flush=True)
    healthy = not states[FAILED]
    if options.json:
        print(
            json.dumps({"version": __version__, "path": machine.path, "healthy": healthy, "checks": checks})
        )
    else:
        print(", ".join(f"{number} {state}" for state, number in states.items()))
    return 0 if healthy else 1
