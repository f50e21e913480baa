# SPDX-License-Identifier: MIT
"""``memnotify upgrade``: replace the program of the running daemon, without loss of its clients."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time

from memnotify.cli import add_command
from memnotify.cli.common import report, seconds
from memnotify.cli.doctor.machine import Machine, Server
from memnotify.client import default_path

DONE, NOT_SERVING, REFUSED, NO_DAEMON = 0, 1, 3, 4
"""The exit codes beside argparse's 2."""

_DESCRIPTION = """\
Replace the program of the daemon that serves the device by the installed one. Its clients keep
their open files, thresholds and events, and the socket's clients their connections. The command
first checks that the new program can start with the daemon's configuration: if it cannot, the
daemon stays as it is. systemd restarts a daemon that is a service with a store of descriptors,
so this daemon is root again while it starts. Any other daemon gets SIGUSR2. The command ends
once the device answers.
"""
_EPILOG = """\
exit codes: 0 the new program serves; 1 it does not, or this user may not signal the daemon;
            2 wrong arguments; 3 the new program could not start with the configuration, and
            the daemon stays as it was; 4 no daemon serves the device
"""
_PAUSE_S = 0.02
# Without -P, Python would import modules from the working directory, in which another user may have put some.
_PROGRAM = (sys.executable, "-P", "-m", "memnotify")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand to the parser."""
    parser = add_command(
        commands, "upgrade", "replace the running daemon, with its clients", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("--path", metavar="PATH", help="the device")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        default=30.0,
        help="give up if it does not serve within S seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--no-service", action="store_true", help="do nothing to a daemon that systemd can restart"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing on success, nor if no daemon serves the device"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replace the daemon; return the exit code."""
    machine = Machine("memnotify", options.path or default_path(), options.timeout)
    server = next(iter(machine.servers), None)
    if server is None:
        if not options.quiet:
            seen = " that this user may see" if machine.unseen else ""
            report("upgrade", f"no daemon{seen} serves {machine.path}")
        return NO_DAEMON
    if not _accepts(server):
        report("upgrade", f"process {server.pid} stays as it is: the new program cannot start, see above")
        return REFUSED
    begun_s = time.monotonic()
    try:
        unit = _environment(server.pid).get("MEMNOTIFY_UNIT", "")
        if unit and options.no_service:
            return DONE
        if unit:
            subprocess.run(["systemctl", "restart", unit], check=True, timeout=options.timeout)  # noqa: S603, S607 - as an administrator would
        else:
            _replace(server, begun_s + options.timeout)
        _read(machine.path, begun_s + options.timeout)
    except (OSError, subprocess.SubprocessError) as error:
        report("upgrade", f"{machine.path}: {error}; see the log of the daemon")
        return NOT_SERVING
    if not options.quiet:
        print(f"{machine.path}: replaced, and serves after {time.monotonic() - begun_s:.1f} s")
    return DONE


def _accepts(server: Server) -> bool:
    """Return True if the installed program can start with the daemon's command line and directory."""
    words = server.words[:-1]  # the command line ends with a NUL
    at = words.index("serve") if "serve" in words else len(words)
    check = [*_PROGRAM, "check-config", "--here", *words[at + 1 :]]
    try:
        return subprocess.call(check, stdout=subprocess.DEVNULL, cwd=f"/proc/{server.pid}/cwd") == 0  # noqa: S603 - the daemon's own
    except OSError as error:
        report("upgrade", f"process {server.pid}: its working directory: {error.strerror}")
        return False


def _environment(pid: int) -> dict[str, str]:
    """Return the environment with which the program of a process started. Raises OSError."""
    with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as file:
        return dict(each.split("=", 1) for each in file.read().split("\0") if "=" in each)


def _replace(server: Server, until_s: float) -> None:
    """Signal the process, and wait until it has replaced its program. Raises OSError."""
    before = _environment(server.pid).get("MEMNOTIFY_REPLACED", "")
    os.kill(server.pid, signal.SIGUSR2)
    while True:
        # During execve(2) a process has no environment.
        if _environment(server.pid).get("MEMNOTIFY_REPLACED", before) != before:
            return
        if time.monotonic() > until_s:
            raise TimeoutError(f"process {server.pid} has not replaced itself")
        time.sleep(_PAUSE_S)


def _read(path: str, until_s: float) -> None:
    """Read the device; wait until the daemon answers. Raises OSError or SubprocessError."""
    # In a child: a thread in a request that no daemon answers can only be killed.
    command = [*_PROGRAM, "read", "--path", path]
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(  # noqa: S603 - no argument comes from another user
            command, stdout=subprocess.DEVNULL, check=True, timeout=max(1.0, until_s - time.monotonic())
        )
        return
    raise ConnectionError("the device cannot be read")
