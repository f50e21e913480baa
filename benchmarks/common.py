# SPDX-License-Identifier: MIT
"""What the benchmarks share: building, starting, asking, measuring, and leaving nothing behind."""

import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

HERE = Path(__file__).resolve().parent
PAGE_SIZE = os.sysconf("SC_PAGESIZE")
# Seconds for whatever should take milliseconds: only a fault reaches it.
DEADLINE_S = 60.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BenchmarkError(RuntimeError):
    """A measurement cannot be made; the text says what to do about it."""


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Let what is started inside run on one core, with all the threads it will have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def await_that(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds, checked every 5 ms. Raises BenchmarkError after DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not in {DEADLINE_S:.0f} s")
        time.sleep(0.005)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at ``path``; asks the kernel's table, not a server that may be stuck."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    # A blank in a path stands there as \040.
    return any(line.split()[4].encode().decode("unicode_escape") == str(path) for line in mounts)


def status(pid: int, field: str, task: str = "") -> str:
    """Return what /proc says of a process, or of one of its tasks, under ``field``. Raises BenchmarkError."""
    place = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(place).read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return line.partition(":")[2].strip()
    raise BenchmarkError(f"{place} has no {field}: the process is gone")


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process so far, in ns; exact while they sleep."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks)


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process went to sleep, and so woke, so far."""
    return sum(int(status(pid, "voluntary_ctxt_switches", task)) for task in os.listdir(f"/proc/{pid}/task"))


def check_running(pid: int, name: str) -> None:
    """Raise BenchmarkError if a process has ended: what has ended costs nothing."""
    if status(pid, "State")[0] in "ZX":
        raise BenchmarkError(f"{name} has ended")


def children(pid: int) -> list[int]:
    """Return the numbers of a process's children."""
    return [
        int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ]


class Driven:
    """A program that reads commands and answers, one line each.

    ``patient`` is for one that has to clean up: it ends when its input does, and is killed only if it
    has not by DEADLINE_S. Any other is killed; one whose server is stuck cannot be, and the server's
    end frees it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int = subprocess.PIPE,
        environment: dict[str, str] | None = None,
        patient: bool = False,
    ) -> None:
        """Start the program."""
        self._process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, env=os.environ | (environment or {})
        )
        self._name = Path(command[0]).name
        self._patient = patient
        self._unread = b""

    def __enter__(self) -> Self:
        """Return the program itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        if not self._patient:
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=DEADLINE_S if self._patient else 5)
        self._process.kill()

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._process.pid

    def send(self, command: str) -> None:
        """Send a command."""
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchmarkError(f"{self._name} is gone; its messages are above") from None

    def line(self, timeout_s: float = DEADLINE_S) -> str | None:
        """Return the next line of its output, or None if there is none within ``timeout_s``.

        Raises BenchmarkError if it has ended.
        """
        assert self._process.stdout is not None  # noqa: S101 - the same
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                raise BenchmarkError(f"{self._name} has ended; what it says stands above")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def answer(self, timeout_s: float = DEADLINE_S) -> list[str]:
        """Return the words of the next answer. Raises BenchmarkError if none comes."""
        line = self.line(timeout_s)
        if line is None:
            raise BenchmarkError(f"{self._name} did not answer in {timeout_s:.0f} s")
        return line.split()

    def ask(self, command: str) -> list[str]:
        """Give a command and return the words of its answer."""
        self.send(command)
        return self.answer()


