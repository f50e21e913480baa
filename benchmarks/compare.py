# SPDX-License-Identifier: MIT
"""Measure memnotify against a C server with the same interface, both on a FUSE mount, on one core.

Each round starts both servers afresh and measures them in turn, the first one alternating, so that
whatever else the machine does meets both. Times of one run compare with each other and with nothing
else: what counts is the ratio, taken within each round.
"""

import argparse
import mmap
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

HERE = Path(__file__).resolve().parent
PAGE_SIZE = os.sysconf("SC_PAGESIZE")
# The threshold to cross stands this many bytes above `used`, and twice that is allocated: more than what
# other programs on a busy machine take or free meanwhile.
MARGIN = 128 << 20
# Seconds for whatever should take milliseconds: only a fault reaches it.
DEADLINE_S = 60.0
# A little more than the update_period of both servers.
STALE_S = 0.3
# Somebody else's memory may cross the threshold first; then it is set anew.
ATTEMPTS = 10
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BenchmarkError(RuntimeError):
    """The comparison cannot be made; the text says what to do about it."""


@dataclass(frozen=True)
class Measure:
    """One row of the table: what is measured, in which unit, with how many decimals."""

    name: str
    unit: str
    decimals: int


READ = Measure("read: round trip", "us", 2)
READ_CPU = Measure("read: server CPU", "us", 2)
POLL = Measure("poll(0): round trip", "us", 2)
POLL_CPU = Measure("poll(0): server CPU", "us", 2)
SUBSCRIBE = Measure("open + write + epoll_ctl: per client", "us", 2)
SUBSCRIBE_CPU = Measure("open + write + epoll_ctl: server CPU", "us", 2)
WAKE = Measure("wake all: first wake-up to last read", "ms", 1)
WAKE_BUSY = Measure("wake all: CPU of server and clients", "ms", 1)
WAKE_CPU = Measure("wake all: server CPU per client", "us", 2)
RSS_EMPTY = Measure("RSS without clients", "MiB", 2)
RSS_FULL = Measure("RSS with all clients", "MiB", 2)
RSS_EACH = Measure("RSS added per client", "KiB", 3)
FLOOR = Measure("pipe ping-pong (the floor)", "us", 2)

Results = dict[Measure, list[float]]
"""The values of each measure, one a round."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for. ``requests`` are those of one measurement."""

    rounds: int
    requests: int
    clients: int
    core: int
    client: Path
    folder: Path
    commands: dict[str, list[str]]


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
    """Look every 5 ms whether ``condition`` holds. Raises BenchmarkError after DEADLINE_S."""
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


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process so far, in ns; exact while they sleep."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks)


