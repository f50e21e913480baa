# SPDX-License-Identifier: MIT
"""A process's cgroup and its figures, on a tree of files."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from support.fake_cgroups import CgroupTree, stat

from memnotify.abi.figures import PAGE_SIZE
from memnotify.kernel.cgroups import (
    Cgroup,
    CgroupGoneError,
    CgroupUnavailableError,
    find_by_number,
    find_cgroup,
)

PID = 42


@pytest.fixture
def tree(tmp_path: Path) -> CgroupTree:
    """Return a tree with a group without a limit in one with a limit."""
    tree = CgroupTree(tmp_path)
    tree.group("limited", max=1000, current=300, stat=stat(50, 30, 20))
    tree.group("limited/free", current=100)
    tree.process(PID, "0::/limited/free")
    return tree


def found(tree: CgroupTree, pid: int = PID) -> Cgroup:
    """Return a process's group, which must not be the root."""
    group = find_cgroup(pid, str(tree.proc))
    assert group is not None
    return group


def test_the_nearest_limit_above(tree: CgroupTree) -> None:
    group = found(tree)
    assert group.read_limit() == 1000
    assert group.read_current() == 300
    assert group.read_exact() == 200


def test_its_own_limit(tree: CgroupTree) -> None:
    """The lower of memory.high and memory.max counts, and the group's own limit comes first."""
    tree.write("limited/free", high=5000)
    assert found(tree).read_limit() == 5000
    tree.write("limited/free", max=4000)
    assert found(tree).read_limit() == 4000
    tree.write("limited/free", high=0)
    assert found(tree).read_limit() == 0


def test_no_limit_anywhere(tree: CgroupTree) -> None:
    """Without any limit it is the process's own group."""
    tree.write("limited", max="max")
    group = found(tree)
    assert group.read_limit() is None
    assert group.read_current() == 100


def test_hybrid_lines(tree: CgroupTree) -> None:
    """A hybrid machine has controllers of v1 as well."""
    tree.process(PID, "12:pids:/elsewhere", "1:name=systemd:/elsewhere", "0::/limited")
    assert found(tree).read_limit() == 1000


def test_a_group_without_the_controller(tree: CgroupTree) -> None:
    """Its memory is charged to the nearest group above with the controller."""
    (tree.root / "limited/free/threads").mkdir()
    tree.process(PID, "0::/limited/free/threads")
    tree.write("limited", max="max")
    assert found(tree).read_current() == 100


def test_the_root(tree: CgroupTree) -> None:
    (tree.root / "bare").mkdir()
    for path in ("/", "/bare"):
        tree.process(PID, f"0::{path}")
        assert find_cgroup(PID, str(tree.proc)) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0::/../other", "cannot be seen"),
        ("0::/limited/free (deleted)", "cannot be seen"),
        ("0::/nowhere", "cannot be opened"),
        ("4:memory:/", "in no cgroup v2"),
    ],
)
def test_what_cannot_be_seen(tree: CgroupTree, line: str, reason: str) -> None:
    tree.process(PID, line)
    with pytest.raises(CgroupUnavailableError, match=reason) as refused:
        found(tree)
    assert refused.value.errno == errno.EOPNOTSUPP


def test_a_process_that_cannot_be_seen(tree: CgroupTree) -> None:
    """The process is in another pid namespace, gone or hidden."""
    with pytest.raises(CgroupUnavailableError, match="another pid namespace"):
        found(tree, 0)
    with pytest.raises(CgroupUnavailableError, match="process 43 cannot be seen"):
        found(tree, 43)


def test_no_memory_controller(tmp_path: Path) -> None:
    """On a hybrid machine v1 may have the memory controller."""
    tree = CgroupTree(tmp_path, controllers="pids")
    (tree.root / "group").mkdir()
    tree.process(PID, "0::/group")
    with pytest.raises(CgroupUnavailableError, match="no memory controller"):
        found(tree)


def test_cgroup_v1(tree: CgroupTree) -> None:
    """Without cgroup v2, or with only a part of it mounted, the write is refused."""
    tree.mounts("2 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory")
    with pytest.raises(CgroupUnavailableError, match="no cgroup v2"):
        found(tree)
    tree.mounts(f"2 1 0:2 /part {tree.root} rw - cgroup2 cgroup2 rw")
    with pytest.raises(CgroupUnavailableError, match="no cgroup v2"):
        found(tree)


def test_removed_and_made_again(tree: CgroupTree) -> None:
    """A later group with the same name is another one, and reading the first one fails."""
    group = found(tree)
    shutil.rmtree(tree.root / "limited")
    tree.group("limited", max=2000)
    tree.process(PID, "0::/limited")
    anew = found(tree)
    assert anew.key != group.key
    assert anew.read_limit() == 2000
    with pytest.raises(CgroupGoneError):
        group.read_limit()
    with pytest.raises(CgroupGoneError):
        group.read_exact()


def test_by_number(tree: CgroupTree) -> None:
    """A process that takes over knows only the number; a number that is gone is that of a removed group."""
    key = found(tree).key
    same, gone = sorted(find_by_number([key, 1 << 62], str(tree.proc)), key=lambda group: group.key)
    assert same.key == key
    assert same.read_limit() == found(tree).read_limit()
    for read in (gone.read_current, gone.read_exact, gone.read_limit):
        with pytest.raises(CgroupGoneError):
            read()


def test_the_same_group_twice(tree: CgroupTree) -> None:
    assert found(tree).key == found(tree).key


def test_its_descriptors_are_closed(tree: CgroupTree) -> None:
    """A group has two; those of groups that were not chosen are closed at once."""
    before = set(os.listdir("/proc/self/fd"))
    group = found(tree)
    assert len(set(os.listdir("/proc/self/fd")) - before) == 2
    del group
    assert set(os.listdir("/proc/self/fd")) == before


def test_files_that_move_meanwhile(tree: CgroupTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is the possible one nearest to the last one."""
    group = found(tree)
    assert group.read_exact() == 200
    reads = iter(range(300_000, 1_000_000, 100_000))
    monkeypatch.setattr(group, "read_current", lambda: next(reads))
    value = group.read_exact()
    assert value == 300_000 + 300_000 - 100
    assert next(reads) == 800_000


def test_a_field_is_missing(tree: CgroupTree) -> None:
    tree.write("limited", stat=f"active_file {PAGE_SIZE}")
    with pytest.raises(OSError, match="lacks a field"):
        found(tree).read_exact()
