# SPDX-License-Identifier: MIT
"""The manual pages are well-formed and agree with --help, the settings and the checks."""

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.require import unavailable

from memnotify.abi.figures import EXTRA_FIGURES
from memnotify.cli import COMMANDS, make_parser
from memnotify.cli.doctor.checks import CHECKS
from memnotify.config.files import parse
from memnotify.config.settings import SETTINGS, configure

REPOSITORY = Path(__file__).parents[2]
MAN = REPOSITORY / "docs/man"
PAGES = sorted(path.name for path in MAN.iterdir())
# Each command has a subsection of its own, except those with the daemon's options.
PLACES = dict.fromkeys(COMMANDS, "memnotify.1") | dict.fromkeys(("serve", "check-config"), "memnotify.8")
# Messages of mandoc about the machine, not about the page
_OF_THE_MACHINE = re.compile(r"referenced manual not found|outdated mandoc\.db")
_KINDS = {bool: "true or false", str: "string", tuple: "list of strings"}


class Option(NamedTuple):
    """An option or a positional argument as it is shown."""

    arguments: tuple[str, ...]
    """Its metavar or its choices; empty for a flag."""
    default: str


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which(words[0]) is None:
        unavailable(f"{words[0]} is not installed: apt install mandoc man-db")
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def _text(page: str) -> str:
    return (MAN / page).read_text()


def _section(page: str, title: str) -> str:
    """Return the text of a section, or else of a subsection."""
    for macro in ("Sh", "Ss"):
        found = re.search(rf"(?ms)^\.{macro} {re.escape(title)}\n(.*?)(?=^\.Sh|^\.{macro}|\Z)", _text(page))
        if found:
            return found[1]
    raise AssertionError(f"{page} has no section {title}")