class Server:
    """A server on a mount of its own, from when it answers until the block is left."""

    def __init__(self, name: str, plan: Plan) -> None:
        """Start the server called ``name``; only entering the block waits for it."""
        self.name = name
        self.path = plan.folder / name
        self._log = plan.folder / f"{name}.log"
        self.path.touch()
        with on_core(plan.core), self._log.open("wb") as log:
            # Closed input: a server is not to hang on to the terminal.
            self._process = subprocess.Popen(
                [*plan.commands[name], str(self.path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
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

    def cpu_ns(self) -> int:
        """Return the CPU time of all its threads so far, in ns."""
        return cpu_ns(self._process.pid)

    def rss_kib(self) -> int:
        """Return its resident memory, in KiB."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise BenchmarkError(f"{self.name} has no VmRSS: it is gone; its log says:\n{self._log_tail()}")

    def stop(self) -> None:
        """End the server, by force if it does not go, and leave no mount behind."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            print(f"compare: {self.name} did not end on SIGTERM and is killed", file=sys.stderr)
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


class WakeClient:
    """The C client that holds all open files; commands go in as lines and answers come out as lines."""

    def __init__(self, server: Server, plan: Plan) -> None:
        """Start the client; it opens nothing before it is told."""
        with on_core(plan.core):
            self._process = subprocess.Popen(
                [str(plan.client), "wake", str(server.path), str(plan.clients)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it. A client whose server is stuck cannot be killed: that server's end frees it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=5)

    def cpu_ns(self) -> int:
        """Return its CPU time so far, in ns."""
        return cpu_ns(self._process.pid)

    def send(self, command: str) -> None:
        """Give a command."""
        assert self._process.stdin is not None  # noqa: S101 - told to mypy; it was asked for
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> list[str]:
        """Return the words of the next answer. Raises BenchmarkError if none comes."""
        assert self._process.stdout is not None  # noqa: S101 - the same
        ready = select.select([self._process.stdout], [], [], DEADLINE_S)[0]
        words = self._process.stdout.readline().decode().split() if ready else []
        if not words:
            raise BenchmarkError("the measuring client did not answer; what it says stands above")
        return words

    def ask(self, command: str) -> list[str]:
        """Give a command and return the words of its answer."""
        self.send(command)
        return self.answer()


def run_client(plan: Plan, action: str, path: str) -> float:
    """Run the C client's loop of ``plan.requests`` and return the us of one. Raises BenchmarkError."""
    command = [str(plan.client), action, path, str(plan.requests)]
    try:
        with on_core(plan.core):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=DEADLINE_S)
    except subprocess.CalledProcessError:
        raise BenchmarkError(f"the measuring client failed in {action}; what it says stands above") from None
    except subprocess.TimeoutExpired:
        raise BenchmarkError(
            f"{plan.requests} of {action} take over {DEADLINE_S:.0f} s: try fewer --requests"
        ) from None
    return int(done.stdout) / plan.requests / 1000


def measure_requests(plan: Plan, server: Server, action: str) -> tuple[float, float]:
    """Return the us of one request as the client sees it, and the server's CPU time for it."""
    before_ns = server.cpu_ns()
    round_trip_us = run_client(plan, action, str(server.path))
    return round_trip_us, (server.cpu_ns() - before_ns) / plan.requests / 1000


def measure_clients(plan: Plan, server: Server) -> dict[Measure, float]:
    """Open all clients, wake them once, and return what that cost."""
    empty_kib = server.rss_kib()
    with WakeClient(server, plan) as client:
        before_ns = server.cpu_ns()
        opened_ns = int(client.ask("open")[1])
        subscribe_ns = server.cpu_ns() - before_ns
        woken = wake(server, client)
        full_kib = server.rss_kib()
    return {
        SUBSCRIBE: opened_ns / plan.clients / 1000,
        SUBSCRIBE_CPU: subscribe_ns / plan.clients / 1000,
        WAKE: woken.wall_ns / 1e6,
        WAKE_BUSY: (woken.server_ns + woken.client_ns) / 1e6,
        WAKE_CPU: woken.server_ns / plan.clients / 1000,
        RSS_EMPTY: empty_kib / 1024,
        RSS_FULL: full_kib / 1024,
        RSS_EACH: (full_kib - empty_kib) / plan.clients,
    }


@dataclass(frozen=True)
class Woken:
    """What waking all clients cost: from the first wake-up to the last read, and in CPU time."""

    wall_ns: int
    server_ns: int
    client_ns: int


def wake(server: Server, client: WakeClient) -> Woken:
    """Cross all thresholds by allocating real memory, and return what that cost.

    The memory is allocated here, on another core if there is one, so that the client waits in
    epoll_wait when the first notification comes.
    """
    for _ in range(ATTEMPTS):
        # The figures that the thresholds are set by may be an update_period old, and memory was just freed.
        time.sleep(STALE_S)
        if client.ask(f"arm {MARGIN // PAGE_SIZE}") == ["early"]:
            continue
        server_ns, client_ns = server.cpu_ns(), client.cpu_ns()
        client.send("wait")
        trigger_ns = time.monotonic_ns()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        with mmap.mmap(-1, 2 * MARGIN, flags=flags):
            first_ns, last_ns = map(int, client.answer()[1:])
        if first_ns > trigger_ns:
            return Woken(last_ns - first_ns, server.cpu_ns() - server_ns, client.cpu_ns() - client_ns)
    raise BenchmarkError(
        f"{ATTEMPTS} times other programs' memory crossed the threshold first: try on a quieter machine"
    )


def run_round(plan: Plan, names: list[str], results: dict[str, Results]) -> None:
    """Measure the servers in the order of ``names`` and add to their results."""

    def add(name: str, measure: Measure, value: float) -> None:
        results[name].setdefault(measure, []).append(value)

    with ExitStack() as stack:
        servers = {name: stack.enter_context(Server(name, plan)) for name in names}
        for action, round_trip, cpu in (("read", READ, READ_CPU), ("poll", POLL, POLL_CPU)):
            for name, server in servers.items():
                round_trip_us, cpu_us = measure_requests(plan, server, action)
                add(name, round_trip, round_trip_us)
                add(name, cpu, cpu_us)
        for name, server in servers.items():
            for measure, value in measure_clients(plan, server).items():
                add(name, measure, value)
            # Its 10,000 releases come after the client's end and are not to fall into the other's time.
            server.stop()
    floor = run_client(plan, "pipe", "-")
    for name in names:
        add(name, FLOOR, floor)


def table(results: dict[str, Results], clients: int) -> Iterator[str]:
    """Yield the lines of the table: medians, and with two servers the ratios within the rounds."""
    names = list(results)
    heading = f"{'':45}" + "".join(f"{name:>12}" for name in names)
    if len(names) == 2:
        heading += f"{'ratio':>9}  middle half of the rounds"
    yield heading
    for measure in results[names[0]]:
        columns = [results[name][measure] for name in names]
        line = f"{measure.name + ', ' + measure.unit:45}"
        line += "".join(f"{statistics.median(column):12.{measure.decimals}f}" for column in columns)
        if len(names) == 2 and measure is not FLOOR:
            ratios = sorted(ours / peer for peer, ours in zip(*columns, strict=True))
            quarter = len(ratios) // 4
            line += f"{statistics.median(ratios):8.2f}x"
            line += f"  {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}"
        yield line
    yield f"{clients} clients; medians; the ratio is memnotify / C within each round, its median"


def build(source: Path, libraries: list[str]) -> Path:
    """Compile one C file into benchmarks/build and return the program. Raises BenchmarkError."""
    program = HERE / "build" / source.stem
    program.parent.mkdir(exist_ok=True)
    command = ["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program)]
    if subprocess.run([*command, *libraries], check=False).returncode:
        raise BenchmarkError(f"{source.name} does not compile; the compiler's words stand above")
    return program


def check_machine() -> None:
    """Raise BenchmarkError for whatever is missing, before anything is started."""
    if os.geteuid():
        raise BenchmarkError("run it as root: the servers mount for all users and lock their memory")
    if not Path("/dev/fuse").exists():
        raise BenchmarkError("there is no /dev/fuse: modprobe fuse, or a kernel with CONFIG_FUSE_FS")
    if not Path(f"/proc/{os.getpid()}/schedstat").exists():
        raise BenchmarkError("there is no /proc/PID/schedstat: it takes a kernel with CONFIG_SCHED_INFO")
    for program, package in (("gcc", "gcc"), ("pkg-config", "pkg-config"), ("umount", "mount")):
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is missing: apt install {package}")
    if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
        raise BenchmarkError("libfuse 3's headers are missing: apt install libfuse3-dev")


def fuse_flags() -> list[str]:
    """Return the compiler's flags for libfuse 3."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, stdout=subprocess.PIPE)
    return [*flags.stdout.decode().split(), "-pthread", "-lm"]


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Run the rounds and print the table."""
    commands = {
        "C": [str(build(HERE / "peer.c", fuse_flags()))],
        "memnotify": [options.python, "-m", "memnotify", "serve", "--transport", "fuse", "--path"],
    }
    if options.only:
        commands = {options.only: commands[options.only]}
    plan = Plan(
        rounds=options.rounds,
        requests=options.requests,
        clients=options.clients,
        core=options.core,
        client=build(HERE / "client.c", []),
        folder=folder,
        commands=commands,
    )
    cores = os.sched_getaffinity(0)
    print(f"Linux {platform.release()}, {platform.machine()}, Python {platform.python_version()}")
    print(f"{plan.rounds} rounds of {plan.requests} requests; all on core {plan.core} of {len(cores)}")
    # This program watches and allocates from the other cores, if there are any.
    others = cores - {plan.core}
    if others:
        os.sched_setaffinity(0, others)
    results: dict[str, Results] = {name: {} for name in commands}
    names = list(commands)
    for number in range(plan.rounds):
        run_round(plan, names if number % 2 == 0 else names[::-1], results)
        print(f"round {number + 1} of {plan.rounds}", end="\r", file=sys.stderr, flush=True)
    print(*table(results, plan.clients), sep="\n")


def positive(text: str) -> int:
    """Return a number of the command line that must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] if __doc__ else None,
        epilog="Run as root, from an environment in which memnotify is installed (pip install -e .). It"
        " mounts in a temporary folder and leaves nothing behind. Absolute times depend on the machine and"
        " on what else it does: quote the ratios. benchmarks/README.md says what each row means.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=positive, default=11, help="rounds; each takes 2 to 3 s")
    parser.add_argument(
        "--requests", type=positive, default=20_000, help="reads, polls and ping-pongs a round"
    )
    parser.add_argument("--clients", type=positive, default=10_000, help="open files to wake")
    parser.add_argument(
        "--core", type=int, choices=cores, default=cores[-1], help="the core of all that is measured"
    )
    parser.add_argument("--only", choices=("C", "memnotify"), help="measure one server; no ratios then")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")
    return parser.parse_args()


def end_on_signal(number: int, _: FrameType | None) -> None:
    """Turn a signal into an exit that unwinds, so that servers and mounts go."""
    # A second Ctrl-C is not to interrupt the unwinding.
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    for ending in ENDING:
        signal.signal(ending, end_on_signal)
    try:
        check_machine()
        with tempfile.TemporaryDirectory(prefix="memnotify-bench-") as folder:
            compare(options, Path(folder))
    except BenchmarkError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
