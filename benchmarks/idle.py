# SPDX-License-Identifier: MIT
"""What it costs to wait: wake-ups and CPU time of programs that have nothing to do, in the same windows."""

import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import programs
from common import (
    PAGE_SIZE,
    BenchmarkError,
    Driven,
    Server,
    build,
    check_running,
    cpu_ns,
    meminfo_kib,
    memnotify,
    progress,
    spread,
    table,
    wake_ups,
)

WATCHING, PARKED = "memnotify", "memnotify, parked"
NAMES = (WATCHING, "psi-notify", "nohang", "earlyoom", PARKED, "low-memory-monitor")
# Above `used`, in parts of total: the nearest is what decides.
_FAR = (0.25, 0.35, 0.45, 0.55, 0.65)
_START_S = 3.0


def seconds(options: Namespace) -> float:
    """Return about how long it takes."""
    return float(options.rounds * (options.idle + options.window + _START_S))


def measure(options: Namespace, directory: Path) -> None:
    """Run the rounds and print the table."""
    client = build("client")
    why = {name: programs.missing(name) for name in NAMES if not name.startswith("memnotify")}
    runnable = [name for name in NAMES if not why.get(name)]
    wakes: dict[str, list[float]] = {name: [] for name in runnable}
    cpu_ms: dict[str, list[float]] = {name: [] for name in runnable}
    failed = 0
    for number in range(options.rounds):
        label = f"round {number + 1} of {options.rounds}"
        try:
            found = _window(options, runnable, client, directory)
        except BenchmarkError as error:
            failed += 1
            progress(f"{label}: failed: {error}")
            continue
        for name, (count, ms) in found.items():
            wakes[name].append(count)
            cpu_ms[name].append(ms)
        said = [f"{name} {count} wake-ups, {ms:.2f} ms" for name, (count, ms) in found.items()]
        progress(f"{label}: {'; '.join(said)}")
    if not wakes[WATCHING]:
        raise BenchmarkError(f"all {failed} rounds failed; why stands above")
    rows = [[f"idle, {options.window:g} s", "windows", "failed", "wake-ups", "CPU, ms"]]
    for name in NAMES:
        remark = why.get(name)
        if remark:
            rows.append([name, remark])
            continue
        counts = [str(len(wakes[name])), str(failed)]
        rows.append([name, *counts, spread(wakes[name], 0), spread(cpu_ms[name], 2)])
    print(f"\n{table(rows)}\nall threads; {options.idle:g} s idle before; median (min to max)\n")


def _window(
    options: Namespace, runnable: Sequence[str], client: Path, directory: Path
) -> dict[str, tuple[int, float]]:
    """Start all programs afresh; return the wake-ups and the ms of CPU time of each, in one window."""
    with ExitStack() as stack:
        watchers: list[Driven] = []
        pids: dict[str, int] = {}
        for name in runnable:
            if name in (WATCHING, PARKED):
                server = Server(name.replace(", ", "-"), memnotify(options.python), directory)
                pids[name] = stack.enter_context(server).pid
                if name == WATCHING:
                    watchers = [stack.enter_context(_far(client, server, part)) for part in _FAR]
            else:
                program = programs.Program(name, _start(name, directory, stack), client)
                pids[name] = stack.enter_context(program).pid
        for watcher in watchers:
            watcher.answer()
        time.sleep(options.idle)
        before = {name: (wake_ups(pid), cpu_ns(pid)) for name, pid in pids.items()}
        time.sleep(options.window)
        after = {name: (wake_ups(pid), cpu_ns(pid)) for name, pid in pids.items()}
        for name, pid in pids.items():
            check_running(pid, name)
        if any(watcher.line(0) is not None for watcher in watchers):
            raise BenchmarkError("other programs' memory crossed a quarter of this machine's")
    return {
        name: (after[name][0] - before[name][0], (after[name][1] - before[name][1]) / 1e6) for name in pids
    }


def _far(client: Path, server: Server, part: float) -> Driven:
    pages = int(part * (meminfo_kib("MemTotal") + meminfo_kib("SwapTotal"))) * 1024 // PAGE_SIZE
    return Driven([str(client), "watch", str(server.path), str(pages)])


def _start(name: str, directory: Path, stack: ExitStack) -> programs.Start:
    if name == "earlyoom":
        return programs.earlyoom()
    if name == "nohang":
        return programs.nohang(directory)
    if name == "psi-notify":
        return programs.psi_notify()
    return programs.low_memory_monitor(stack.enter_context(programs.Bus(directory)))
