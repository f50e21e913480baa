# SPDX-License-Identifier: MIT
"""How soon a crossing is noticed: memory is really taken, and each watcher reports when it noticed."""

import importlib.util
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import programs
from common import (
    PAGE_SIZE,
    BenchmarkError,
    Driven,
    Server,
    build,
    meminfo_kib,
    memnotify,
    progress,
    spread,
    table,
)

WAYS = ("touch", "memset", "hugepages")
NAMES = ("memnotify", "earlyoom", "nohang")
# How much is taken, by the distance of the threshold.
_TAKEN = {"touch": 1.25, "memset": 1.25, "hugepages": 1.125}
_MEMSETS = ("memset", "memset-huge")
# memnotify's longest interval and a little more: a watcher that has not noticed by then will not.
_NOTICE_S = 16.0
# To start, to take and to free, besides the idle time.
_WORK_S = 4.0


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, and the programs it takes."""

    rounds: int
    idle_s: float
    distance_mib: int
    core: int
    python: str
    client: Path
    fill: Path
    directory: Path


@dataclass(frozen=True)
class Watching:
    """A watcher of a figure: the figure's name for fill.c, the limit, and when the watcher noticed."""

    figure: str
    limit_kib: int
    noticed_ns: Callable[[float], int | None]


@dataclass
class Results:
    """What the rounds of one program gave."""

    latencies_ms: list[float] = field(default_factory=list)
    rates_gib_s: list[float] = field(default_factory=list)
    failed: int = 0


def seconds(options: Namespace) -> float:
    """Return about how long it takes."""
    names = [name for name in options.only if _missing(name) is None]
    return float(len(options.ways) * options.rounds * len(names) * (options.idle + _WORK_S))


def measure(options: Namespace, directory: Path) -> None:
    """Run the rounds of each way and print its table."""
    plan = Plan(
        rounds=options.rounds,
        idle_s=options.idle,
        distance_mib=options.distance_mib,
        core=options.core,
        python=options.python,
        client=build("client"),
        fill=build("fill"),
        directory=directory,
    )
    taken_kib = max(_TAKEN[way] for way in options.ways) * plan.distance_mib * 1024
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise BenchmarkError("matplotlib is missing: pip install -e '.[bench]'")
    if meminfo_kib("MemAvailable") < taken_kib + (1 << 20):
        raise BenchmarkError(
            f"{taken_kib / 2**20:.1f} GiB and one to spare are not available: try a smaller --distance-mib"
        )
    measured = {}
    for way in options.ways:
        filler = _faster_memset(plan) if way == "memset" else way
        results = {name: Results() for name in options.only}
        for number in range(plan.rounds):
            _round(plan, way, filler, number, results)
        print(_table(plan, filler, results), flush=True)
        measured[way] = results
    if options.plot:
        _draw(plan, measured, options.plot)


def _round(plan: Plan, way: str, filler: str, number: int, results: dict[str, Results]) -> None:
    for name in list(results)[:: 1 if number % 2 == 0 else -1]:
        if _missing(name) is not None:
            continue
        label = f"{way}, round {number + 1} of {plan.rounds}, {name}"
        try:
            latency_ms, gib_s = _measure(plan, filler, name, mib=int(plan.distance_mib * _TAKEN[way]))
        except BenchmarkError as error:
            results[name].failed += 1
            progress(f"{label}: failed: {error}")
            continue
        results[name].latencies_ms.append(latency_ms)
        results[name].rates_gib_s.append(gib_s)
        progress(f"{label}: {latency_ms:.1f} ms, memory taken at {gib_s:.2f} GiB/s")


def _filler(plan: Plan, way: str) -> Driven:
    # Beside the program: a directory for temporary files may lie in memory.
    environment = {"FILL_CORE": str(plan.core), "FILL_DIRECTORY": str(plan.fill.parent)}
    return Driven([str(plan.fill), way], environment=environment, patient=True)


def _faster_memset(plan: Plan) -> str:
    """Return which memset takes memory faster that was freed just before."""
    mib = int(plan.distance_mib * _TAKEN["memset"])
    mib_s = {}
    for way in _MEMSETS:
        with _filler(plan, way) as filler:
            filler.ask(f"warm {mib}")
            mib_s[way] = int(filler.ask(f"take {mib} available 0")[4])
    faster = max(_MEMSETS, key=lambda way: mib_s[way])
    progress(f"{', '.join(f'{way} {rate / 1024:.2f} GiB/s' for way, rate in mib_s.items())}: {faster} it is")
    return faster


