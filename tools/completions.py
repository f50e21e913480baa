#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Write the completions of the shells: tools/completions.py BASH ZSH FISH, three directories.

bash's and zsh's are made by shtab, fish's here: Debian's shtab (1.5, 1.7) has no fish.
"""

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from memnotify.cli import COMMANDS, make_parser  # noqa: E402 - of this tree

FILES = {"bash": "memnotify", "zsh": "_memnotify", "fish": "memnotify.fish"}
# In shtab 1.5 (Debian 12) bash gets the first of the choices only, and would take several for one word.
_CHOICES = (
    ('_var="${current_action}_choices"', '_var="${current_action}_choices[@]"'),
    ('-W "${current_action_choices}"', """-W "${current_action_choices// /$'\\n'}\""""),
)
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files"}


def _is_file(action: argparse.Action) -> bool:
    return action.metavar in {"FILE", "PATH"} or action.dest in {"path", "socket"}


def subparsers(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Return the parser of each subcommand and its summary, by name."""
    (commands,) = (
        action
        for action in parser._actions  # noqa: SLF001 - as shtab reads it
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )
    summaries = {each.dest: each.help or "" for each in commands._choices_actions}  # noqa: SLF001
    return {name: (command, summaries[name]) for name, command in commands.choices.items()}


def shell_text(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completions for a shell."""
    if shell == "fish":
        return "\n".join(fish(parser)) + "\n"
    import shtab  # noqa: PLC0415 - main() has found it

    text: str = shtab.complete(parser, shell)
    for wrong, right in _CHOICES if shell == "bash" else ():
        text = text.replace(wrong, right)
    return text


def fish(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of fish's completions."""
    yield "# Made by tools/completions.py."
    yield "complete -c memnotify -f"
    for name, (command, summary) in subparsers(parser).items():
        yield f"complete -c memnotify -n __fish_use_subcommand -a {name} -d {shlex.quote(summary)}"
        for action in command._actions:  # noqa: SLF001 - the same
            options = [
                f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                for option in action.option_strings
            ]
            if not options:
                continue
            words = ["complete -c memnotify", f"-n '__fish_seen_subcommand_from {name}'", *options]
            if action.nargs != 0:
                words.append("-r -F" if _is_file(action) else "-x")
            if action.choices:
                words.append(f"-a {shlex.quote(' '.join(map(str, action.choices)))}")
            text = (action.help or "").partition("\n")[0].partition(" (default")[0].replace("%%", "%")
            if text:
                words.append(f"-d {shlex.quote(text)}")
            yield " ".join(words)


def main(*directories: str) -> int:
    """Write the files; return the exit code."""
    if importlib.util.find_spec("shtab") is None:
        print(f"no completions: {sys.executable} has no shtab (python3-shtab)", file=sys.stderr)
        return 0
    parser = make_parser(*COMMANDS)
    for command, _ in subparsers(parser).values():
        for action in command._actions:  # noqa: SLF001 - the same
            if _is_file(action):
                action.complete = _FILES  # type: ignore[attr-defined] # as shtab wants it
    os.umask(0o022)  # readable by all, as what install(1) makes
    for directory, (shell, name) in zip(directories, FILES.items(), strict=True):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, name), "w", encoding="utf-8") as written:
            written.write(shell_text(shell, parser))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
