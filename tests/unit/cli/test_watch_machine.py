# SPDX-License-Identifier: MIT
"""What watch reads of the machine, from made-up /proc and /sys."""

from pathlib import Path

import pytest
from support.fakes import FakeClock

from memnotify.cli.watch.machine import Holder, Machine, Memory
from memnotify.client import PAGE_SIZE

PROCESSES = {1: ("init", 10, "/init.scope"), 20: ("a b) c", 900, "/user/app"), 30: ("big", 1000, "/user/app")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the directory of a /proc and a /sys of three processes and a kernel thread."""
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "sys/block/sda").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("SwapTotal:  1000 kB\nSwapFree:  400 kB\nHugePages_Total: 0\n")
    for pid, (command, resident, group) in (PROCESSES | {2: ("kthreadd", 0, "/")}).items():
        directory = tmp_path / f"proc/{pid}"
        directory.mkdir()
        (directory / "statm").write_text(f"5000 {resident} 3 1 0 9 0\n")
        (directory / "comm").write_text(f"{command}\n")
        (directory / "cgroup").write_text(f"1:name=systemd:/x\n0::{group}\n")
    return tmp_path


def _machine(root: Path, clock: FakeClock) -> Machine:
    return Machine("/dev/x", "/nonexistent", proc=f"{root}/proc", sys=f"{root}/sys", clock=clock)


def test_the_largest_processes_and_groups(root: Path) -> None:
    clock = FakeClock()
    machine = _machine(root, clock)
    machine.refresh()
    assert machine.holders == [
        Holder(PROCESSES[pid][0], pid, PROCESSES[pid][1] * PAGE_SIZE) for pid in (30, 20, 1)
    ]
    machine.by_group = True
    machine.refresh()
    assert machine.holders == [
        Holder("/user/app", 2, 1900 * PAGE_SIZE),
        Holder("/init.scope", 1, 10 * PAGE_SIZE),
    ]


def test_processes_are_read_rarely(root: Path) -> None:
    clock = FakeClock()
    machine = _machine(root, clock)
    machine.refresh()
    (root / "proc/30/statm").write_text("5000 1 1\n")
    clock.tick(4.9)
    machine.refresh()
    assert machine.holders[0].pid == 30
    clock.tick(0.1)
    machine.refresh()
    assert machine.holders[0].pid == 20


def test_swap_zram_and_pressure(root: Path) -> None:
    machine = _machine(root, FakeClock())
    machine.refresh()
    assert machine.memory == Memory(1000 * 1024, 600 * 1024)
    for number in range(2):
        (root / f"sys/block/zram{number}").mkdir()
        (root / f"sys/block/zram{number}/mm_stat").write_text("  1000  300  400 0 500 1 2 3 4\n")
    (root / "proc/pressure/memory").write_text(
        "some avg10=1.25 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=5\n"
    )
    machine.refresh()
    assert machine.memory == Memory(1000 * 1024, 600 * 1024, (2000, 800), (1.25, 0.5))


def test_what_cannot_be_read_is_left_out(root: Path) -> None:
    """A process ends at any time, and a container masks PSI with an empty file."""
    (root / "proc/pressure/memory").write_text("")
    (root / "proc/30/statm").unlink()
    (root / "proc/20/comm").unlink()
    machine = _machine(root, FakeClock())
    machine.refresh()
    assert [(holder.name, holder.pid) for holder in machine.holders] == [("?", 20), ("init", 1)]
    assert machine.memory.pressure is None
