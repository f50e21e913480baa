# SPDX-License-Identifier: MIT
"""``memnotify run``: run a command whenever a threshold is crossed."""

import argparse
import contextlib
import math
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Self

from memnotify.cli import add_command
from memnotify.cli.causes import Causes
from memnotify.cli.common import (
    add_durations,
    count,
    echo,
    explain,
    holding,
    human,
    loss,
    reap_orphans,
    report,
    seconds,
    subscribed,
)
from memnotify.client import (
    PAGE_SIZE,
    Change,
    Crossed,
    Event,
    Figures,
    Lost,
    Memnotify,
    Pages,
    Restored,
    default_path,
)

_DESCRIPTION = """\
Run a command each time a figure reaches a threshold, or falls below one.

  memnotify run --when 'used 80%' -- systemctl stop batch.service
  memnotify run --when 'used 80%' --when-below 'used 60%' -- sh -c 'echo $MEMNOTIFY_EVENT'
  memnotify run --when 'used 80%' --until 'used 60%' -- ./pause-or-go-on

One command runs at a time. Crossings while it runs, or before --min-interval is over, cause
one more run for each threshold, unless the figure has gone back by then. A threshold that is
exceeded at the start is not an event; with --now it causes a run at once. With --until, a run
for --when is followed by one run once a figure has fallen below its threshold of --until, and
only then by another for --when. Both need a threshold for the same figures. With --for S, a
crossing counts once its figure has stayed on that side for S seconds; with --quiet-for S, those
of the S seconds after a run are left out.

The environment of the command has MEMNOTIFY_EVENT (up or down), MEMNOTIFY_NAME and
MEMNOTIFY_THRESHOLD (in pages), MEMNOTIFY_PAGE_SIZE (in bytes), and each figure as
MEMNOTIFY_USED (in pages), MEMNOTIFY_USED_BYTES and MEMNOTIFY_USED_PERCENT.

The process that starts the command is created at the beginning, as there may be little memory
later. If the daemon ends, the command waits for it to come back. As PID 1 of a container it
reaps orphans.
"""
_EPILOG = """\
exit codes: 0 N runs are done; 1 the last run failed, or no further run is possible;
            2 thresholds not understood, no device, no such command, or wrong arguments
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "run", "run a command each time a threshold is crossed", _DESCRIPTION, _EPILOG
    )
    for option, text in (
        ("--when", "run when one is reached, such as 'used 80%%'; may be given several times"),
        ("--when-below", "run when a figure falls below one; may be given several times"),
        ("--until", "after a run for --when, run once a figure falls below one, and not before"),
    ):
        parser.add_argument(option, metavar="THRESHOLDS", action="append", default=[], help=text)
    parser.add_argument("--now", action="store_true", help="run at once for what holds at the start")
    parser.add_argument(
        "--min-interval",
        type=seconds,
        metavar="S",
        default=0.0,
        help="leave at least S seconds between two starts (default: no limit)",
    )
    add_durations(parser)
    parser.add_argument(
        "--count", type=count, metavar="N", default=0, help="end after N runs; 0: never (default: 0)"
    )
    parser.add_argument("--path", default=default_path(), help="the device (default: %(default)s)")
    parser.add_argument("command", metavar="COMMAND", nargs="+", help="what to run, after --")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Run the command each time it is due; return the exit code."""
    if not (options.when or options.when_below):
        options.parser.error("give --when or --when-below, or both")
    if options.until and (options.when_below or not options.when):
        options.parser.error("--until goes with --when, without --when-below")
    if options.until and options.quiet_for_s:
        options.parser.error("--quiet-for does not go with --until: the run that resumes might be left out")
    program = options.command[0]
    if shutil.which(program) is None:
        there = "/" in program and os.path.isfile(program)
        report("run", f"{program}: {'it is not executable; chmod +x it' if there else 'no such command'}")
        return 2
    helper = Helper(options.command)
    reap_orphans()
    with contextlib.ExitStack() as devices:
        devices.enter_context(helper)
        directions: dict[int, tuple[Memnotify, bool]] = {}
        causes = Causes(latched=bool(options.until), for_s=options.for_s, quiet_for_s=options.quiet_for_s)
        watched: dict[bool, list[tuple[str, Pages]]] = {True: [], False: []}
        below = [*options.when_below, *options.until]
        for thresholds, up in [*((each, True) for each in options.when), *((each, False) for each in below)]:
            try:
                device = devices.enter_context(subscribed("run", options.path, thresholds))
            except OSError as error:
                report("run", explain(options.path, error))
                return 2
            watched[up] += [(name, pages) for (name, _), pages in device.thresholds.items()]
            echo("run", device, until_reached=up and not options.now)
            directions[device.fileno()] = (device, up)
            if options.now:
                causes.note(
                    holding(device, up=up), device.figures, time.monotonic(), up=up, source=device.fileno()
                )
        mistake = mismatch(watched[True], watched[False]) if options.until else ""
        if mistake:
            report("run", mistake)
            return 2
        return _serve(options, helper, directions, causes)


