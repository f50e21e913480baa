# SPDX-License-Identifier: MIT
"""The files of the configuration: which they are, and what stands on which line of them."""

import os
import re
import stat
from collections.abc import Iterator, Mapping

from memnotify.config.settings import SETTINGS, ConfigError, Configuration, Given, configure, show

DEFAULT_FILE = "/etc/memnotify/memnotify.toml"
"""It need not be there. The files in FILE.d that end with .toml are read after FILE, in the order of their
names, and what stands in a later file holds."""

# Bytes. Whoever gives a device or a log by mistake shall be told so, and soon.
_MOST = 1 << 13
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: str | None, command_line: Mapping[str, Given]) -> Configuration:
    """Return what holds by the command line, the files and the defaults, in this order.

    ``path`` is that of the first file, DEFAULT_FILE if it is None. Raises ConfigError, also for a file
    that cannot be read.
    """
    given: dict[str, Given] = {}
    problems = []
    for file in _files(path):
        try:
            given |= parse(_text(file), file)
        except ConfigError as error:
            problems.append(error)
    if problems:
        # What this user may not read is the cause only where nothing else is wrong.
        problem = min(problems, key=lambda problem: isinstance(problem.__cause__, PermissionError))
        raise ConfigError("\n".join(map(str, problems))) from problem.__cause__
    return configure({**given, **command_line})


def parse(text: str, file: str) -> dict[str, Given]:
    """Return the settings in the text of a file, each with its line. Raises ConfigError."""
    # Here, as the daemon keeps in memory what it imports, 1.1 MB, and many have no file. Both, as the user
    # that it becomes may not be able to read them.
    try:
        import difflib  # noqa: PLC0415
        import tomllib  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise ConfigError(f"{file}: what parses it cannot be loaded any more ({error}): restart") from error

    lines, unfinished = _lines(text, file)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        line = place[1] if place is not None and place[1] else unfinished
        raise ConfigError(
            f"{file}:{line}: {_PLACE.sub('', str(error))}: a line is KEY = VALUE,"
            " a text in quotes, a number without its unit"
        ) from error
    given = {}
    problems = []
    for key, value in values.items():
        # Lists are what tuples are in the table.
        given[key] = Given(tuple(value) if isinstance(value, list) else value, f"{file}:{lines[key]}")
        try:
            if key not in SETTINGS:
                close = difflib.get_close_matches(key.lower().replace("-", "_"), SETTINGS, n=1)
                raise ConfigError(_unknown(key, value, close))
            SETTINGS[key].check(given[key].value)
        except ConfigError as error:
            problems.append(f"{given[key].origin}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return given


def _lines(text: str, file: str) -> tuple[dict[str, int], int]:
    """Return on which line each key at the top begins, and the line of a statement that has no end.

    The parser itself tells, as it knows quotes, escapes and what goes on over several lines: a statement
    is the fewest lines that it takes. Raises ConfigError for a key that is there twice, where it would
    tell the line in which the second value ends, and for what is more than it can take.
    """
    import tomllib  # noqa: PLC0415 - see above

    lines: dict[str, int] = {}
    start, statement, in_table = 1, "", False
    for number, line in enumerate(text.split("\n"), start=1):
        statement += f"{line}\n"
        try:
            keys = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        except (ValueError, RecursionError) as error:  # digits, or brackets within brackets, by the thousand
            raise ConfigError(f"{file}:{start}: {error}") from error
        header = statement.lstrip().startswith("[")
        in_table = in_table or header
        if header or not in_table:
            for key, value in keys.items():
                if lines.setdefault(key, start) != start and not isinstance(value, dict):
                    raise ConfigError(f"{file}:{start}: {key} stands in line {lines[key]} already")
        start, statement = number + 1, ""
    return lines, start


def _unknown(key: str, value: object, close: list[str]) -> str:
    if isinstance(value, dict):
        return f"{show(key)} is a table: settings stand by themselves, without a [header]"
    hint = f"do you mean {close[0]}?" if close else f"the keys are {', '.join(SETTINGS)}"
    return f"unknown key {show(key)}: {hint}"


def _files(path: str | None) -> Iterator[str]:
    """Yield the names of the files that are there, or must be. Raises ConfigError."""
    first = DEFAULT_FILE if path is None else path
    if path is not None or os.path.lexists(first):
        yield first
    directory = f"{first}.d"
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}") from error
    yield from (f"{directory}/{name}" for name in names if name.endswith(".toml") and name[0] != ".")


def _text(file: str) -> str:
    try:
        # Nobody is waited for: while it is read again no client is answered.
        with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
            if stat.S_ISFIFO(os.fstat(opened.fileno()).st_mode):
                raise ConfigError(f"{file}: this is a pipe: give the name of a file")
            data = opened.read(_MOST + 1) or b""
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    if len(data) > _MOST:
        raise ConfigError(f"{file}: more than {_MOST} bytes: is this the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: this is not UTF-8") from error
