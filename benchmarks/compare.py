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
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from common import (
    DEADLINE_S,
    PAGE_SIZE,
    BenchmarkError,
    Driven,
    Server,
    build,
    cpu_ns,
    memnotify,
    on_core,
    positive,
    run,
)

# The threshold to cross stands this many bytes above `used`, and twice that is allocated: more than what
# other programs on a busy machine take or free in the same time.
MARGIN = 128 << 20
# A little more than the update_period of both servers.
STALE_S = 0.3
# Other programs' memory may cross the threshold first; it is then set again.
ATTEMPTS = 10


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
    directory: Path
    commands: dict[str, list[str]]


def wake_client(plan: Plan, server: Server) -> Driven:
    """Start the C client that holds all open files; it opens nothing before the command to."""
    with on_core(plan.core):
        return Driven([str(plan.client), "wake", str(server.path), str(plan.clients)])


def run_client(plan: Plan, action: str, path: str) -> float:
    """Run the C client's loop of ``plan.requests`` and return the us of one. Raises BenchmarkError."""
    command = [str(plan.client), action, path, str(plan.requests)]
    try:
        with on_core(plan.core):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=DEADLINE_S)
    except subprocess.CalledProcessError:
        raise BenchmarkError(f"the measuring client failed in {action}; its messages are above") from None
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
    with wake_client(plan, server) as client:
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


def wake(server: Server, client: Driven) -> Woken:
    """Cross all thresholds by allocating real memory, and return what that cost.

    The memory is allocated here, on another core if there is one, so that the client waits in
    epoll_wait when the first notification comes.
    """
    for _ in range(ATTEMPTS):
        # The figures that the thresholds are set by may be an update_period old, and memory was just freed.
        time.sleep(STALE_S)
        if client.ask(f"arm {MARGIN // PAGE_SIZE}") == ["early"]:
            continue
        server_ns, client_ns = server.cpu_ns(), cpu_ns(client.pid)
        client.send("wait")
        trigger_ns = time.monotonic_ns()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        with mmap.mmap(-1, 2 * MARGIN, flags=flags):
            first_ns, last_ns = map(int, client.answer()[1:])
        if first_ns > trigger_ns:
            return Woken(last_ns - first_ns, server.cpu_ns() - server_ns, cpu_ns(client.pid) - client_ns)
    raise BenchmarkError(
        f"{ATTEMPTS} times other programs' memory crossed the threshold first: try on a quieter machine"
    )


def run_round(plan: Plan, names: list[str], results: dict[str, Results]) -> None:
    """Measure the servers in the order of ``names`` and add to their results."""

    def add(name: str, measure: Measure, value: float) -> None:
        results[name].setdefault(measure, []).append(value)

    with ExitStack() as stack:
        with on_core(plan.core):
            servers = {
                name: stack.enter_context(Server(name, plan.commands[name], plan.directory)) for name in names
            }
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
    ratio = " / ".join(reversed(names))
    yield f"{clients} clients; medians; the ratio is {ratio} within each round, its median"


def fuse_flags() -> list[str]:
    """Return the compiler's flags for libfuse 3. Raises BenchmarkError."""
    if shutil.which("pkg-config") is None:
        raise BenchmarkError("pkg-config is missing: apt install pkg-config")
    if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
        raise BenchmarkError("libfuse 3's headers are missing: apt install libfuse3-dev")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, stdout=subprocess.PIPE)
    return [*flags.stdout.decode().split(), "-pthread", "-lm"]


@contextmanager
def neighbour(core: int) -> Iterator[None]:
    """Run a program on ``core`` that takes the shared cache from all others."""
    with on_core(core):
        sweep = Driven([str(build("sweep"))])
    with sweep:
        print(f"beside a program on core {core} that sweeps {' '.join(sweep.answer())}")
        yield


def compare(options: argparse.Namespace, directory: Path) -> None:
    """Run the rounds and print the table."""
    commands = {"memnotify": memnotify(options.python)}
    if options.before:
        commands = {"before": memnotify(options.before), **commands}
    else:
        commands = {"C": [str(build("peer", fuse_flags()))], **commands}
    if options.only:
        commands = {name: command for name, command in commands.items() if name == options.only}
    plan = Plan(
        rounds=options.rounds,
        requests=options.requests,
        clients=options.clients,
        core=options.core,
        client=build("client"),
        directory=directory,
        commands=commands,
    )
    cores = os.sched_getaffinity(0)
    print(f"Linux {platform.release()}, {platform.machine()}, Python {platform.python_version()}")
    print(f"{plan.rounds} rounds of {plan.requests} requests; all on core {plan.core} of {len(cores)}")
    # This program watches and allocates from the other cores, if there are any.
    others = cores - {plan.core}
    if others:
        os.sched_setaffinity(0, others)
    if options.neighbour and not others:
        raise BenchmarkError("--neighbour needs a second core")
    results: dict[str, Results] = {name: {} for name in commands}
    names = list(commands)
    with neighbour(min(others)) if options.neighbour else nullcontext():
        for number in range(plan.rounds):
            run_round(plan, names if number % 2 == 0 else names[::-1], results)
            print(f"round {number + 1} of {plan.rounds}", end="\r", file=sys.stderr, flush=True)
    print(*table(results, plan.clients), sep="\n")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0] if __doc__ else None,
        epilog="Run as root, from an environment in which memnotify is installed (pip install -e .). It"
        " mounts in a temporary directory and leaves nothing behind. Absolute times depend on the machine and"
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
    parser.add_argument(
        "--before",
        metavar="PYTHON",
        help="compare with the version that this Python has installed, not with C",
    )
    parser.add_argument(
        "--neighbour",
        action="store_true",
        help="run a program on another core that sweeps more memory than the last cache holds",
    )
    parser.add_argument("--only", choices=("C", "memnotify"), help="measure one server; no ratios then")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs memnotify")
    return parser.parse_args()


def main() -> int:
    """Run the command; return its exit status."""
    options = parse_options()
    return run("compare", lambda directory: compare(options, directory))


if __name__ == "__main__":
    sys.exit(main())
