# SPDX-License-Identifier: MIT
"""The files of the configuration: which of them count, and the message for a wrong line."""

import os
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import strategies

from memnotify.cli import main
from memnotify.config import files
from memnotify.config.settings import COMMAND_LINE, DEFAULT, SETTINGS, ConfigError, Given, Settings

EXAMPLE = Path(__file__).parents[3] / "docs/memnotify.toml"
ANY_LINE = "expected KEY = VALUE, strings in quotes, numbers without a unit"


# Which files count


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the name of the default file, which does not exist."""
    path = tmp_path / "memnotify.toml"
    monkeypatch.setattr(files, "DEFAULT_FILE", str(path))
    return path


def test_no_default_file(file: Path) -> None:
    """All settings have their defaults."""
    assert files.load(None, {}).settings == Settings()
    assert not file.exists()


def test_a_file_named_by_the_option_must_exist(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        files.load(str(file), {})
    assert str(caught.value) == f"{file}: No such file or directory"


def test_precedence(file: Path) -> None:
    """The command line overrides the drop-ins, these the file (in order of their names), it the defaults."""
    directory = Path(f"{file}.d")
    directory.mkdir()
    file.write_text("fill_rate = 1\nupdate_space = 1\nmin_update_period = 1\nsocket = 'a'")
    (directory / "20.toml").write_text("\nmin_update_period = 3\n")
    (directory / "10.toml").write_text("update_space = 2\nmin_update_period = 2\nsocket = 'b'\n")
    (directory / ".30.toml").write_text("wrong")
    (directory / "30.toml~").write_text("wrong")
    settings, origins = files.load(None, {"socket": Given("c", COMMAND_LINE)})
    assert settings == Settings(fill_rate_mib_s=1, update_space_kib=2, min_update_period_ms=3, socket="c")
    assert origins == dict.fromkeys(SETTINGS, DEFAULT) | {
        "fill_rate": f"{file}:1",
        "update_space": f"{directory}/10.toml:1",
        "min_update_period": f"{directory}/20.toml:2",
        "socket": COMMAND_LINE,
    }


def test_drop_ins_without_a_file(file: Path) -> None:
    Path(f"{file}.d").mkdir()
    Path(f"{file}.d/a.toml").write_text("fill_rate = 1")
    assert files.load(None, {}).settings.fill_rate_mib_s == 1


def test_another_file_has_its_own_drop_ins(file: Path, tmp_path: Path) -> None:
    file.write_text("fill_rate = 1")
    other = tmp_path / "other"
    other.write_text("update_space = 1")
    Path(f"{other}.d").mkdir()
    Path(f"{other}.d/a.toml").write_text("min_update_period = 1")
    assert files.load(str(other), {}).settings == Settings(update_space_kib=1, min_update_period_ms=1)


def test_dev_null_is_a_configuration(file: Path) -> None:
    """It leaves out the machine's configuration."""
    file.write_text("wrong")
    assert files.load("/dev/null", {}).settings == Settings()


def test_files_that_cannot_be_read(file: Path) -> None:
    """The error names each of them, and what is wrong in the others."""
    file.mkdir()
    directory = Path(f"{file}.d")
    directory.mkdir()
    (directory / "1.toml").symlink_to("nowhere")
    (directory / "2.toml").symlink_to("/dev/zero")
    (directory / "3.toml").write_bytes(b"name = 'a'\npath = '\xff'\n")
    (directory / "4.toml").write_text("path = 1\n")
    with pytest.raises(ConfigError) as caught:
        files.load(None, {})
    assert str(caught.value).splitlines() == [
        f"{file}: Is a directory",
        f"{directory}/1.toml: No such file or directory",
        f"{directory}/2.toml: more than 8192 bytes: is this the right file?",
        f"{directory}/3.toml:2: this is not UTF-8",
        f"{directory}/4.toml:1: path is 1: it must be a string in quotes",
    ]


def test_a_drop_in_directory_that_is_a_file(file: Path) -> None:
    Path(f"{file}.d").write_text("")
    with pytest.raises(ConfigError, match=r"memnotify\.toml\.d: Not a directory"):
        files.load(None, {})


