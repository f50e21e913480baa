# SPDX-License-Identifier: MIT
"""A program that takes over a terminal, in one of the test's own."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from support.require import unavailable
from support.waiting import DEADLINE_S, eventually

TAKEN, GIVEN_BACK = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A pseudo-terminal of 80 columns and 24 rows, and a program in it, as a session's leader."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        if shutil.which("setsid") is None:
            unavailable("setsid is not installed: apt install util-linux")
        self._near, self.far = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.far)
        self.sent = ""
        # setsid gives it the terminal as its own, so that Ctrl-C is a signal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=self.far,
            stdout=self.far,
            stderr=self.far,
            env={
                "TERM": "xterm-256color",
                "LANG": "C.UTF-8",
                "PATH": os.environ["PATH"],
                **(environment or {}),
            },
        )
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        """Change its size, of which the kernel tells the program."""
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._near, keys)

    @property
    def frame(self) -> list[str]:
        """The lines of the last picture that is complete, without their colours."""
        frames = self.sent.split("\x1b[H")
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames[-2]).split("\r\n") if len(frames) > 2 else []

    def shows(self, text: str) -> None:
        """Wait for a picture with this in it."""
        eventually(lambda: text in "\n".join(self.frame), f"a picture with {text}")

    def end(self) -> int:
        """Wait for the end, and return the exit code."""
        code = self.process.wait(DEADLINE_S)
        eventually(lambda: self.sent.endswith(SHOWN) or code, "the last of what it sends")
        return code

    @property
    def is_given_back(self) -> bool:
        """Whether it is as it was: the screen, the cursor, the keyboard."""
        return (
            self.sent.rfind(GIVEN_BACK) > self.sent.rfind(TAKEN) >= 0
            and self.sent.rfind(SHOWN) > self.sent.rfind(HIDDEN) >= 0
            and termios.tcgetattr(self.far) == self.before
        )

    def __enter__(self) -> Self:
        """Return the terminal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the program and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self.far)
        self._reader.join(DEADLINE_S)
        os.close(self._near)
        if error is None:
            assert "Traceback" not in self.sent, self.sent

    def _follow(self) -> None:
        text = b""
        while True:
            try:
                more = os.read(self._near, 65536)
            except OSError:  # no program has it any more
                return
            text += more
            self.sent = text.decode(errors="replace")
