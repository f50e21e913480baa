# SPDX-License-Identifier: MIT
"""The settings of ``serve``: one table, from which the options and the keys of the files both come.

Pure: values and their origins come in; the configuration, or what is wrong with it, goes out.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from memnotify.abi.figures import select_extra_figures

# In KiB or MiB/s: more than any machine has, and few enough that the number of pages fits into 64 bits.
_MOST = 2**48
# poll() takes its timeout as an int of milliseconds.
_DAY_MS = 86_400_000
# unix(7): sun_path has 108 bytes, with the NUL.
_SOCKET_BYTES = 107
_UNITS = {"_ms": "ms", "_mib_s": "MiB/s", "_kib": "kB"}
_SHOWN = 60

Value = bool | int | str | tuple[str, ...]


class ConfigError(ValueError):
    """Settings are wrong. The text has a line for each: its place, its value and what it may be."""


# A NamedTuple and a table, not a dataclass with metadata: dataclasses imports inspect, ast and dis, which
# makes the daemon 0.7 MB larger (RSS 16.6 MB, 17.3 MB with it).
class Settings(NamedTuple):
    """The value of each setting, and its default. SETTINGS describes each field.

    Periods, rate and space have the names of the 2012 module.
    """

    transport: str = "auto"
    name: str = "memnotify"
    path: str = ""
    socket: str = ""
    socket_mode: str = "666"
    status_socket: str = ""
    user: str = ""
    figures: tuple[str, ...] = ()
    pcp_is_free: bool = True
    count_pages: bool = True
    update_period_ms: int = 250
    max_update_period_ms: int = 15_000
    min_update_period_ms: int = 20
    fill_rate_mib_s: int = 6144
    update_space_kib: int = 0
    poll_acknowledges: bool = False
    max_observers: int = 100_000
    max_observers_per_user: int = 4096
    log_level: str = "info"


class Setting(NamedTuple):
    """A row of the table: all that the options, the files and the manual need of a field of Settings."""

    attribute: str
    """The field's name, which has the unit."""
    purpose: str
    """For --help: what the setting does. ``help`` adds the default."""
    metavar: str | None = None
    reloads: bool = False
    """True if a reload can change it, False if it takes effect at a restart."""
    least: int = 0
    """The bounds of a number."""
    most: int = _MOST
    choices: tuple[str, ...] | None = None
    """All values of a string."""
    pattern: str = r"[^\0]*"
    """What a string, or each string of a list, must match if there are no choices."""
    rule: str = "not contain a NUL character"
    """The pattern in words, after "must"."""
    parse: Callable[[Any], object] | None = None
    """Raises ValueError, with the reason, for a value that is wrong for another reason."""
    default_means: str = ""
    """What the default means, if the value does not say so."""
    alias: str = ""
    """Another name of the option of a boolean."""

    @property
    def name(self) -> str:
        """The key in a file, and with "-" for "_" the option: the attribute without its unit."""
        return re.sub("|".join(f"{unit}$" for unit in _UNITS), "", self.attribute)

    @property
    def unit(self) -> str:
        """The unit of a number, or nothing."""
        return _UNITS.get(self.attribute.removeprefix(self.name), "")

    @property
    def default(self) -> Value:
        """The default, whose type is the setting's."""
        default: Value = Settings._field_defaults[self.attribute]
        return default

    @property
    def help(self) -> str:
        """What the setting does, and its default."""
        shown = self.default if isinstance(self.default, str) else show(self.default)
        return f"{self.purpose} (default: {self.default_means or f'{shown} {self.unit}'.rstrip()})"

    def check(self, value: object) -> None:
        """Raise ConfigError if the setting cannot be ``value``."""
        must = self._must(value)
        if must:
            shown = show(value)
            if len(shown) > _SHOWN:
                shown = f"{shown[:_SHOWN]}..."
            elif self.unit and type(value) is int:
                shown = f"{shown} {self.unit}"
            raise ConfigError(f"{self.name} is {shown}: it must {must}")
        if self.parse is not None:
            try:
                self.parse(value)
            except ValueError as error:
                raise ConfigError(f"{self.name}: {error}") from None

    def _must(self, value: object) -> str:
        """Return the rule that ``value`` breaks, in words after "must", or nothing."""
        strings = value if isinstance(value, tuple) else ()
        if type(value) is not type(self.default) or not all(isinstance(string, str) for string in strings):
            kinds = {
                bool: "true or false",
                int: f"a whole number of {self.unit}" if self.unit else "a whole number",
                str: "a string in quotes",
                tuple: "a list of strings",
            }
            return f"be {kinds[type(self.default)]}"
        if isinstance(value, bool):
            return ""
        if isinstance(value, int):
            return "" if self.least <= value <= self.most else f"be from {self.least} to {self.most}"
        if self.choices is not None:
            return "" if value in self.choices else f"be one of {', '.join(self.choices)}"
        return "" if _all_match(self.pattern, value) else self.rule


def _all_match(pattern: str, value: object) -> bool:
    strings = value if isinstance(value, tuple) else (value,)
    return all(isinstance(string, str) and re.fullmatch(pattern, string) for string in strings)


def _refuse_long_path(path: str) -> None:
    size = len(path.encode(errors="surrogateescape"))
    if size > _SOCKET_BYTES:
        raise ValueError(f"it is too long: {size} bytes, and a socket can have {_SOCKET_BYTES}")


