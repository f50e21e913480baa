# SPDX-License-Identifier: MIT
"""The figures of a line: their names, order and unit, and the extra ones an administrator may add. Pure."""

from collections.abc import Sequence
from os import sysconf
from typing import NamedTuple, cast

PAGE_SIZE = sysconf("SC_PAGESIZE")
"""Bytes in a page, the unit of every figure."""


class Figures(NamedTuple):
    """The system's memory at one moment, in pages, in the order of the device's line.

    ``figures_with`` makes the classes with extra figures, which are fields as well.
    """

    total: int
    used: int
    active: int

    @property
    def line(self) -> bytes:
        """The line that a client reads: ``total N used N active N`` and a newline."""
        return b"total %d used %d active %d\n" % self


NAMES = Figures._fields
"""The names of the three that every line begins with, in its order."""
USED = NAMES.index("used")
CGROUP = "cgroup"
"""The name of a threshold on the writer's own cgroup, and of its figure."""
CGROUP_LIMIT = "cgroup_limit"
"""The name of the figure that percentages of ``cgroup`` are of."""


def threshold_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a write may have, where a line has these."""
    return (*(name for name in names if name not in (CGROUP, CGROUP_LIMIT)), CGROUP)


def figures_with(extra: Sequence[str]) -> type[Figures]:
    """Return the class of figures with those named ``extra`` after the three."""
    names = (*NAMES, *extra)
    fields = NamedTuple("Figures", [(name, int) for name in names])  # type: ignore[misc] # not known before
    line = b"".join(b" %s %%d" % name.encode() for name in names)[1:] + b"\n"
    members = {"__slots__": (), "line": property(line.__mod__)}
    return cast("type[Figures]", type("Figures", (fields, Figures), members))


EXTRA_FIGURES = {
    "available": "MemAvailable",
    "free": "MemFree",
    "cached": "Cached",
    "dirty": "Dirty",
    "slab": "Slab",
    "swap_size": "SwapTotal",
    "swap_taken": "SwapTotal - SwapFree",
    # The others have the kernel's own names, in its order (fs/proc/meminfo.c), whatever kernel has them.
    **{
        field: field
        for field in (
            *("Buffers", "SwapCached", "Unevictable", "Mlocked", "HighFree", "LowFree", "SwapFree"),
            *("Zswap", "Zswapped", "Writeback", "AnonPages", "Mapped", "Shmem", "KReclaimable"),
            *("SReclaimable", "SUnreclaim", "KernelStack", "ShadowCallStack", "PageTables", "SecPageTables"),
            *("NFS_Unstable", "Bounce", "WritebackTmp", "CommitLimit", "Committed_AS"),
            *("VmallocChunk", "Percpu"),
            *("HardwareCorrupted", "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages"),
            *("FilePmdMapped", "CmaFree", "Unaccepted", "Balloon", "Hugetlb"),
            *("DirectMap4k", "DirectMap2M", "DirectMap4M", "DirectMap1G"),
        )
    },
}
"""Each extra figure's name, and the fields of /proc/meminfo, such as ``Active(anon)``, that make it.

To add a figure, add a line anywhere; docs/figures.md and memnotify.toml(5) need one as well.
"""

LINE_MAX = 255
"""The most bytes of the line: many clients have a buffer of 256, and append a NUL."""
# No processor addresses more than 2^56 bytes (RISC-V with Sv57; others 2^52). With the most swap of Linux
# (32 areas of 2^32 pages) that is less than 10^14 pages. No figure is above total.
_DIGITS = 14


def select_extra_figures(names: Sequence[str]) -> dict[str, str]:
    """Return what each of ``names`` is made of, in their order.

    Raises ValueError with what is wrong with one of them, or with all of them in one line.
    """
    for place, name in enumerate(names):
        if name not in EXTRA_FIGURES:
            raise ValueError(f"{name!r} {_refusal(name)}")
        if name in names[:place]:
            raise ValueError(f"{name!r} is given twice")
        for earlier in names[:place]:
            if name in earlier:
                raise ValueError(
                    f"{name!r} must stand before {earlier!r}: clients may search the line for it with strstr"
                )
    # A name, a blank, a number, and a blank or the newline
    longest = sum(len(name) + _DIGITS + 2 for name in (*NAMES, *names))
    if longest > LINE_MAX:
        raise ValueError(
            f"with numbers of {_DIGITS} digits the line may grow to {longest} bytes,"
            f" and clients' buffers hold {LINE_MAX}: choose fewer figures"
        )
    return {name: EXTRA_FIGURES[name] for name in names}


def _refusal(name: str) -> str:
    """Return why a name is not among the figures, and what to write instead."""
    if name in NAMES:
        return "is in every line: leave it out"
    for known, formula in EXTRA_FIGURES.items():
        if name == formula:
            return f"is called {known!r} here"
    word = next((word for word in NAMES if word in name.lower()), None)
    if word is not None:
        instead = ": swap has 'swap_size' and 'swap_taken'" if "swap" in name.lower() else ""
        return f"contains {word!r}, which clients search the line for{instead}"
    if name.startswith(("HugePages_", "Hugepagesize")):
        return "counts huge pages one by one: 'Hugetlb' is the memory they take"
    near = _nearest(name)
    hint = f"did you mean {near!r}? There" if near else "there"
    return f"is not known: {hint} are {', '.join(EXTRA_FIGURES)}"


def _nearest(name: str) -> str:
    """Return the name that may have been meant, or nothing."""
    try:
        import difflib  # noqa: PLC0415 - the daemon keeps in memory what it imports
    except (ImportError, OSError):  # the user that root has become cannot read Python's files
        return ""
    by_lower = {known.lower(): known for known in EXTRA_FIGURES}
    near = difflib.get_close_matches(name.lower(), by_lower, 1)
    return by_lower[near[0]] if near else ""
