# SPDX-License-Identifier: MIT
"""A pseudo-terminal for a full-screen program."""

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

ALTERNATE, NORMAL = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A pseudo-terminal of 80 columns and 24 rows, with a program as the session leader."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        if shutil.which("setsid") is None:
            unavailable("setsid is not installed: apt install util-linux")
        self._near, self.far = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.far)
        self.sent = ""
        # setsid makes it the controlling terminal, so that Ctrl-C is a signal.
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
        """Change the size; the kernel sends SIGWINCH."""
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._near, keys)

    @property
    def frame(self) -> list[str]:
        """The lines of the last complete picture, without colours."""
        frames = self.sent.split("\x1b[H")
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames[-2]).split("\r\n") if len(frames) > 2 else []

    def shows(self, text: str) -> None:
        """Wait for a picture that contains ``text``."""
        eventually(lambda: text in "\n".join(self.frame), f"a picture with {text}")

    def end(self) -> int:
        """Wait until the program has ended; return its exit code."""
        code = self.process.wait(DEADLINE_S)
        eventually(lambda: self.sent.endswith(SHOWN) or code, "the end of the output")
        return code

    @property
    def is_restored(self) -> bool:
        """True if screen, cursor and keyboard are as before the program."""
        return (
            self.sent.rfind(NORMAL) > self.sent.rfind(ALTERNATE) >= 0
            and self.sent.rfind(SHOWN) > self.sent.rfind(HIDDEN) >= 0
            and termios.tcgetattr(self.far) == self.before
        )

    def __enter__(self) -> Self:
        """Return the terminal."""
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
            except OSError:  # no program has the terminal open any more
                return
            text += more
            self.sent = text.decode(errors="replace")