def test_what_a_c_programmer_looks_for() -> None:
    """memnotify(4) has the sections of inotify(7), and all errors of the device and of the library."""
    for title in ("EXAMPLES", "ERRORS", "VERSIONS", "STANDARDS", "HISTORY", "NOTES", "CAVEATS"):
        assert _section("memnotify.4", title)
    engine = [path.read_text() for path in (REPOSITORY / "memnotify/engine").glob("*.py")]
    errors = {name for text in engine for name in re.findall(r"errno\.(E\w+)", text)}
    errors |= set(re.findall(r"errno\.(E\w+)", (REPOSITORY / "memnotify/client/_errors.py").read_text()))
    # A descriptor of no open file, which the kernel refuses; and an error of the socket.
    errors -= {"EBADF", "ECONNREFUSED"}
    assert errors <= set(re.findall(r"Er (E[A-Z]+)", _section("memnotify.4", "ERRORS")))
    assert len(errors) > 10


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Yield the head of each .It and the text below it."""
    for item in re.split(r"(?m)^\.It ", text)[1:]:
        head, _, body = item.partition("\n")
        yield head, re.split(r"(?m)^\.(?:It|El)\b", body)[0]


def _default(text: str) -> str:
    found = re.search(r"(?m)^Default: ([^\n]*(?:\n(?![.])[^\n]*)*)\.$", text)
    return found[1].replace("\n", " ") if found else ""


def documented(page: str, section: str) -> dict[tuple[str, ...], Option]:
    """Return the options that a section lists, by their names."""
    found = {}
    for head, body in _items(_section(page, section)):
        names = tuple(f"-{name}" for name in re.findall(r"Fl (-\S+)", head))
        rest = re.sub(r"Fl -\S+|\b(Ar|Cm|Ns)\b|[,|]", " ", head)
        if names:
            found[names] = Option(tuple(rest.split()), _default(body))
        elif head.startswith("Ar "):
            found[(rest.strip(),)] = Option((), _default(body))
    return found


def parsed(command: str) -> dict[tuple[str, ...], Option]:
    """Return the options of a command's parser, by their names."""
    parser = make_parser(command)
    (subparsers,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    found = {}
    for action in subparsers.choices[command]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        default = re.search(r"\(default: ([^()]*)\)$", text)
        arguments: tuple[str, ...] = ()
        if action.option_strings and action.nargs != 0:
            arguments = tuple(action.choices or [action.metavar or action.dest.upper()])
        names = tuple(action.option_strings) or (str(action.metavar),)
        found[names] = Option(arguments, default[1] if default else "")
    return found


def test_every_page_is_tested() -> None:
    assert PAGES == ["memnotify.1", "memnotify.4", "memnotify.8", "memnotify.toml.5"]


@pytest.mark.parametrize("page", PAGES)
def test_lint(page: str) -> None:
    said = _run("mandoc", "-T", "lint", str(MAN / page))
    assert [
        line for line in (said.stdout + said.stderr).splitlines() if not _OF_THE_MACHINE.search(line)
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_man_shows_it(page: str) -> None:
    shown = _run("man", "--warnings", "--local-file", str(MAN / page))
    assert (shown.returncode, shown.stderr) == (0, "")
    title, _, number = page.rpartition(".")
    assert shown.stdout.split()[0] == f"{title.upper()}({number})"
    assert "SEE ALSO" in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_those_of_the_help(command: str) -> None:
    section = "OPTIONS" if PLACES[command] == "memnotify.8" else command
    options = documented(PLACES[command], section)
    if command == "check-config":  # those of serve, and its own
        options |= documented("memnotify.1", command)
    assert options == parsed(command)


@pytest.mark.parametrize("command", [name for name, page in PLACES.items() if page == "memnotify.1"])
def test_the_synopsis_has_every_option(command: str) -> None:
    (synopsis,) = re.findall(
        rf"(?ms)^\.Nm\n\.Cm {command}\n(.*?)(?=^\.Nm|\Z)", _section("memnotify.1", "SYNOPSIS")
    )
    given = {f"-{name}" for name in re.findall(r"Fl (-\w\S*)", synopsis)}
    assert given == {name for names in parsed(command) for name in names if name.startswith("-")}


@pytest.mark.parametrize("command", COMMANDS)
def test_exit_codes_are_those_of_the_help(command: str) -> None:
    parser = make_parser(command)
    (subparsers,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    told = subparsers.choices[command].epilog or ""
    codes = re.findall(r"(?:codes:|;)\s+([0-9]+) ", told)
    section = (
        _section("memnotify.8", "EXIT STATUS") if command == "serve" else _section("memnotify.1", command)
    )
    assert [head for head, _ in _items(section) if head.isdigit()] == codes
    assert codes[0] == "0"


def test_every_command_is_there() -> None:
    commands = re.findall(r"(?m)^\.Nm\n\.Cm (\S+)$", _section("memnotify.1", "SYNOPSIS"))
    assert sorted(commands) == sorted(COMMANDS)


def test_keys_are_the_settings() -> None:
    found = {}
    for head, body in _items(_text("memnotify.toml.5")):
        key = re.fullmatch(r"Ic (\w+) Pq (.+)", head)
        if key:
            found[key[1]] = (key[2], _default(body))
    expected = {}
    for name, setting in SETTINGS.items():
        (default,) = re.findall(r"\(default: (.*)\)$", setting.help)
        expected[name] = (_KINDS.get(type(setting.default), setting.unit or "number"), default)
    assert found == expected


def test_settings_that_take_effect_at_a_restart() -> None:
    restart = re.findall(
        r"(?m)^\.It Ic (\w+)", _section("memnotify.toml.5", "Settings that take effect at a restart")
    )
    assert restart == [name for name, setting in SETTINGS.items() if not setting.reloads]


def test_the_example_of_a_configuration_is_one() -> None:
    (example,) = re.findall(r"(?ms)^\.Bd -literal.*?\n(.*?)^\.Ed", _section("memnotify.toml.5", "EXAMPLES"))
    assert configure(parse(example, "example")).settings.figures == ("available", "swap_taken")


def test_every_extra_figure_is_there() -> None:
    section = _section("memnotify.toml.5", "FIGURES")
    made = {head.removeprefix("Ic "): body.strip().replace("\\-", "-") for head, body in _items(section)}
    same = dict.fromkeys(re.findall(r"(?m)^\.Ic (\w+)", section))
    assert made | {name: name for name in same} == EXTRA_FIGURES


def test_the_choices_of_a_key_are_there() -> None:
    keys = {
        head.split()[1]: body for head, body in _items(_text("memnotify.toml.5")) if head.startswith("Ic ")
    }
    for name, setting in SETTINGS.items():
        if setting.choices:
            assert set(re.findall(r"(?m)^\.Ql (\w+)", keys[name])) == set(setting.choices)


def test_the_checks_of_doctor_are_there() -> None:
    heads = [head for head, _ in _items(_section("memnotify.1", "doctor")) if head.startswith("Sy ")]
    assert heads == [f"Sy {name}" for name in CHECKS]


@pytest.mark.parametrize("page", PAGES)
def test_pages_refer_to_each_other(page: str) -> None:
    referred = {
        f"{name}.{number}" for name, number in re.findall(r"(?m)^\.Xr (\S+) (\d)", _section(page, "SEE ALSO"))
    }
    assert referred >= set(PAGES) - {page}
    assert f"docs/man/{page}" in (REPOSITORY / "README.md").read_text()
