# SPDX-License-Identifier: MIT
"""``memnotify simulate`` and the signals that it passes on."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from memnotify.cli import main, simulate

NUMBERS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore this process's handlers."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_while_the_command_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs before Popen returns; the signal reaches it all the same."""
    popen = subprocess.Popen

    def interrupted(*arguments: object, **options: object) -> object:
        process = popen(*arguments, **options)  # type: ignore[call-overload] # as it is called
        os.kill(os.getpid(), signal.SIGTERM)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    near, far = socket.socketpair()
    with near, far:
        assert simulate._run(["sleep", "10"], dict(os.environ), near) == 128 + signal.SIGTERM


def test_a_file_without_an_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device itself is one."""
    monkeypatch.setattr(simulate, "_SCRIPT_MAX", 1000)
    assert main(["simulate", "@/dev/zero", "--", "true"]) == 2
    assert "/dev/zero has more than 1000 characters" in capsys.readouterr().err
