# SPDX-License-Identifier: MIT
"""Control files: an administrator names signals, and the use of memory at which each is on."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memnotify.abi.figures import CGROUP
from memnotify.abi.thresholds import VALUE_MAX
from memnotify.client._device import default_path
from memnotify.client._errors import MemnotifyError
from memnotify.client._figures import PAGE_SIZE, Figures
from memnotify.client._thresholds import parse

DIRECTORY = "/etc/memnotify"
SUFFIX = ".mn"
VARIABLE = "MEMNOTIFY"
"""The environment variable: ``config=DIR`` or ``disabled``, or both, separated by a colon."""

_KEYS = ("type", "sensor", "used", "free", "limit", "cgroup", "property", "disabled")
# 18 digits are a finite float in any unit.
_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]+)?) *([kmg%]?)", re.ASCII | re.IGNORECASE)
_TRUTH = {
    "1": True,
    "yes": True,
    "true": True,
    "on": True,
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}


class ControlFileError(MemnotifyError, ValueError):
    """A control file, or the environment variable, is not understood. The text says where and what."""


class Size(NamedTuple):
    """A size of memory that may follow total: a percentage of total, and bytes in addition."""

    percent: float
    bytes: float

    def pages(self, total_pages: int) -> float:
        """Return the size in pages, at this total."""
        return total_pages * self.percent / 100 + self.bytes / PAGE_SIZE


RAM_AND_SWAP = Size(100, 0)


@dataclass(frozen=True)
class Amount:
    """An amount of memory as a control file has it: in bytes, or in percent of another size."""

    number: float
    is_percentage: bool

    def of(self, whole: Size) -> Size:
        """Return the size that the amount is, as a part of ``whole``."""
        if self.is_percentage:
            return Size(whole.percent * self.number / 100, whole.bytes * self.number / 100)
        return Size(0, self.number)


@dataclass(frozen=True)
class Definition:
    """The definition of a signal in a control file."""

    name: str
    sensor: str
    """The path of the device."""
    used: Amount | None
    free: Amount | None
    """The signal is on at this use, or when this much of the limit is left; with both, at the lower use."""
    limit: Amount | None
    """What percentages refer to, and ``free`` is left of; RAM and swap if it is not given."""
    cgroup: Amount | None = None
    """The signal is on as well if this process's cgroup holds this much; percentages are of its limit."""

    def thresholds(self, total_pages: int, *, on: bool) -> str:
        """Return what to write to the device, for a signal that is on or off.

        The level of ``used`` is a percentage where the device can let it follow total. A level such as
        500 MB below total must be written again when total changes. So total is watched too, in the
        direction that can change the signal: as total grows, the level rises, and the signal may go off.
        """
        sizes = self._sizes()
        of_group = [] if self.cgroup is None else [f"cgroup {_spell_of_group(self.cgroup)}"]
        if not sizes:
            return of_group[0]
        follows = any(size.percent for size in sizes) and any(size.bytes for size in sizes)
        of_total = [f"total {total_pages + on}"] if follows else []
        return " ".join([f"used {_spell(sizes, total_pages)}", *of_total, *of_group])

    def threshold(self, total_pages: int) -> float:
        """Return the use at which the signal is on, in pages: 1 if it always is, infinite for none."""
        sizes = self._sizes()
        if not sizes:
            return math.inf
        return parse(b"used " + _spell(sizes, total_pages).encode(), ("used",))["used"].pages(total_pages)

    def is_on(self, figures: Figures) -> bool:
        """Return True if the signal is on. Figures without a cgroup's decide without it."""
        of_group = False
        if self.cgroup is not None and figures.cgroup is not None and figures.cgroup_limit is not None:
            level = parse(f"cgroup {_spell_of_group(self.cgroup)}".encode(), ())[CGROUP]
            of_group = figures.cgroup >= level.pages(figures.cgroup_limit)
        return of_group or figures.used >= self.threshold(figures.total)

    def _sizes(self) -> list[Size]:
        """Return the uses at which the signal is on: the lowest of them holds."""
        limit = RAM_AND_SWAP if self.limit is None else self.limit.of(RAM_AND_SWAP)
        sizes = [] if self.used is None else [self.used.of(limit)]
        if self.free is not None:
            free = self.free.of(limit)
            sizes.append(Size(limit.percent - free.percent, limit.bytes - free.bytes))
        return sizes


