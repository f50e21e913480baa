# SPDX-License-Identifier: MIT
"""The settings of ``serve``: one table, from which the options and the keys of the files both come.

Pure: what is given, and from where, comes in; what holds, or what is wrong, goes out.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

from memnotify.abi.figures import select_extra_figures

# Of KiB or MiB/s: more than any machine has, and no number of pages made of it outgrows 64 bits.
_MOST = 2**48
# poll() takes its time-out as an int of milliseconds.
_DAY_MS = 86_400_000
_UNITS = {"_ms": "ms", "_mib_s": "MiB/s", "_kib": "kB"}
_SHOWN = 60

Value = bool | int | str | tuple[str, ...]


class ConfigError(ValueError):
    """Settings are wrong; the text has a line for each: where it stands, what it is and what it may be."""


class _About(NamedTuple):
    """What is to be known of a setting beside its name, type and default."""

    help: str
    """For --help: what it does. What is said of the default is added."""
    metavar: str | None = None
    reloads: bool = False
    """Whether it can be changed while clients are served."""
    least: int = 0
    """The bounds of a number."""
    most: int = _MOST
    choices: tuple[str, ...] | None = None
    """All that a text may be."""
    pattern: str = r"[^\0]*"
    """What a text, or each of a list, must match, where there are no choices."""
    rule: str = "there is no NUL in it"
    """The pattern in words, after "see to it that"."""
    check: Callable[[Any], object] | None = None
    """Raises ValueError, saying why, for what cannot be for another reason."""
    default: str = ""
    """What the default means, where it does not speak for itself."""


class Settings(NamedTuple):
    """The table: a row for each setting, with its type, default, bounds and help.

    The key and the option have the name of the row without its unit: ``update_period_ms`` is
    ``update_period`` in a file and ``--update-period`` on the command line. Periods, rate and space
    have the names of the 2012 module.
    """

    transport: Annotated[
        str,
        _About(
            "how to serve: a CUSE device, a FUSE file, or the first of them that works",
            choices=("auto", "cuse", "fuse"),
        ),
    ] = "auto"
    name: Annotated[
        str,
        _About(
            "the device's name in /dev",
            "NAME",
            # The kernel takes nearly anything: "a/b" makes a directory, "../x" a device without a node.
            pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}",
            rule="it has letters, digits, '_', '.' and '-' alone, 64 at the most, and no '.' or '-' first",
        ),
    ] = "memnotify"
    path: Annotated[str, _About("where to mount the FUSE file", "PATH", default="/dev/NAME")] = ""
    socket: Annotated[str, _About("serve on an AF_UNIX stream socket too", "PATH", default="none")] = ""
    socket_mode: Annotated[
        str,
        _About(
            "the socket's permissions, in octal",
            "MODE",
            pattern="0?[0-7]{3}",
            rule="it has three octal digits, such as 660",
        ),
    ] = "666"
    user: Annotated[
        str,
        _About(
            "the user that root becomes, for good, once the device is open", "USER", default="none: stay root"
        ),
    ] = ""
    figures: Annotated[
        tuple[str, ...],
        _About(
            "further figures for the line, after the three and in this order, such as available,swap_taken;"
            " docs/figures.md has them all",
            "NAMES",
            check=select_extra_figures,
            default="none",
        ),
    ] = ()
    update_period_ms: Annotated[
        int,
        _About(
            "base sampling interval, greatest age of what is read",
            "MS",
            reloads=True,
            least=1,
            most=_DAY_MS,
        ),
    ] = 250
    max_update_period_ms: Annotated[
        int,
        _About("longest interval between samples", "MS", reloads=True, least=1, most=_DAY_MS),
    ] = 15_000
    min_update_period_ms: Annotated[
        int,
        _About(
            "shortest interval while memory would reach a threshold within the update period",
            "MS",
            reloads=True,
            least=1,
            most=_DAY_MS,
        ),
    ] = 20
    fill_rate_mib_s: Annotated[
        int,
        _About(
            "how fast memory is expected to fill: the next sample comes before the nearest threshold can be"
            " reached; what is seen to be faster counts as well",
            "MIB",
            reloads=True,
            least=1,
        ),
    ] = 6144
    update_space_kib: Annotated[
        int,
        _About(
            "a figure counts as moved when it moved by half of this",
            "KB",
            reloads=True,
            default="0, which is 1/64 of total",
        ),
    ] = 0
    poll_acknowledges: Annotated[
        bool,
        _About("a poll that reports an event clears it, for clients that never read", reloads=True),
    ] = False
    pcp_is_free: Annotated[
        bool,
        _About("count pages on the kernel's per-CPU free lists as free"),
    ] = True
    count_pages: Annotated[
        bool,
        _About(
            "sample when as many pages were allocated or freed as the nearest threshold is away, where the"
            " kernel lets this process count them; otherwise by time alone",
        ),
    ] = True
    log_level: Annotated[
        str,
        _About("what is logged", reloads=True, choices=("debug", "info", "warning", "error")),
    ] = "info"


class Setting(NamedTuple):
    """A row of the table by its name, with all that the options, the files and the manual need."""

    name: str
    attribute: str
    """Its name in Settings, which has the unit."""
    default: Value
    """Its type is the setting's."""
    about: _About

    @property
    def unit(self) -> str:
        """The unit of a number, or nothing."""
        return _UNITS.get(self.attribute.removeprefix(self.name), "")

    @property
    def help(self) -> str:
        """What it does, and its default."""
        shown = self.default if isinstance(self.default, str) else show(self.default)
        return f"{self.about.help} (default: {self.about.default or f'{shown} {self.unit}'.rstrip()})"

    def check(self, value: object) -> None:
        """Raise ConfigError if it cannot be ``value``."""
        about = self.about
        texts = value if isinstance(value, tuple) else ()
        if type(value) is not type(self.default) or not all(isinstance(text, str) for text in texts):
            kinds = {
                bool: "true or false",
                int: f"a whole number of {self.unit}",
                str: "a text in quotes",
                tuple: "a list of texts",
            }
            must = f"must be {kinds[type(self.default)]}"
        elif isinstance(value, int):
            if isinstance(value, bool) or about.least <= value <= about.most:
                return
            must = f"must be from {about.least} to {about.most}"
        elif about.choices is not None and value not in about.choices:
            must = f"must be one of {', '.join(about.choices)}"
        elif about.choices is None and not _all_match(about.pattern, value):
            must = f"is wrong: see to it that {about.rule}"
        elif about.check is None:
            return
        else:
            try:
                about.check(value)
            except ValueError as error:
                raise ConfigError(f"{self.name}: {error}") from None
            return
        shown = show(value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}..."
        elif self.unit and type(value) is int:
            shown = f"{shown} {self.unit}"
        raise ConfigError(f"{self.name} is {shown}: it {must}")


def _all_match(pattern: str, value: object) -> bool:
    texts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(text, str) and re.fullmatch(pattern, text) for text in texts)


def _rows() -> Iterator[Setting]:
    hints: dict[str, Any] = get_type_hints(Settings, include_extras=True)
    for attribute, hint in hints.items():
        name = re.sub("|".join(f"{unit}$" for unit in _UNITS), "", attribute)
        yield Setting(name, attribute, Settings._field_defaults[attribute], hint.__metadata__[0])


SETTINGS = {setting.name: setting for setting in _rows()}
"""The rows by name, in their order."""


class Given(NamedTuple):
    """A value that was given for a setting, and where: ``FILE:LINE`` or COMMAND_LINE."""

    value: object
    origin: str


COMMAND_LINE = "command line"
DEFAULT = "default"


class Configuration(NamedTuple):
    """What holds, and by name where each of it comes from: a Given's origin or DEFAULT."""

    settings: Settings
    origins: Mapping[str, str]


def configure(given: Mapping[str, Given]) -> Configuration:
    """Return what holds where this was given, each by a name in SETTINGS. Raises ConfigError."""
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
    """Return a value as TOML has it; one that no setting has, in words where it is long."""
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
