# SPDX-License-Identifier: MIT
"""Fuzz the targets, guided by the lines that each input reaches (Atheris, which is libFuzzer for Python).

Run it by ``tools/fuzz``, which installs Atheris. An input at which a target raises is left in the current
directory as crash-NAME-...: repair the code, and put the input into the target's corpus with --keep.
"""

import argparse
import subprocess
import sys
import tempfile
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import NoReturn

TESTS = Path(__file__).parents[1]
# One byte of a frame's head is one more way to reach the same code: beyond this, an input's turn is slow.
_KEPT_MAX = 24 * 1024


def _fuzz(options: Namespace, name: str) -> NoReturn:
    """Fuzz one target in this process, which ends with libFuzzer."""
    import atheris  # noqa: PLC0415 - the other processes need no Atheris

    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=["memnotify"]):
        from fuzz import targets  # noqa: PLC0415 - after the instrumentation

    seconds, new, old = options.libfuzzer
    arguments = [
        sys.argv[0],
        *([f"-max_total_time={seconds}"] if int(seconds) else ["-runs=0"]),
        f"-max_len={targets.LONGEST.get(name, 4096)}",
        "-timeout=20",
        f"-artifact_prefix=crash-{name}-",
        "-print_final_stats=1",
        new,
        old,
    ]
    atheris.Setup(arguments, targets.TARGETS[name])
    atheris.Fuzz()
    sys.exit("libFuzzer returned")


def _run(options: Namespace, name: str) -> int:
    """Fuzz one target in a process of its own; return its exit code."""
    from fuzz import targets  # noqa: PLC0415 - not before the path is set

    with tempfile.TemporaryDirectory() as made:
        new, old = Path(made, "new"), Path(made, "old")
        new.mkdir()
        old.mkdir()
        for number, data in enumerate(targets.kept(name)):
            (old / str(number)).write_bytes(data)
        command = [sys.executable, __file__, name, "--libfuzzer", str(options.seconds), str(new), str(old)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        said = done.stderr.splitlines()
        if done.returncode:
            print("\n".join(said[-60:]))
        runs = [line.split()[-1] for line in said if "number_of_executed_units" in line]
        reached = [line.split("cov: ")[1].split()[0] for line in said if "cov: " in line]
        found = sorted(each.read_bytes() for each in new.iterdir())
        print(
            f"{name}: exit code {done.returncode}, {''.join(runs)} inputs,"
            f" {''.join(reached[-1:])} branches reached, {len(found)} inputs are new",
            flush=True,
        )
        if options.keep:
            _keep(targets.CORPUS / name, [*targets.kept(name), *found])
        return done.returncode


def _keep(path: Path, inputs: list[bytes]) -> None:
    """Write the shortest inputs that fit."""
    lines: list[str] = []
    size = 0
    for data in sorted({*inputs}, key=lambda data: (len(data), data)):
        size += len(repr(data)) + 1
        if size > _KEPT_MAX:
            break
        lines.append(f"{data!r}\n")
    path.write_text("".join(lines))


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError("a number above 0 is expected")
    return int(text)


def main() -> int:
    """Fuzz one target after the other; return its exit code if one has failed."""
    sys.path.insert(0, str(TESTS))
    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="of tests/fuzz/targets.py; default: all")
    parser.add_argument("--seconds", type=_positive, default=60, help="for each target (default: 60)")
    parser.add_argument("--keep", action="store_true", help="add what was found to the kept inputs")
    parser.add_argument("--libfuzzer", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.libfuzzer:
        _fuzz(options, options.targets[0])
    from fuzz.targets import TARGETS  # noqa: PLC0415 - not before the path is set

    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))} (there are {', '.join(TARGETS)})")
    return max(_run(options, name) for name in options.targets or TARGETS)


if __name__ == "__main__":
    sys.exit(main())
