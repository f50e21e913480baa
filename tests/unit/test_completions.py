# SPDX-License-Identifier: MIT
"""The completions that tools/completions.py makes, in the shells themselves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.require import unavailable

from memnotify.cli import COMMANDS

TOOL = Path(__file__).parents[2] / "tools/completions.py"
# What bash's readline does with a line, without a terminal.
BASH = """\
source "$1"
words=($2)
COMP_WORDS=("${words[@]}" "$3") COMP_CWORD=${#words[@]} COMP_LINE="$2 $3" COMP_POINT=99
_shtab_memnotify memnotify "$3" "${words[-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
# The completion system needs a terminal: zsh's own pseudo-terminal runs a shell in it.
ZSH = """\
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; fpath=('$1' $fpath); autoload -Uz compinit; compinit -D -u'
zpty -w shell "zstyle ':completion:*' list-prompt ''; bindkey '^D' list-choices; print go''on"
zpty -r shell line '*goon*'
zpty -w -n shell "$2 $3"$'\\t'
zpty -r -m shell line "*$4*"
print -r -- "$line"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the completions, made by Debian's Python."""
    directory = tmp_path_factory.mktemp("completions")
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    command = ["/usr/bin/python3", str(TOOL), *(str(directory / shell) for shell in ("bash", "zsh", "fish"))]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=True)
    if done.stderr:
        unavailable(f"{done.stderr.strip()}: apt-get install python3-shtab")
    return directory


def _shell(name: str, *arguments: str | Path) -> str:
    if shutil.which(name) is None:
        unavailable(f"apt-get install {name}")
    # zsh edits lines only on a terminal that it knows.
    environment = {**os.environ, "TERM": "vt100"}
    done = subprocess.run(
        [name, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def _completed(shell: str, made: Path, line: str, word: str) -> list[str]:
    """Return the candidates for the last word of a line."""
    if shell == "bash":
        script = made / "bash/memnotify"
        return _shell("bash", "--norc", "-c", BASH, "bash", script, line, word).split()
    script = made / "fish/memnotify.fish"
    code = f"source '{script}'; complete -C '{line} {word}'"
    return [candidate.split("\t")[0] for candidate in _shell("fish", "--no-config", "-c", code).splitlines()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_word_is_completed(shell: str, made: Path) -> None:
    assert set(_completed(shell, made, "memnotify", "")) >= set(COMMANDS)
    assert _completed(shell, made, "memnotify", "sta") == ["status"]
    assert _completed(shell, made, "memnotify status", "--soc") == ["--socket"]
    assert _completed(shell, made, "memnotify serve --transport", "cu") == ["cuse"]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_file_is_completed(shell: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / "a-socket").touch()
    assert _completed(shell, made, "memnotify status --socket", f"{tmp_path}/a-s") == [f"{tmp_path}/a-socket"]


def test_zsh_completes_a_subcommand_and_an_option(made: Path) -> None:
    directory = made / "zsh"
    for line, word, whole in (("memnotify", "sta", "status"), ("memnotify status", "--so", "--socket")):
        assert whole in _shell("zsh", "-f", "-c", ZSH, "zsh", directory, line, word, whole)


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_the_shells_look_where_make_puts_them(prefix: str, made: Path, tmp_path: Path) -> None:
    """Without XDG_DATA_DIRS, as on a console. bash's loader has a list of its own: both prefixes' share."""
    root, home = tmp_path / "root", tmp_path / "home"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    make = ["make", "--silent", "install-data", f"prefix={prefix}", f"DESTDIR={root}"]
    subprocess.run(make, cwd=TOOL.parents[1], env=environment, check=True)
    looked: list[str] = [f"{prefix}/share/bash-completion/completions"]
    for shell, paths in (("zsh", "$fpath"), ("fish", "$fish_complete_path")):
        command = [shell, "-c", f"printf '%s\\n' {paths}"]
        looked += subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
    for file in (made / "bash/memnotify", made / "zsh/_memnotify", made / "fish/memnotify.fish"):
        same = [
            path for path in root.rglob(file.name) if path.is_file() and path.read_text() == file.read_text()
        ]
        assert [f"/{path.parent.relative_to(root)}" in looked for path in same] == [True]
