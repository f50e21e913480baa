# SPDX-License-Identifier: MIT
"""``memnotify simulate`` and the signals that it passes on."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from memnotify.cli import simulate

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