class Server:
    """A server on a mount of its own, from when it answers until the block is left."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, *, log_fd: int | None = None
    ) -> None:
        """Start ``command``, to which the path is added; only entering the block waits for it.

        Its log goes to ``log_fd``, or into the directory.
        """
        self.name = name
        self.path = directory / name
        self._log = directory / f"{name}.log"
        self.path.touch()
        with self._log.open("wb") as log:
            # Closed input: a server is not to hang on to the terminal. And it ends with this program.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command, str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log if log_fd is None else log_fd,
                stderr=log if log_fd is None else log_fd,
            )

    def __enter__(self) -> Self:
        """Wait until the server answers a read. Raises BenchmarkError if it does not."""
        try:
            await_that(self._answers, f"waiting for {self.name} to answer")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the server and its mount."""
        self.stop()

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._process.pid

    def cpu_ns(self) -> int:
        """Return the CPU time of all its threads so far, in ns."""
        return cpu_ns(self.pid)

    def rss_kib(self) -> int:
        """Return its resident memory, in KiB. Raises BenchmarkError."""
        try:
            return int(status(self.pid, "VmRSS").split()[0])
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}; {self.name}'s log says:\n{self._log_tail()}") from None

    def stop(self) -> None:
        """End the server, by force if it does not go, and leave no mount behind."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not end on SIGTERM and is killed", file=sys.stderr)
            self._process.kill()
            self._process.wait()
        while is_mounted(self.path):
            if subprocess.run(["umount", "-l", str(self.path)], check=False).returncode:
                break

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise BenchmarkError(
                f"{self.name} ended with status {self._process.returncode}; its log says:\n{self._log_tail()}"
            )
        # Before that the path is an empty file.
        if not is_mounted(self.path):
            return False
        with self.path.open("rb", buffering=0) as device:
            return bool(device.read(256))

    def _log_tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:] or "(nothing)"


def memnotify(python: str) -> list[str]:
    """Return the command that serves the memnotify that ``python`` has installed, at the path added to it."""
    # -P: not the memnotify of the current directory.
    return [python, "-P", "-m", "memnotify", "serve", "--transport", "fuse", "--path"]


def build(name: str, libraries: Sequence[str] = ()) -> Path:
    """Compile ``name``.c into benchmarks/build and return the program. Raises BenchmarkError."""
    program = HERE / "build" / name
    program.parent.mkdir(exist_ok=True)
    source = HERE / f"{name}.c"
    command = ["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program)]
    if subprocess.run([*command, *libraries], check=False).returncode:
        raise BenchmarkError(f"{source.name} does not compile; the compiler's words stand above")
    return program


def check_machine() -> None:
    """Raise BenchmarkError for whatever every benchmark needs and this machine lacks."""
    if os.geteuid():
        raise BenchmarkError("run it as root: the servers mount for all users and lock their memory")
    if not Path("/dev/fuse").exists():
        raise BenchmarkError("there is no /dev/fuse: modprobe fuse, or a kernel with CONFIG_FUSE_FS")
    if not Path(f"/proc/{os.getpid()}/schedstat").exists():
        raise BenchmarkError("there is no /proc/PID/schedstat: it takes a kernel with CONFIG_SCHED_INFO")
    for program, package in (("gcc", "gcc"), ("setpriv", "util-linux"), ("umount", "mount")):
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is missing: apt install {package}")


def spread(values: Sequence[float], decimals: int) -> str:
    """Return the median and, in brackets, the smallest and the greatest value."""
    middle, lowest, highest = (
        f"{value:.{decimals}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({lowest} to {highest})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a table: the first column to the left, the others to the right.

    A row of two cells has a remark in place of values.
    """
    full = [row for row in rows if len(row) != 2]
    widths = [max(len(row[place]) for row in full) for place in range(len(full[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for first, *others in rows:
        aligned = others
        if len(others) != 1:
            aligned = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:{widths[0]}}", *aligned]))
    return "\n".join(lines)


def progress(text: str) -> None:
    """Print what has just been done."""
    print(text, file=sys.stderr, flush=True)


def meminfo_kib(field: str) -> int:
    """Return a field of /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise BenchmarkError(f"/proc/meminfo has no {field}")


def positive(text: str) -> int:
    """Return a number of the command line that must be at least 1."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("it must be at least 1")
    return number


def end_on_signal(number: int, _: FrameType | None) -> None:
    """Turn a signal into an exit that unwinds, so that servers and mounts go."""
    # A second Ctrl-C is not to interrupt the unwinding.
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


def run(name: str, work: Callable[[Path], None]) -> int:
    """Do ``work`` in a directory that is removed after it; return the exit status."""
    for ending in ENDING:
        signal.signal(ending, end_on_signal)
    try:
        check_machine()
        with tempfile.TemporaryDirectory(prefix="memnotify-bench-") as directory:
            work(Path(directory))
    except BenchmarkError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
