# SPDX-License-Identifier: MIT
"""Measure how much hostile processes of one user delay the wake-ups of another user's clients.

The figures are those of a file in place of /proc/meminfo, in a mount namespace of its own, so that a
crossing comes when it is wanted and the machine's memory stays as it is. The daemon samples every 10 ms. A
wake-up's time is from the crossing to when a client has read, with the wait for the sample. The processes of
the control only take CPU time: a row that is no longer than the control's is the scheduler's.
"""

import argparse
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import BenchmarkError, Driven, Server, await_that, build, on_core, positive, progress, run, table

_HEADS = ("wake-ups", "p50, ms", "p99, ms", "x quiet", "p99", "x control", "p99")
_FLOOR_TIMES = 20_000
# Users that have no other process.
_INNOCENT, _HOSTILE = 1_999_999_998, 1_999_999_999
CONTROL = "spin"
DEVICE = ("read", "write", "refused", "long", "poll", "open", "epoll", "observers")
SOCKET = ("socket-write", "socket-lines", "socket-junk", "socket-connect")
_PERIOD_MS = 10
_TOTAL_KIB, _FREE_KIB = 16_000_000, 8_000_000
# Between the two values of `used` that alternate.
_THRESHOLD_PAGES = (_TOTAL_KIB - _FREE_KIB + 500_000) * 1024 // os.sysconf("SC_PAGESIZE")
_PRIVATE = "MEMNOTIFY_ABUSE_PRIVATE"
_LOST_S = 20.0
# 80,000 observers take their time.
_READY_S = 120.0
_GUEST_S = 3600.0


class Memory:
    """A file in place of /proc/meminfo whose MemFree is one of two values; one digit differs."""

    def __init__(self, directory: Path) -> None:
        """Mount it over /proc/meminfo."""
        fields = {"MemTotal": _TOTAL_KIB, "MemFree": _FREE_KIB, "MemAvailable": _FREE_KIB}
        others = "Buffers Cached SwapCached Active Inactive Active(anon) Inactive(anon) Active(file)"
        others += " Inactive(file) Mlocked SwapTotal SwapFree Shmem SReclaimable"
        fields |= dict.fromkeys(others.split(), 0)
        text = "".join(f"{name}: {value:>12} kB\n" for name, value in fields.items())
        path = directory / "meminfo"
        path.write_text(text, encoding="ascii")
        self._fd = os.open(path, os.O_WRONLY)
        self._at = text.index(f"{_FREE_KIB}")
        self._digits = b"87"
        subprocess.run(["mount", "--bind", str(path), "/proc/meminfo"], check=True)

    def cross(self) -> int:
        """Cross the threshold in the other direction than before; return when, in ns."""
        self._digits = self._digits[::-1]
        now_ns = time.monotonic_ns()
        os.pwrite(self._fd, self._digits[:1], self._at)
        return now_ns


@contextmanager
def _served(options: Namespace, directory: Path) -> Iterator[tuple[Path, Path]]:
    """Serve afresh; the value is the device and the socket."""
    socket = directory / "socket"
    command = [options.python, "-P", "-m", "memnotify", "serve", "--config", "/dev/null"]
    command += ["--no-pcp-is-free", "--no-count-pages", "--socket", str(socket)]
    command += ["--update-period", str(_PERIOD_MS), "--max-update-period", str(_PERIOD_MS)]
    if options.transport == "fuse":
        with Server("abused", [*command, "--transport", "fuse", "--path"], directory) as server:
            yield server.path, socket
        return
    node = Path("/dev/memnotify-abused")
    with subprocess.Popen([*command, "--transport", "cuse", "--name", node.name]) as process:
        try:
            await_that(node.exists, f"waiting for {node}")
            node.chmod(0o666)
            yield node, socket
        finally:
            process.terminate()


@contextmanager
def _started(program: Path, kind: str, user: int, path: Path, count: int) -> Iterator[Driven]:
    """Run processes of one kind that do what they are to do."""
    with Driven([str(program), kind, str(user), str(path), str(count), str(_THRESHOLD_PAGES)]) as driven:
        for _ in range(count):
            answer = driven.answer(_READY_S)
            if answer != ["ready"]:
                raise BenchmarkError(f"{kind} said {answer}")
        yield driven


def _wakes_ms(clients: Driven, memory: Memory, options: Namespace) -> list[float]:
    """Cross the threshold again and again; return how long each client took to read, each time."""
    times: list[float] = []
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline:
        # Not in step with the samples.
        time.sleep(random.uniform(0.1, 0.1 + _PERIOD_MS / 1000))  # noqa: S311 - no secret
        crossed_ns = memory.cross()
        for _ in range(options.clients):
            line = clients.line(_LOST_S)
            times.append(_LOST_S * 1000 if line is None else (int(line) - crossed_ns) / 1e6)
    return sorted(times)


