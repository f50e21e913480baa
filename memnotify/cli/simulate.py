# SPDX-License-Identifier: MIT
"""``memnotify simulate``: run a command that sees a device whose figures follow a script."""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from types import FrameType

from memnotify import interrupts
from memnotify.cli import EXTRA_MISSING, add_command
from memnotify.cli.common import report
from memnotify.cli.loading import obstacle
from memnotify.client import DEFAULT_PATH
from memnotify.simulation.script import (
    ALLOWED,
    START,
    Course,
    ScriptError,
    read_recording,
    read_script,
)

# In characters: a recording of 4 days at one sample a second. The device itself has no end.
_SCRIPT_MAX = 2**24

_DESCRIPTION = f"""\
Run a command that sees a /dev/memnotify of its own, whose figures follow a script.

  memnotify simulate 'at 0s used 40%; ramp to 95% in 10s; hold 5s; drop to 30%' -- ./my-handler
  memnotify simulate @FILE -- ./my-handler

FILE has a script, or a recording by 'memnotify watch --record FILE'. Statements end with ';' or
the line, and '#' begins a comment:

  {ALLOWED.replace(chr(10), chr(10) + "  ")}

The script begins when the command is started, from used 50 % and active 10 % of 16 GiB. After its end
the figures stay. No other process on the machine sees any of it. Where the kernel does not allow
that (namespaces), the device is elsewhere, and MEMNOTIFY_PATH in the command's environment says where.
"""
_EPILOG = """\
exit codes: 0 COMMAND succeeded, else its code, or 128 + N if signal N has ended it;
            2 the script is not understood, there is no such command, no device can be made,
            or wrong arguments; 4 libfuse3 or the compiled module is missing
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "simulate", "run a command on figures that are made up", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("script", metavar="SCRIPT", help="how the figures move, or @FILE")
    # The rest, as it may have a "--" of its own.
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, after --")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        options.parser.error("give a COMMAND, after --")
    try:
        course = _course(options.script)
    except ScriptError as error:
        report("simulate", f"the script: {error}")
        return 2
    except (OSError, UnicodeDecodeError) as error:
        report("simulate", f"{options.script[1:]}: {getattr(error, 'strerror', None) or error}")
        return 2
    if shutil.which(command[0]) is None:
        report("simulate", f"{command[0]}: no such command")
        return 2
    missing = obstacle()
    if missing:
        report("simulate", "; ".join(missing))
        return EXTRA_MISSING
    # Imported here, as they need the compiled module.
    from memnotify.simulation import server  # noqa: PLC0415
    from memnotify.simulation.private_dev import enter_private_dev  # noqa: PLC0415
    from memnotify.transports.fuse import FuseTransport  # noqa: PLC0415

    interrupts.raise_again()

    def serve(control: socket.socket) -> None:
        play = partial(server.play, course, control)
        server.serve(partial(FuseTransport, path), course.at(0), control, play)

    with contextlib.ExitStack() as cleanup:
        path = DEFAULT_PATH
        try:
            if not enter_private_dev(os.path.basename(path)):
                path = f"{cleanup.enter_context(tempfile.TemporaryDirectory())}/memnotify"
            control = _start_device(serve, server.READY, cleanup)
        except OSError as error:
            report("simulate", f"no device can be made: {error.strerror}")
            return 2
        return _run(command, os.environ | {"MEMNOTIFY_PATH": path}, control)


def _course(script: str) -> Course:
    """Return the course that the argument describes. Raises ScriptError, OSError or UnicodeDecodeError."""
    if not script.startswith("@"):
        return read_script(script)
    with open(script[1:], encoding="utf-8") as file:
        text = file.read(_SCRIPT_MAX + 1)
    if len(text) > _SCRIPT_MAX:
        raise ScriptError(f"{script[1:]} has more than {_SCRIPT_MAX} characters: is this the right file?")
    return read_recording(text) if text.startswith("{") else read_script(text)


def _start_device(
    serve: Callable[[socket.socket], object], ready: bytes, cleanup: contextlib.ExitStack
) -> socket.socket:
    """Start the process that serves the device, and return the socket that controls it. Raises OSError."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # A fork, since a program that is executed has no rights in the user namespace.
    pid = os.fork()
    if pid == 0:
        near.close()
        try:
            # Of the terminal: the command decides what follows from it.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            serve(far)
        finally:
            os._exit(0)
    far.close()
    cleanup.callback(os.waitpid, pid, 0)
    cleanup.callback(near.close)
    message = near.recv(4096)
    if message != ready:
        raise OSError(0, message.decode() or "the process that serves it has ended")
    return near


def _run(command: list[str], environment: dict[str, str], control: socket.socket) -> int:
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if process is not None:
            process.send_signal(number)
        else:
            # The command may run already: Popen returns once it knows that.
            early.append(number)

    # A handler, not SIG_IGN, which the command would inherit. The terminal sends these to the command too.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    control.send(START)
    try:
        process = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's command
    except OSError as error:
        report("simulate", f"{command[0]}: {error.strerror}")
        return 2
    for early_number in early:
        process.send_signal(early_number)
    code = process.wait()
    return code if code >= 0 else 128 - code
