# SPDX-License-Identifier: MIT
"""The files of the configuration: which they are, and which setting stands on which line."""

import os
import re
import stat
from collections.abc import Iterator, Mapping

from memnotify.config.settings import SETTINGS, ConfigError, Configuration, Given, configure, show

DEFAULT_FILE = "/etc/memnotify/memnotify.toml"
"""It may be missing. The files in FILE.d that end with .toml are read after FILE, in the order of their
names; a later file overrides an earlier one."""

# Bytes. A device or a log that is given by mistake is refused, and without reading it whole.
_MOST = 1 << 13
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# A string of several lines or of one, a comment, a bracket, a line's end, or the text between these. A string
# without an end extends to that of the text or of the line, so the expression reads each character once.
_TOKEN = re.compile(
    r'''(?sx)
    """ (?: \\. | [^\\] )*? (?: "{3,5} | \Z )
    | \'{3} .*? (?: '{3,5} | \Z )
    | " (?: \\[^\n] | [^"\\\n] )* "?
    | ' [^'\n]* '?
    | \# [^\n]*
    | [\[{}\]\n]
    | \\
    | [^"'\#\[{}\]\n\\]+
    '''
)


def load(path: str | None, command_line: Mapping[str, Given]) -> Configuration:
    """Return the configuration: the command line overrides the files, and these the defaults.

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
        # A file that this user may not read is the cause only if nothing else is wrong.
        problem = min(problems, key=lambda problem: isinstance(problem.__cause__, PermissionError))
        raise ConfigError("\n".join(map(str, problems))) from problem.__cause__
    return configure({**given, **command_line})


def parse(text: str, file: str) -> dict[str, Given]:
    """Return the settings in the text of a file, each with its line. Raises ConfigError."""
    if all(map(_says_nothing, text.split("\n"))):  # as the package's file
        return {}
    # Imported here because a daemon without a setting in a file saves 1.1 MB, and 9 ms of its start. Both
    # imports fail if the user that root has become may not read the modules.
    try:
        import difflib  # noqa: PLC0415
        import tomllib  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise ConfigError(f"{file}: the parser can no longer be loaded ({error}): restart") from error

    lines, unfinished = _lines(text, file)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        line = place[1] if place is not None and place[1] else unfinished
        raise ConfigError(
            f"{file}:{line}: {_PLACE.sub('', str(error))}: expected KEY = VALUE, strings in quotes,"
            " numbers without a unit"
        ) from error
    given = {}
    problems = []
    for key, value in values.items():
        # The table has tuples where TOML has lists.
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
    """Return on which line each top-level key begins, and the line of the last statement.

    The second is the place of an error at the end of the text. Raises ConfigError for a key that stands there
    twice, as the parser would tell the line where the second value ends, and for what the parser cannot take.
    """
    import tomllib  # noqa: PLC0415 - see parse()

    lines: dict[str, int] = {}
    start, in_table = 1, False
    for start, statement in _statements(text):
        try:
            keys = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            break  # the whole text has the same error
        except (ValueError, RecursionError) as error:  # thousands of digits or of nested brackets
            raise ConfigError(f"{file}:{start}: {error}") from error
        header = statement.lstrip().startswith("[")
        in_table = in_table or header
        if header or not in_table:
            for key, value in keys.items():
                if lines.setdefault(key, start) != start and not isinstance(value, dict):
                    raise ConfigError(f"{file}:{start}: {key} is already set in line {lines[key]}")
    return lines, start


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with its first line. Empty lines and comments are statements of their own."""
    line, begin, depth = 1, 0, 0
    for token in _TOKEN.finditer(text):
        depth = max(0, depth + {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0))
        if token[0] == "\n" and depth == 0:
            yield line, text[begin : token.end()]
            line += text.count("\n", begin, token.end())
            begin = token.end()
    if begin < len(text):
        yield line, text[begin:]


def _says_nothing(line: str) -> bool:
    """Return True if a line is blank or a comment that every parser takes."""
    line = line.strip(" \t")
    return not line or (line[0] == "#" and line.isprintable())


def _unknown(key: str, value: object, close: list[str]) -> str:
    if isinstance(value, dict):
        return f"{show(key)} is a table: settings stand by themselves, without a [header]"
    hint = f"do you mean {close[0]}?" if close else f"the keys are {', '.join(SETTINGS)}"
    return f"unknown key {show(key)}: {hint}"


def _files(path: str | None) -> Iterator[str]:
    """Yield the names of the files that exist, or must. Raises ConfigError."""
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
        # Never wait for a writer: no client is answered during a reload.
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