# The text of a file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nupdate_perod = 5", 'f:2: unknown key "update_perod": do you mean update_period?'),
        ("update-period = 5", 'f:1: unknown key "update-period": do you mean update_period?'),
        ("Update_Period = 5", 'f:1: unknown key "Update_Period": do you mean update_period?'),
        ("update_period_ms = 5", 'f:1: unknown key "update_period_ms": do you mean update_period?'),
        ("loglevel = 'info'", 'f:1: unknown key "loglevel": do you mean log_level?'),
        ("zzz = 5", f'f:1: unknown key "zzz": the keys are {", ".join(SETTINGS)}'),
        ('"" = 5', f'f:1: unknown key "": the keys are {", ".join(SETTINGS)}'),
        ("[serve]\nname = 'a'", 'f:1: "serve" is a table: settings stand by themselves, without a [header]'),
        ("a.b = 1", 'f:1: "a" is a table: settings stand by themselves, without a [header]'),
        ("[[name]]", "f:1: name is [a table]: it must be a string in quotes"),
        ("name.x = 1", "f:1: name is a table: it must be a string in quotes"),
        ("x = [ # name = 1\n'name = 1',\n]\nname = 1", "f:4: name is 1: it must be a string in quotes"),
        # A key in a table differs from the top-level key of the same name
        ("[x]\nname = 1\n\n[name]", "f:4: name is a table: it must be a string in quotes"),
        ("update_period = 2026-11-25", "f:1: update_period is 2026-11-25: it must be a whole number of ms"),
        ("fill_rate = 1\nupdate_period = 250ms", f"f:2: Expected newline or end .*: {ANY_LINE}"),
        ("\n\nlog_level = debug", f"f:3: Invalid value: {ANY_LINE}"),
        ("update_period", f"f:1: Expected '=' .*: {ANY_LINE}"),
        ("name = 'a'\nname = '''\nb\n'''", "f:2: name is already set in line 1"),
        ("[name]\n[x]\n[name]", f"f:3: Cannot declare .*: {ANY_LINE}"),
        ("\ufeffname = 'a'", f"f:1: Invalid statement: {ANY_LINE}"),
        ("name = 'a'\r", f"f:1: .*: {ANY_LINE}"),
        # The parser fails at the end of the file; the message has the line where the value begins
        ('\nname = """\na\nb\n\n', f"f:2: .*: {ANY_LINE}"),
        ("\nname = [\n1,\n2\n\n", f"f:2: .*: {ANY_LINE}"),
        (f"\nfill_rate = {'9' * 5000}", "f:2: Exceeds the limit .*"),
        (f"\nfill_rate = 0x{'f' * 5000}", "f:2: fill_rate is a huge number.*"),
        (f"\nname = {'[' * 5000}{']' * 5000}", "f:2: .*recursion.*"),
    ],
)
def test_wrong(text: str, message: str) -> None:
    """The message has the line, what is wrong with it, and the remedy."""
    with pytest.raises(ConfigError) as caught:
        files.parse(text, "f")
    first = str(caught.value).splitlines()[-1]
    assert first == message or re.fullmatch(message, first), first


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        files.parse("nane = 'a'\nfill_rate = 0\npcp_is_free = 'no'\nname = 'a'", "f")
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == ["f:1:", "f:2:", "f:3:"]