_ROWS = (
    Setting(
        "transport",
        "how to serve: a CUSE device, a FUSE file, or the first of them that works",
        choices=("auto", "cuse", "fuse"),
    ),
    Setting(
        "name",
        "the device's name in /dev",
        "NAME",
        # The kernel accepts nearly any name: "a/b" makes a directory, "../x" a device without a node.
        pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}",
        rule="contain only letters, digits, '_', '.' and '-', at most 64, and not begin with '.' or '-'",
    ),
    Setting(
        "path",
        "where to mount the FUSE file; outside /dev, programs that read whole directory trees, such as"
        " 'cp -r', do not end when they reach it",
        "PATH",
        default_means="/dev/NAME",
    ),
    Setting(
        "socket",
        "serve on an AF_UNIX stream socket too",
        "PATH",
        parse=_refuse_long_path,
        default_means="none",
    ),
    Setting(
        "socket_mode",
        "the socket's permissions, in octal",
        "MODE",
        pattern="0?[0-7]{3}",
        rule="be three octal digits, such as 660",
    ),
    Setting(
        "status_socket",
        "serve the status on an AF_UNIX socket, for 'memnotify status'",
        "PATH",
        parse=_refuse_long_path,
        default_means="none",
    ),
    Setting(
        "user",
        "the user that root becomes permanently once the device is open: a name, UID or UID:GID",
        "USER",
        default_means="none: stay root",
    ),
    Setting(
        "figures",
        "extra figures for the line, after the three and in this order, such as available,swap_taken;"
        " docs/figures.md lists them",
        "NAMES",
        parse=select_extra_figures,
        default_means="none",
    ),
    Setting(
        "pcp_is_free",
        "count pages on the kernel's per-CPU free lists as free",
        alias="--count-pcp-as-free",
    ),
    Setting(
        "count_pages",
        "sample when as many pages were allocated or freed as the nearest threshold is away, if the"
        " kernel lets this process count them; otherwise by time alone",
    ),
    Setting(
        "update_period_ms",
        "base sampling interval, and the greatest age of what a client reads",
        "MS",
        reloads=True,
        least=1,
        most=_DAY_MS,
    ),
    Setting(
        "max_update_period_ms",
        "longest interval between samples",
        "MS",
        reloads=True,
        least=1,
        most=_DAY_MS,
    ),
    Setting(
        "min_update_period_ms",
        "shortest interval while memory could reach a threshold within the update period",
        "MS",
        reloads=True,
        least=1,
        most=_DAY_MS,
    ),
    Setting(
        "fill_rate_mib_s",
        "how fast memory is expected to fill: the next sample comes before the nearest threshold can be"
        " reached; a faster rate that was observed counts as well",
        "MIB",
        reloads=True,
        least=1,
    ),
    Setting(
        "update_space_kib",
        "a figure counts as moved when it has moved by half of this",
        "KB",
        reloads=True,
        default_means="0, which is 1/64 of total",
    ),
    Setting(
        "poll_acknowledges",
        "a poll that reports an event clears it, for clients that never read",
        reloads=True,
    ),
    Setting(
        "max_observers",
        "how many open files and connections there may be in all; beyond, open fails with ENOSPC",
        "N",
        least=1,
    ),
    Setting(
        "max_observers_per_user",
        "how many of them one user may have, root excepted; beyond, open fails with EMFILE",
        "N",
        least=1,
    ),
    Setting(
        "log_level",
        "which messages are logged",
        reloads=True,
        choices=("debug", "info", "warning", "error"),
    ),
)

SETTINGS = {setting.name: setting for setting in _ROWS}
"""The rows by name, in the order of the fields."""


class Given(NamedTuple):
    """A value that was given for a setting, and its origin: ``FILE:LINE`` or COMMAND_LINE."""

    value: object
    origin: str


COMMAND_LINE = "command line"
DEFAULT = "default"


class Configuration(NamedTuple):
    """The settings, and by name the origin of each: a Given's origin or DEFAULT."""

    settings: Settings
    origins: Mapping[str, str]


def configure(given: Mapping[str, Given]) -> Configuration:
    """Return the configuration that these values make, each by a name in SETTINGS. Raises ConfigError."""
    problems = []
    for name, (value, origin) in given.items():
        try:
            SETTINGS[name].check(value)
        except ConfigError as error:
            problems.append(f"{origin}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    values: dict[str, Any] = {SETTINGS[name].attribute: value for name, (value, _) in given.items()}
    settings = Settings(**values)
    origins = {name: given[name].origin if name in given else DEFAULT for name in SETTINGS}
    if settings.update_period_ms > settings.max_update_period_ms:
        origin = origins["update_period" if "update_period" in given else "max_update_period"]
        raise ConfigError(
            f"{origin}: update_period is {settings.update_period_ms} ms: it must not be more than"
            f" max_update_period, which is {settings.max_update_period_ms} ms"
            f" ({origins['max_update_period']})"
        )
    return Configuration(settings, origins)


def show(value: object) -> str:
    """Return a value as TOML writes it, or in words if no setting has it and it may be long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return "a table"
    # As a decimal number it could be too long for Python (sys.set_int_max_str_digits).
    return "a huge number" if isinstance(value, int) and value.bit_length() > 99 else str(value)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else f"\\U{ord(char):08x}"