def _measure(plan: Plan, way: str, name: str, mib: int) -> tuple[float, float]:
    """Start one program afresh, let it idle, take memory; return the ms it needed and the GiB/s taken."""
    with _filler(plan, way) as filler:
        if way in _MEMSETS:
            filler.ask(f"warm {mib}")
        with _watching(plan, name) as watching:
            if watching.noticed_ns(plan.idle_s) is not None:
                raise BenchmarkError("other programs' memory crossed the threshold before any was taken")
            answer = filler.ask(f"take {mib} {watching.figure} {watching.limit_kib}")
            begun_ns, below_ns, met_ns, mib_s = map(int, answer[1:])
            if not met_ns:
                raise BenchmarkError(f"{mib} MiB were taken and the limit was not met: others freed some")
            noticed_ns = watching.noticed_ns(_NOTICE_S)
            filler.ask("free")
    if noticed_ns is None:
        raise BenchmarkError(f"not noticed in {_NOTICE_S:.0f} s")
    if noticed_ns < begun_ns:
        raise BenchmarkError("it was noticed before any memory was taken")
    return (noticed_ns - below_ns) / 1e6, mib_s / 1024


@contextmanager
def _watching(plan: Plan, name: str) -> Iterator[Watching]:
    if name == "memnotify":
        pages = (plan.distance_mib << 20) // PAGE_SIZE
        with (
            Server(name, memnotify(plan.python), plan.directory) as server,
            Driven([str(plan.client), "watch", str(server.path), str(pages)]) as watcher,
        ):
            limit_kib = int(watcher.answer()[1]) * PAGE_SIZE // 1024

            def noticed_ns(timeout_s: float) -> int | None:
                line = watcher.line(timeout_s)
                return None if line is None else int(line.split()[1])

            yield Watching("used", limit_kib, noticed_ns)
        return
    # What lies on the per-CPU lists will be taken first, and MemAvailable does not count it.
    available_kib = meminfo_kib("MemAvailable")
    limit_kib = available_kib + _per_cpu_kib() - (plan.distance_mib << 10)
    if limit_kib >= available_kib:
        raise BenchmarkError("more lies on the per-CPU free lists than is to be taken: more --distance-mib")
    start = programs.earlyoom(limit_kib) if name == "earlyoom" else programs.nohang(plan.directory, limit_kib)
    with programs.Program(name, start, plan.client) as program:
        yield Watching("available", limit_kib, program.noticed_ns)


def _missing(name: str) -> str | None:
    return None if name == "memnotify" else programs.missing(name)


def _per_cpu_kib() -> int:
    text = Path("/proc/zoneinfo").read_text(encoding="ascii")
    return sum(map(int, re.findall(r"(?m)^ +count: +([0-9]+)$", text))) * PAGE_SIZE // 1024


def _table(plan: Plan, way: str, results: dict[str, Results]) -> str:
    rows = [[f"latency, {way}", "rounds", "failed", "ms from the crossing", "memory taken at, GiB/s"]]
    for name, result in results.items():
        why = _missing(name)
        if why is not None:
            rows.append([name, why])
        elif not result.latencies_ms:
            rows.append([name, f"all {result.failed} rounds failed; why stands above"])
        else:
            counts = [str(len(result.latencies_ms)), str(result.failed)]
            rows.append([name, *counts, spread(result.latencies_ms, 1), spread(result.rates_gib_s, 2)])
    remark = f"threshold {plan.distance_mib} MiB away, {plan.idle_s:g} s idle before; median (min to max)"
    return f"\n{table(rows)}\n{remark}\n"


def _draw(plan: Plan, measured: dict[str, dict[str, Results]], output: Path) -> None:
    """Draw a point for each round, and the median, as a PNG."""
    import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the same
    from matplotlib.ticker import NullFormatter, StrMethodFormatter  # noqa: PLC0415 - the same

    figure, every = plt.subplots(
        1, len(measured), sharex=True, sharey=True, squeeze=False, figsize=(11, 3), layout="constrained"
    )
    figure.suptitle(f"From the crossing of a threshold {plan.distance_mib} MiB away until it is noticed")
    for axes, (way, results) in zip(every[0], measured.items(), strict=True):
        shown = {name: result.latencies_ms for name, result in results.items() if result.latencies_ms}
        for row, latencies_ms in enumerate(shown.values()):
            color = f"C{row}"
            axes.plot(latencies_ms, [row] * len(latencies_ms), "o", color=color, alpha=0.5, markersize=6)
            axes.plot([median(latencies_ms)], [row], "|", color=color, markersize=30, markeredgewidth=2)
        axes.set_xscale("log")
        axes.set_xticks([2, 5, 10, 20, 50, 100, 200, 500])
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(shown)), labels=list(shown))
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_title(way)
        axes.set_xlabel("ms; the line is the median")
        axes.grid(visible=True, axis="x", alpha=0.3)
    try:
        figure.savefig(output, dpi=120)
    except OSError as error:
        raise BenchmarkError(f"{output} cannot be written: {error.strerror}") from None