@given(strategies.toml_files())
@example(("", {}))
def test_each_line_is_found(file: tuple[str, dict[str, int]]) -> None:
    """In any notation of keys, strings and comments, the values are the parser's and the lines are right."""
    text, lines = file
    found = files.parse(text, "f")
    assert {name: value for name, (value, _) in found.items()} == tomllib.loads(text)
    assert {name: origin for name, (_, origin) in found.items()} == {
        name: f"f:{line}" for name, line in lines.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "figures = [\n" + "1,\n" * 2700 + "]\n",
        "name = 1\n" * 900,
        "\n" * 7990 + "name = 1\n",
        "[" * 8000,
        '"""' + '\\"' * 4000,
        '"' + '\\"' * 4000,
        "'''\n" * 2000,
        "a = {" * 1600,
    ],
)
def test_the_parser_gets_each_line_at_most_twice(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with the length of the file, not with its square: a reload must not delay clients."""
    loads = tomllib.loads
    parsed: list[str] = []

    def count(text: str) -> dict[str, object]:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", count)
    with suppress(ConfigError):
        files.parse(text, "f")
    assert parsed
    assert sum(map(len, parsed)) <= 2 * len(text)


def test_a_file_of_comments_needs_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser takes 9 ms of the start; the package's file has comments only."""
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert files.parse("# name = 1\n\n \t# \u00e4\n", "f") == {}
    # What the parser would refuse is left to it.
    for text in ("# \0", "name = 1", "\x0c", "#\n\r"):
        with pytest.raises(ConfigError, match="the parser"):
            files.parse(text, "f")


@given(st.text(st.sampled_from("\"'\\#[]{}\na=1 ,"), max_size=200))
def test_statements_are_the_text(text: str) -> None:
    """Each character is in one statement, and each statement has the number of its first line."""
    found = list(files._statements(text))
    assert "".join(statement for _, statement in found) == text
    line = 1
    for start, statement in found:
        assert start == line
        line += statement.count("\n")


def test_the_example_has_every_setting_at_its_default() -> None:
    """It changes nothing as shipped; with each line uncommented it has the defaults of the table."""
    text = EXAMPLE.read_text()
    assert files.parse(text, "f") == {}
    found = files.parse(re.sub(r"(?m)^#(?=\w+ = )", "", text), "f")
    assert {name: value for name, (value, _) in found.items()} == {
        name: setting.default for name, setting in SETTINGS.items()
    }
    restart, reload = text.split("## Settings that take effect at a reload")
    for name, setting in SETTINGS.items():
        assert f"\n#{name} = " in (reload if setting.reloads else restart)


# memnotify check-config


def test_check_config_prints_the_configuration(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output is a configuration file, with the origin of each value."""
    file.write_text('\nname = "a"\nfill_rate = 5\n')
    assert main(["check-config", "--update-space", "7", "--no-pcp-is-free"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [re.sub(" +", " ", line) for line in out.splitlines()]
    assert f'name = "a" # {file}:2' in lines
    assert f"fill_rate = 5 # MiB/s, {file}:3" in lines
    assert "update_space = 7 # kB, command line" in lines
    assert "pcp_is_free = false # command line" in lines
    assert 'log_level = "info" # default' in lines
    again = tmp_path / "again"
    again.write_text(out)
    settings, origins = files.load(str(again), {})
    assert settings == Settings(name="a", fill_rate_mib_s=5, update_space_kib=7, pcp_is_free=False)
    assert DEFAULT not in origins.values()


def test_the_alias_sets_the_same_key(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--no-count-pcp-as-free"]) == 0
    assert "pcp_is_free = false" in capsys.readouterr().out


def test_check_config_reports_mistakes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2, stdout is empty, stderr has a line for each mistake."""
    file.write_text("nam = 1\nfill_rate = 0\n")
    assert main(["check-config"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first == f'memnotify check-config: {file}:1: unknown key "nam": do you mean name?'
    assert second.startswith(f"memnotify check-config: {file}:2: fill_rate is 0 MiB/s")


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_missing_file(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main([command, "--config", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err + caplog.text
    assert f"{tmp_path}/none: No such file or directory" in said
    assert "Traceback" not in said


def test_serve_reads_the_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("\nname = 'a/b'\n")
    assert main(["serve"]) == 2
    assert f'{file}:2: name is "a/b"' in caplog.text


def test_an_unreadable_file_hides_no_mistake(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the cause doctor distinguishes a file that only root can read from a mistake."""
    read = files._text

    def text(name: str) -> str:
        if name == str(file):
            raise ConfigError(f"{name}: Permission denied") from PermissionError()
        return read(name)

    monkeypatch.setattr(files, "_text", text)
    file.touch()
    with pytest.raises(ConfigError) as caught:
        files.load(None, {})
    assert isinstance(caught.value.__cause__, PermissionError)
    directory = Path(f"{file}.d")
    directory.mkdir()
    (directory / "a.toml").write_text("fill_rat = 5\n")
    with pytest.raises(ConfigError, match=r"denied\n.*unknown key") as caught:
        files.load(None, {})
    assert caught.value.__cause__ is None


def test_a_parser_that_can_no_longer_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user that root has become may be unable to import it: only the reload fails."""
    file = tmp_path / "memnotify.toml"
    file.write_text("update_period = 100")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    with pytest.raises(ConfigError, match=r"memnotify\.toml: the parser can no longer be loaded"):
        files.load(str(file), {})


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="this is a pipe"):
        files.load(str(pipe), {})


def test_check_config_names_a_file_of_any_bytes(tmp_path: Path) -> None:
    """Even if its output must be UTF-8."""
    file = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.toml")
    Path(file).write_text("update_period = 100\n")
    done = subprocess.run(
        [sys.executable, "-m", "memnotify", "check-config", "--config", file],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff.toml:1" in done.stdout
