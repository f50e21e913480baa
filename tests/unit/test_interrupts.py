# SPDX-License-Identifier: MIT
"""SIGINT while a command is still being imported."""

import os
import pty
import signal
import subprocess
import sys

import pytest
from support.waiting import DEADLINE_S

from memnotify.cli import COMMANDS

# Runs a command, and sends it SIGINT at the import of the module in argument 1: at once, or, if argument 2 is
# "callback", where Python drops exceptions, as in a callback of the import system.
_INTERRUPTED = """
import os, runpy, signal, sys

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            Callback() if how == "callback" else os.kill(os.getpid(), signal.SIGINT)

module, how = sys.argv.pop(1), sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
runpy.run_module("memnotify", run_name="__main__")
"""
_DAEMON = ("logging", "memnotify.transports.session", "memnotify.daemon", "memnotify.daemon.takeover")


def interrupted(module: str, how: str, *command: str, ignored: bool = False) -> tuple[int, str, str]:
    """Return the exit code and the output of a command that gets SIGINT at an import."""
    program = [sys.executable, "-c", _INTERRUPTED, module, how, *command]
    if ignored:
        program = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *program]
    done = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("how", ["now", "callback"])
@pytest.mark.parametrize("module", ["memnotify.cli", "argparse"])
def test_before_the_command_is_known(module: str, how: str) -> None:
    """The entry is the same for each command."""
    assert interrupted(module, how, "read", "--path", "/dev/null") == (128 + signal.SIGINT, "", "")


def test_before_the_signal_is_taken() -> None:
    """The first import is interrupted by an exception."""
    assert interrupted("memnotify.interrupts", "now", "read") == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_in_the_module_of_a_command(command: str) -> None:
    """It ends before it does anything."""
    module = f"memnotify.cli.{command.replace('-', '_')}"
    assert interrupted(module, "callback", command) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("module", _DAEMON)
def test_in_the_daemon_s_modules(module: str) -> None:
    """``serve`` imports most of them after it has read its configuration."""
    code, _, log = interrupted(module, "callback", "serve", "--config", "/dev/null")
    assert (code, log) == (128 + signal.SIGINT, "")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("rich", ["watch"]),
        ("prometheus_client", ["exporter"]),
        ("dbus_fast", ["lowmem-bus"]),
        ("memnotify.simulation.server", ["simulate", "at 0s used 40%", "--", "true"]),
    ],
)
def test_in_what_a_command_needs_beyond_its_own_module(module: str, command: list[str]) -> None:
    """On a terminal, which ``watch`` imports rich for."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, module, "callback", *command],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")


def test_it_stays_ignored() -> None:
    """A shell's job in the background ignores SIGINT."""
    assert interrupted("memnotify.cli", "now", "--version", ignored=True)[0] == 0
