# SPDX-License-Identifier: MIT
"""Every benchmark runs, for a moment, and what it starts can do no harm."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import plot
import programs
import pytest
import soak
from common import BenchmarkError, build
from support.require import unavailable

from memnotify.kernel.page_counters import open_page_counters

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = ("--rounds", "2", "--idle", "0.3")


def benchmark(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def numbers(output: str, row: str) -> list[float]:
    """Return the numbers in a row of a table; fail if it has none."""
    found = re.search(rf"^{re.escape(row)}  +([0-9].*)$", output, re.MULTILINE)
    assert found, output
    return [float(word) for word in re.findall(r"[0-9.]+", found[1])]


def test_compare() -> None:
    output = benchmark("compare.py", "--rounds", "1", "--requests", "200", "--clients", "50")
    for row in (
        "read: round trip, us",
        "poll(0): server CPU, us",
        "wake all: server CPU per client, us",
    ):
        assert min(numbers(output, row)) > 0


def test_simulated_cpus() -> None:
    for counter in open_page_counters() or unavailable(
        "pages cannot be counted here: run as root, on a kernel with kmem tracepoints"
    ):
        counter.close()
    output = benchmark("simulated_cpus.py", "--cpus", "16")
    *_, (cpus, nodes, counters, *costs) = (line.split() for line in output.splitlines())
    assert (cpus, nodes, counters) == ("16", "1", "208")
    assert all(float(cost) > 0 for cost in costs[:6])


def test_abuse() -> None:
    output = benchmark(
        "abuse.py", "--seconds", "0.3", "--clients", "3", "--processes", "2", "--kinds", "read", "socket-junk"
    )
    for row in ("quiet", "spin", "read", "socket-junk"):
        assert min(numbers(output, row)) > 0


def test_restart() -> None:
    output = benchmark("restart.py", "--clients", "50", "--rounds", "2")
    assert min(numbers(output, "gap in service")) > 0
    assert "100 of 100 told once" in output


@pytest.mark.parametrize("way", ["touch", "memset", "hugepages"])
def test_latency(way: str) -> None:
    """A crossing is noticed after it happened, however memory is taken, and huge pages are put back."""
    reserved = Path("/proc/sys/vm/nr_hugepages")
    before = reserved.read_text()
    command = ("peers.py", "latency", way, *QUICK, "--distance-mib", "256", "--only", "memnotify")
    # Whatever else runs may cross the threshold first.
    for _ in range(10):
        output = benchmark(*command)
        assert reserved.read_text() == before
        if "rounds failed" not in output:
            break
    rounds, failed, *milliseconds = numbers(output, "memnotify")
    assert rounds + failed == 2
    assert all(0 < ms < 16_000 for ms in milliseconds[:3])


def test_idle() -> None:
    output = benchmark("peers.py", "idle", "--rounds", "1", "--idle", "0.3", "--window", "0.5")
    assert numbers(output, "memnotify")[:2] == [1, 0]
    assert numbers(output, "memnotify, parked")[2:] == [0] * 6
    for name in ("earlyoom", "nohang", "psi-notify", "low-memory-monitor"):
        assert re.search(rf"^{name}  +([0-9]|not installed|its PSI|it needs)", output, re.MULTILINE), output


def test_watchers() -> None:
    output = benchmark("peers.py", "watchers", *QUICK, "--window", "0.5", "--watchers", "40")
    for name in ("memnotify and its clients, far", "the same, evenly over memory"):
        assert numbers(output, name)[:3] == [40, 2, 0]
    assert numbers(output, "C, /proc/meminfo at 4 Hz")[3] > 0
    assert numbers(output, "Python, the same, naively")[0] == 2


def test_tick() -> None:
    output = benchmark("peers.py", "tick", "--rounds", "2")
    assert numbers(output, "sample(), 10 thresholds")[-1] == 1
    assert (
        numbers(output, "sample(), 100000 thresholds")[0]
        > numbers(output, "MemInfoReader.read_plain()")[0]
        > 0
    )


def test_status() -> None:
    output = benchmark("status.py", "--observers", "200", "--wakes", "200", "--rounds", "1")
    assert re.search(r"^status: median [0-9.]+ ms of [1-9][0-9]* replies$", output, re.MULTILINE), output
    assert len(re.findall(r"^wake, .+: median [0-9.]+ ms, p99 [0-9.]+ ms of 200$", output, re.MULTILINE)) == 3


def test_plot(tmp_path: Path) -> None:
    """The daemon's log is understood; and drawn, where that is possible."""
    plan = plot.Plan(distance_mib=256, taken_mib=384, mib_s=512, still_s=0.4, python=sys.executable)
    course = plot.record(plan, tmp_path)
    assert course.events
    assert len(course.samples) > 5
    assert all(ms > 0 for _, ms in course.samples)
    picture = tmp_path / "course.png"
    if importlib.util.find_spec("matplotlib"):
        plot.draw(course, plan, picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        command = [sys.executable, str(BENCHMARKS / "plot.py"), str(picture)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
        assert "pip install -e '.[bench]'" in refused.stderr


def test_a_program_can_kill_nobody() -> None:
    """It can kill neither root's processes nor other users'."""
    with (
        subprocess.Popen(["sleep", "60"]) as ours,
        subprocess.Popen(["sleep", "60"], user=65534) as another,
    ):
        tries = "; ".join(f"kill -KILL {victim.pid} || echo refused" for victim in (ours, another))
        start = programs.Start(["sh", "-c", f"{tries}; echo up; read line"], up="^up$", notices="^refused$")
        try:
            with programs.Program("sh", start, build("client")) as program:
                assert sum("not permitted" in line for line in program.said) == 2, program.said
            assert (ours.poll(), another.poll()) == (None, None)
        finally:
            ours.kill()
            another.kill()


def test_a_program_that_could_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="could kill others"):
        programs.check_harmless(os.getpid(), os.geteuid())


def test_nohang_kills_nothing_by_its_settings() -> None:
    """The settings are changed, and an unknown one is refused."""
    assert (
        programs.with_settings("a = 1\nmin_badness = 1\n", {"min_badness": "9"}) == "a = 1\nmin_badness = 9\n"
    )
    with pytest.raises(BenchmarkError, match="0 lines of min_badness"):
        programs.with_settings("min_badnes = 1\n", {"min_badness": "9"})


def test_soak() -> None:
    """Two daemons, one after the other, whose clients get every event and no other one."""
    output = benchmark("soak.py", "--minutes", "0.1", "--life", "3", "--name", "memnotify-soak-test")
    counts = {name: int(count) for name, count in re.findall(r"([a-z]+) ([0-9]+)", output)}
    assert counts["lost"] == counts["invented"] == 0
    assert counts["events"] > 0
    assert counts["ends"] >= 1


def test_a_soak_counts_each_event_once() -> None:
    assert soak.compare({1, 2, 3}, [2, 1, 3]) == (0, 0)
    assert soak.compare({1, 2, 3}, [2, 4, 4]) == (2, 2)
    assert soak.compare({1}, [1, 1]) == (0, 1)


def test_a_soak_that_expects_something_else_fails() -> None:
    """A model without damping disagrees with the daemon within seconds."""
    script = "import soak, sys; soak._GRANULARITY_PAGES, soak.DEADLINE_S = 1, 0.5; sys.exit(soak.main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "--minutes", "5", "--life", "300", "--name", "memnotify-soak-test"],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"events lost|waits for an answer", done.stderr)