def mismatch(high: Sequence[tuple[str, Pages]], low: Sequence[tuple[str, Pages]]) -> str:
    """Return what keeps --when and --until from alternating; empty if nothing does."""
    for name, pages in high:
        below = [low_pages for low_name, low_pages in low if low_name == name]
        if not below:
            return f"--until has no threshold of {name}, which --when has: no run would follow that one"
        if max(below) > pages:
            return (
                f"--until '{name}' at {human(max(below).bytes)} is above --when at {human(pages.bytes)}:"
                " write the lower threshold for --until"
            )
    for name, _ in low:
        if name not in dict(high):
            return f"--when has no threshold of {name}, which --until has"
    return ""


def _serve(
    options: argparse.Namespace,
    helper: "Helper",
    directions: Mapping[int, tuple[Memnotify, bool]],
    causes: "Causes",
) -> int:
    poller = select.poll()
    for fd in (helper.fileno(), *directions):
        poller.register(fd, select.POLLIN)
    left, running, not_before_s = options.count or math.inf, False, -math.inf
    lost: set[int] = set()
    while True:
        now_s = time.monotonic()
        cause = causes.take(now_s) if not running and now_s >= not_before_s else None
        if cause is not None:
            helper.start(environment(cause.change, cause.figures))
            running, not_before_s = True, now_s + options.min_interval
        wait_s = None if running else causes.wait_s(now_s)
        sleep_ms = None if wait_s is None else math.ceil(1000 * max(wait_s, not_before_s - now_s))
        for fd, _ in poller.poll(sleep_ms):
            if fd == helper.fileno():
                failure = helper.outcome()
                if failure:
                    report("run", f"{options.command[0]}: {failure}")
                running, left = False, left - 1
                if not left or not helper.alive:
                    return 1 if failure else 0
                continue
            device, up = directions[fd]
            try:
                event = device.wait(0)
            except OSError as error:  # a new daemon lacks a figure of the old one
                report("run", explain(options.path, error))
                return 1
            announce(event, options.path, fd, lost)
            if isinstance(event, Crossed | Restored):
                causes.note(event.changes, event.after, time.monotonic(), up=up, source=fd)


def announce(event: Event | None, path: str, fd: int, lost: set[int]) -> None:
    """Report the loss of the daemon, and its return, once for all descriptors; ``lost`` has those lost."""
    if isinstance(event, Lost):
        if not lost:
            report("run", f"{path}: {loss(event.error)}")
        lost.add(fd)
    if isinstance(event, Restored):
        lost.discard(fd)
        if not lost:
            report("run", f"{path}: the device is served again")


def environment(change: Change, figures: Figures) -> dict[str, str]:
    """Return the variables that the command gets."""
    variables = {
        "EVENT": "up" if change.up else "down",
        "NAME": change.name,
        "THRESHOLD": str(change.threshold),
        "PAGE_SIZE": str(PAGE_SIZE),
    }
    for name in figures.names:
        pages = figures[name]
        variables |= {
            name.upper(): str(pages),
            f"{name.upper()}_BYTES": str(pages.bytes),
            f"{name.upper()}_PERCENT": f"{pages.percent:.3f}",
        }
    return {f"MEMNOTIFY_{name}": value for name, value in variables.items()}


class Helper:
    """A small process, forked early while there is memory, that starts the command on request.

    It ends with this process, after the command that it has started has ended.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.alive = True
        self._running = False
        self._near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._near.close()
            try:
                _help(far, command)
            finally:
                os._exit(0)
        far.close()

    def fileno(self) -> int:
        """Return a descriptor to poll for POLLIN: it is ready when the command or the helper has ended."""
        return self._near.fileno()

    def start(self, variables: Mapping[str, str]) -> None:
        """Start the command with these variables added to its environment."""
        self._running = True
        with contextlib.suppress(BrokenPipeError):  # outcome() reports it
            self._near.send("\0".join(f"{name}={value}" for name, value in variables.items()).encode())

    def outcome(self) -> str:
        """Return how the command failed; empty if it did not."""
        self._running = False
        try:
            answer = self._near.recv(100)
        except ConnectionResetError:
            answer = b""
        if not answer:
            self.alive = False
            return "the process that starts the command has ended"
        kind, number = answer.split()
        if kind == b"errno":
            return os.strerror(int(number))
        code = int(number)
        if code < 0:
            return f"ended by signal {-code}, {signal.strsignal(-code)}"
        return f"ended with {code}" if code else ""

    def __enter__(self) -> Self:
        """Return the helper; leaving the block ends it, but not the command."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection, which ends the helper. Wait for the helper unless a command runs."""
        self._near.close()
        if not self._running:
            with contextlib.suppress(ChildProcessError):  # as the init process, whose children are reaped
                os.waitpid(self._pid, 0)


def _help(channel: socket.socket, command: Sequence[str]) -> None:
    """Start the command for each request, and answer how it ended."""
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        while request := channel.recv(65536):
            variables = dict(each.split("=", 1) for each in request.decode().split("\0"))
            try:
                pid = os.posix_spawnp(
                    command[0],
                    list(command),
                    os.environ | variables,
                    file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                    # Python ignores these, and the command would inherit that.
                    setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
                )
            except OSError as error:
                channel.send(b"errno %d" % (error.errno or 0))
                continue
            channel.send(b"ended %d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
