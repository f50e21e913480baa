# SPDX-License-Identifier: MIT
"""Cgroups that a test moves by hand: as the sampler reads them, and as files."""

import itertools
from pathlib import Path

from memnotify.abi.figures import PAGE_SIZE
from memnotify.kernel.cgroups import CgroupGoneError

_KEYS = itertools.count(1)


class FakeCgroup:
    """A cgroup as the sampler reads it, in pages."""

    def __init__(self, value: int = 0, *, limit: int | None = None, droppable: int = 0) -> None:
        self.key = next(_KEYS)
        self.value = value
        self.limit = limit
        self.droppable = droppable
        self.gone = False
        self.fails = False
        self.files: list[str] = []
        self.current_reads = self.exact_reads = 0

    def read_current(self) -> int:
        """Return what it holds, with what the kernel can drop."""
        self._check()
        self.current_reads += 1
        return self.value + self.droppable

    def read_exact(self) -> int:
        """Return what it holds."""
        self._check()
        self.exact_reads += 1
        return self.value

    def read_limit(self) -> int | None:
        """Return its limit."""
        self._check()
        return self.limit

    def limit_files(self) -> list[str]:
        """Return the files that the test writes to when it changes the limit; none by default."""
        return self.files

    def _check(self) -> None:
        if self.gone:
            raise CgroupGoneError
        if self.fails:
            raise OSError


class CgroupTree:
    """A /proc and a hierarchy of cgroups, as files in a directory."""

    def __init__(self, place: Path, *, controllers: str = "cpu memory pids") -> None:
        self.proc, self.root = place / "proc", place / "sys fs cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.mounts("1 0 0:1 / / rw - ext4 /dev/sda rw", f"2 1 0:2 / {self._escaped} rw - cgroup2 cgroup2 rw")
        self.root.mkdir()
        (self.root / "cgroup.controllers").write_text(f"{controllers}\n")

    @property
    def _escaped(self) -> str:
        return str(self.root).replace(" ", "\\040")

    def mounts(self, *lines: str) -> None:
        """Replace the table of mounts."""
        (self.proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in lines))

    def process(self, pid: int, *lines: str) -> None:
        """Let a process have these lines in its file."""
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def group(self, path: str, **files: object) -> Path:
        """Make a group with a memory controller; the files without "memory." are its own."""
        directory = self.root / path
        directory.mkdir(parents=True)
        self.write(path, **{"current": 0, "high": "max", "max": "max", "stat": stat(), **files})
        return directory

    def write(self, path: str, **files: object) -> None:
        """Replace files of a group; numbers are pages."""
        for name, value in files.items():
            text = value if isinstance(value, str) else str(int(str(value)) * PAGE_SIZE)
            (self.root / path / f"memory.{name}").write_text(f"{text}\n")


def stat(active_file: int = 0, inactive_file: int = 0, slab_reclaimable: int = 0) -> str:
    """Return the text of memory.stat, in which the kernel has more; the values are pages."""
    fields = {
        "anon": 7,
        "file": active_file + inactive_file,
        "active_file": active_file,
        "inactive_file": inactive_file,
        "workingset_refault_file": 5,
        "slab_reclaimable": slab_reclaimable,
        "slab_unreclaimable": 3,
    }
    return "\n".join(f"{name} {pages * PAGE_SIZE}" for name, pages in fields.items())