def _parts(times: list[float]) -> list[float]:
    return [times[int(len(times) * part)] for part in (0.5, 0.99)]


def _row(name: str, times: list[float], *bases: list[float]) -> list[str]:
    """Return a row of the table: the times, and how often the bases they are; empty where there are none."""
    parts = _parts(times)
    cells = [f"{part / base:.2f}" for other in bases for part, base in zip(parts, _parts(other), strict=True)]
    return [name, str(len(times)), *(f"{part:.1f}" for part in parts), *cells, *[""] * (4 - len(cells))]


def _floor_us() -> float:
    """Return how long one byte takes to another process and back by two pipes, on one CPU."""
    with on_core(max(os.sched_getaffinity(0))):
        done = subprocess.run(
            [str(build("client")), "pipe", "-", str(_FLOOR_TIMES)], check=True, stdout=subprocess.PIPE
        )
    return int(done.stdout) / _FLOOR_TIMES / 1000


def measure(options: Namespace, directory: Path) -> None:
    """Measure quiet, the control and each kind, and print the table."""
    directory.chmod(0o755)
    memory = Memory(directory)
    program = directory / "abuse"
    shutil.copy(build("abuse"), program)
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"pipe ping-pong, the floor: {_floor_us():.1f} us")
    for waiting in options.waiting:
        rows = [[f"{options.transport}, {waiting}", *_HEADS]]
        bases: list[list[float]] = []
        for kind in ("quiet", CONTROL, *options.kinds):
            with _served(options, directory) as (device, socket):
                mine = socket if waiting == "wait-socket" else device
                with _started(program, waiting, _INNOCENT, mine, options.clients) as clients:
                    if kind == "quiet":
                        times = _wakes_ms(clients, memory, options)
                    else:
                        theirs = socket if kind in SOCKET else device
                        with _started(program, kind, _HOSTILE, theirs, options.processes):
                            times = _wakes_ms(clients, memory, options)
            rows.append(_row(kind, times, *bases))
            if kind in {"quiet", CONTROL}:
                bases.append(times)
            progress("  ".join(rows[-1]))
        print(f"\n{table(rows)}\n", flush=True)


def parse_options() -> Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--transport", choices=("fuse", "cuse"), default="fuse")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=(*DEVICE, *SOCKET),
        default=(*DEVICE, *SOCKET),
        help="of hostile processes",
    )
    parser.add_argument(
        "--waiting",
        nargs="+",
        choices=("wait", "wait-socket"),
        default=("wait", "wait-socket"),
        help="innocent clients of the device, of the socket",
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--processes", type=positive, default=8, help="hostile ones, of one user")
    parser.add_argument("--clients", type=positive, default=20, help="innocent ones")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")
    parser.add_argument(
        "--guest", action="store_true", help="in a guest, as the guest tests (tools/setup test)"
    )
    return parser.parse_args()


def _in_guest() -> int:
    here = Path(__file__).resolve()
    sys.path.insert(0, str(here.parent.parent / "tests"))
    from guest.kernel import GuestUnavailable  # noqa: PLC0415 - the tests' directory is not on the path
    from guest.vm import GuestLost  # noqa: PLC0415 - the same
    from guest.vm import run as run_guest  # noqa: PLC0415 - the same

    arguments = shlex.join(word for word in sys.argv[1:] if word != "--guest")
    script = f"{sys.executable} {here} {arguments}"
    try:
        # The guest's clock counts instructions, 4 ns each: a busy host makes the run longer, not the times.
        # Debian 12's kernel (6.1) hung with it where the second CPU starts.
        clock = ("-icount", "shift=2,sleep=off")
        result = run_guest(script, timeout_s=_GUEST_S, suite="trixie", options=clock)
    except (GuestLost, GuestUnavailable) as error:
        print(f"abuse.py: {error}", file=sys.stderr)
        return 1
    print(result.output)
    return result.status


def main() -> int:
    """Run it in a mount namespace of its own, or in a guest; return the exit status."""
    options = parse_options()
    if options.guest:
        return _in_guest()
    if _PRIVATE not in os.environ:
        command = ["unshare", "--mount", "--propagation", "private", "--", sys.executable, *sys.argv]
        os.execvpe(command[0], command, os.environ | {_PRIVATE: "1"})  # noqa: S606 - no shell is wanted
    return run("abuse", lambda directory: measure(options, directory))


if __name__ == "__main__":
    sys.exit(main())
