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
from memnotify.cli.common import count, explain, report, seconds, subscribed
from memnotify.client import (
    DEFAULT_PATH,
    PAGE_SIZE,
    Change,
    Crossed,
    Event,
    Figures,
    Lost,
    Memnotify,
    Restored,
)

_DESCRIPTION = """\
Run a command whenever a figure reaches a threshold, or falls below one.

  memnotify run --when 'used 80%' -- systemctl stop batch.service
  memnotify run --when 'used 80%' --when-below 'used 60%' -- sh -c 'echo $MEMNOTIFY_EVENT'

One command runs at a time. What happens meanwhile, or sooner than the interval allows, makes
one more run for each threshold, unless the figure has gone back by then. What holds already at
the start is no event. The command finds in its environment MEMNOTIFY_EVENT (up or down),
MEMNOTIFY_NAME and MEMNOTIFY_THRESHOLD (in pages), MEMNOTIFY_PAGE_SIZE (in bytes), and each
figure as MEMNOTIFY_USED (in pages), MEMNOTIFY_USED_BYTES and MEMNOTIFY_USED_PERCENT.

The process that starts the command is there from the beginning, so that little memory is
needed when there is little. A daemon that ends is waited for.
"""
_EPILOG = """\
exit codes: 0 it ran so often; 1 the last run failed, or none is possible any more;
            2 thresholds not understood, no device, no such command, or wrong arguments
"""

Due = dict[tuple[int, str], tuple[Change, Figures]]
"""What makes the next runs, by the device that said it and the figure."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "run", "run a command whenever a threshold is crossed", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("--when", metavar="THRESHOLDS", help="run when one is reached, such as 'used 80%%'")
    parser.add_argument("--when-below", metavar="THRESHOLDS", help="run when a figure falls below its own")
    parser.add_argument(
        "--min-interval",
        type=seconds,
        metavar="S",
        default=0.0,
        help="start at most every S seconds (default: no limit)",
    )
    parser.add_argument(
        "--count", type=count, metavar="N", default=0, help="end after N runs, 0 for never (default: 0)"
    )
    parser.add_argument("--path", default=DEFAULT_PATH, help="the device (default: %(default)s)")
    parser.add_argument("command", metavar="COMMAND", nargs="+", help="what to run, after --")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Run the command whenever it is due; return the exit code."""
    if options.when is None and options.when_below is None:
        options.parser.error("one of --when and --when-below is needed")
    program = options.command[0]
    if shutil.which(program) is None:
        there = "/" in program and os.path.isfile(program)
        report("run", f"{program}: {'it is not executable; chmod +x it' if there else 'no such command'}")
        return 2
    helper = Helper(options.command)
    with contextlib.ExitStack() as devices:
        devices.enter_context(helper)
        directions: dict[int, tuple[Memnotify, bool]] = {}
        for thresholds, up in ((options.when, True), (options.when_below, False)):
            if thresholds is None:
                continue
            try:
                device = devices.enter_context(subscribed(options.path, thresholds))
            except OSError as error:
                report("run", explain(options.path, error))
                return 2
            directions[device.fileno()] = (device, up)
        return _serve(options, helper, directions)


def _serve(
    options: argparse.Namespace, helper: "Helper", directions: Mapping[int, tuple[Memnotify, bool]]
) -> int:
    poller = select.poll()
    for fd in (helper.fileno(), *directions):
        poller.register(fd, select.POLLIN)
    due: Due = {}
    left, running, not_before_s = options.count or math.inf, False, -math.inf
    while True:
        now_s = time.monotonic()
        if due and not running and now_s >= not_before_s:
            helper.start(environment(*due.pop(next(iter(due)))))
            running, not_before_s = True, now_s + options.min_interval
        sleep_ms = math.ceil(1000 * (not_before_s - now_s)) if due and not running else None
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
            except OSError as error:  # a new daemon that has not the figures of the old one
                report("run", explain(options.path, error))
                return 1
            note(event, options.path, due, fd, up=up)


def note(event: Event | None, path: str, due: Due, fd: int, *, up: bool) -> None:
    """Let an event make runs due, or no longer due."""
    if isinstance(event, Lost):
        report("run", f"{path}: {event.error.strerror}")
    if isinstance(event, Restored):
        report("run", f"{path}: it is served again")
    if isinstance(event, Crossed | Restored):
        for change in event.changes:
            if change.up == up:
                due[fd, change.name] = (change, event.after)
            else:
                due.pop((fd, change.name), None)


def environment(change: Change, figures: Figures) -> dict[str, str]:
    """Return what the command is told."""
    told = {
        "EVENT": "up" if change.up else "down",
        "NAME": change.name,
        "THRESHOLD": str(change.threshold),
        "PAGE_SIZE": str(PAGE_SIZE),
    }
    for name in figures.names:
        pages = figures[name]
        told |= {
            name.upper(): str(pages),
            f"{name.upper()}_BYTES": str(pages.bytes),
            f"{name.upper()}_PERCENT": f"{pages.percent:.3f}",
        }
    return {f"MEMNOTIFY_{name}": value for name, value in told.items()}


class Helper:
    """A process that waits to be told to start the command: a small one, forked while there was memory.

    It ends with this one, once the command that it has started has ended.
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
        """Return a descriptor to poll for POLLIN: the command has ended, or the helper has."""
        return self._near.fileno()

    def start(self, told: Mapping[str, str]) -> None:
        """Start the command, with these variables in its environment."""
        self._running = True
        with contextlib.suppress(BrokenPipeError):  # the outcome will tell
            self._near.send("\0".join(f"{name}={value}" for name, value in told.items()).encode())

    def outcome(self) -> str:
        """Return how the command failed, empty if it did not."""
        self._running = False
        try:
            answer = self._near.recv(100)
        except ConnectionResetError:
            answer = b""
        if not answer:
            self.alive = False
            return "the process that starts it has ended"
        kind, number = answer.split()
        if kind == b"errno":
            return os.strerror(int(number))
        code = int(number)
        if code < 0:
            return f"ended by signal {-code}, {signal.strsignal(-code)}"
        return f"ended with {code}" if code else ""

    def __enter__(self) -> Self:
        """Return the helper itself; leaving the block ends it, which does not end the command."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection, by which the helper ends; wait for that, but for no command."""
        self._near.close()
        if not self._running:
            os.waitpid(self._pid, 0)


def _help(channel: socket.socket, command: Sequence[str]) -> None:
    """Start the command each time it is told to, and tell how it ended."""
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        while told := channel.recv(65536):
            variables = dict(each.split("=", 1) for each in told.decode().split("\0"))
            try:
                pid = os.posix_spawnp(
                    command[0],
                    list(command),
                    os.environ | variables,
                    file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                    # Python ignores these, which the command would inherit.
                    setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
                )
            except OSError as error:
                channel.send(b"errno %d" % (error.errno or 0))
                continue
            channel.send(b"ended %d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
