# SPDX-License-Identifier: MIT
"""A process of its own that serves the device on an inherited descriptor; its memory stands still.

Run as ``python -m support.served FD``. It writes lines to stdout: "ready" before the handshake,
"interrupted" each time that serving was interrupted, as on SIGTERM, and "gone" at the end.
"""

import logging
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path
from types import TracebackType
from typing import Self

from support.bench import Bench
from support.fake_kernel import FakeKernel
from support.fakes import FakeReader
from support.waiting import DEADLINE_S

from memnotify.transports.session import Session
from memnotify.worker import Worker


class Served:
    """The process and the kernel it serves. What it wrote to stderr is looked at in the end."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "support.served", str(self.kernel.fd)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[self.kernel.fd],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        os.close(self.kernel.fd)
        assert self.says() == "ready"

    def says(self) -> str:
        """Return its next line of output; fail if there is none in time."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], DEADLINE_S)[0], f"silent\n{self.log()}"
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self.process.stdout.fileno(), 1)
            assert more, f"ended\n{self.log()}"
            line += more
        return line.decode().rstrip("\n")

    def log(self) -> str:
        """Return its output on stderr."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """End the connection: the process must end well, and must have logged no defect."""
        try:
            self.kernel.close()
            assert self.says() == "gone"
            assert self.process.wait(DEADLINE_S) == 0
            log = self.log()
            assert "Traceback" not in log, log
            assert "a request failed" not in log, log
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()

    def __enter__(self) -> Self:
        """Return the process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()


def _main(fd: str) -> None:
    logging.basicConfig(level=logging.DEBUG)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})

    def notify(handles: "array[int]", count: int) -> None:
        session.notify(handles, count)

    bench = Bench(FakeReader(), notify=notify)
    session = Session.cuse("fake", bench.device)
    session.attach(f"/dev/fd/{fd}")
    print("ready", flush=True)  # noqa: T201 - what the test reads
    session.handshake()

    def turn() -> bool:
        served = session.serve()
        if served:
            print("interrupted", flush=True)  # noqa: T201 - to the test
            # An interruption may come at any moment between two calls of serve, or as one begins.
            for _ in range(random.randrange(3000)):  # noqa: S311 - no secret
                pass
        else:
            os.kill(os.getpid(), signal.SIGCHLD)
        return served

    worker = Worker("session", turn, session.interrupt)
    worker.start(lambda: os.kill(os.getpid(), signal.SIGCHLD))
    while signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGTERM:
        session.interrupt()
    print("gone", flush=True)  # noqa: T201 - to the test
    worker.stop()
    session.close()
    bench.sampler.stop()


if __name__ == "__main__":
    _main(sys.argv[1])