def _spell_of_group(amount: Amount) -> str:
    # The device knows the limit: any size of the whole gives the same percentage.
    return _spell([amount.of(RAM_AND_SWAP)], VALUE_MAX)


def _spell(sizes: Sequence[Size], whole_pages: int) -> str:
    """Return the lowest of the sizes as it is written to the device."""
    lowest = min(size.pages(whole_pages) for size in sizes)
    if lowest < 0.5:  # 0 would not be watched
        return "1"
    if any(size.bytes for size in sizes):
        return str(min(VALUE_MAX, round(lowest)))
    percent = min(1e15, *(size.percent for size in sizes))  # the grammar's numbers are bounded
    return f"{percent:.10f}".rstrip("0").rstrip(".") + "%"


def settings(environ: Mapping[str, str]) -> tuple[str, bool]:
    """Return the directory of the control files, and True if all signals are disabled.

    Raises ControlFileError if the variable is not understood.
    """
    directory, disabled = DIRECTORY, False
    for word in filter(None, environ.get(VARIABLE, "").split(":")):
        if word.startswith("config="):
            directory = os.path.expanduser(word.removeprefix("config="))
        elif word == "disabled":
            disabled = True
        else:
            raise ControlFileError(
                f"{VARIABLE} has {word!r}; write config=DIR, disabled, or both separated by a colon"
            )
    return directory, disabled


def load(names: str, directory: str = DIRECTORY) -> list[Definition]:
    """Return the definitions in the control files, without those that are disabled.

    ``names`` are separated by colons. Each is a path that is absolute or begins with ``~``, or a name in
    the directory; ``.mn`` is added if needed. Raises FileNotFoundError or another OSError for a file that
    cannot be read, ControlFileError for one that is not understood.
    """
    definitions: dict[str, Definition] = {}
    for name in filter(None, names.split(":")):
        path = _find(name, directory)
        for definition in _read(path):
            if definition.name in definitions:
                raise ControlFileError(f"{path}: another signal is named {definition.name!r} already")
            definitions[definition.name] = definition
    return list(definitions.values())


def _find(name: str, directory: str) -> str:
    path = os.path.join(directory, os.path.expanduser(name))
    return path if path.endswith(SUFFIX) or os.path.exists(path) else path + SUFFIX


def _read(path: str) -> list[Definition]:
    import configparser  # noqa: PLC0415 - few clients have control files, and this import takes longer than the rest

    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    with open(path, encoding="utf-8") as file:
        try:
            parser.read_file(file)
        except (configparser.Error, UnicodeDecodeError) as error:
            raise ControlFileError(f"{path}: {error}") from None
    sections = [parser[name] for name in parser.sections()]
    return [
        _definition(f"{path}: [{section.name}]", section.name, section)
        for section in sections
        if not _truth(f"{path}: [{section.name}]", section.get("disabled", "no"))
    ]


def _definition(place: str, section: str, values: Mapping[str, str]) -> Definition:
    for key in values:
        if key not in _KEYS:
            raise ControlFileError(f"{place} has {key!r}; the keys are {', '.join(_KEYS)}")
    if values.get("type", "memnotify") != "memnotify":
        raise ControlFileError(
            f"{place} type is {values['type']!r}; write type = memnotify, or disabled = yes"
        )
    used, free, limit, cgroup = (
        _amount(f"{place} {key}", values.get(key)) for key in ("used", "free", "limit", "cgroup")
    )
    if used is None and free is None and cgroup is None:
        used = Amount(95, is_percentage=True)
    return Definition(
        name=values.get("property", section),
        sensor=os.path.expanduser(values.get("sensor", default_path())),
        used=used,
        free=free,
        limit=limit,
        cgroup=cgroup,
    )


def _amount(place: str, text: str | None) -> Amount | None:
    if text is None:
        return None
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise ControlFileError(
            f"{place} is {text!r}; write bytes (2000000, 500k, 1.5g) or percent of limit (80%)"
        )
    number, unit = float(found[1]), found[2].lower()
    if unit == "%":
        return Amount(number, is_percentage=True)
    return Amount(number * 1024 ** " kmg".index(unit or " "), is_percentage=False)


def _truth(place: str, text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ControlFileError(f"{place} disabled is {text!r}; write yes or no")
    return _TRUTH[text.lower()]
