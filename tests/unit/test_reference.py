# SPDX-License-Identifier: MIT
"""The documentation for programmers is complete: the API reference, and one C program in three places."""

import inspect
import re
from pathlib import Path

import pytest

from memnotify import client

REPOSITORY = Path(__file__).parents[2]
PROGRAM = (REPOSITORY / "examples/wait.c").read_text()
_REFERENCE = (REPOSITORY / "docs/clients/python-api.md").read_text()


def _sections() -> dict[str, str]:
    parts = re.split(r"(?m)^## (\w+)$", _REFERENCE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", client.__all__)
def test_public_names(name: str) -> None:
    assert re.search(rf"`{name}\b", _REFERENCE)


@pytest.mark.parametrize("name", sorted(_sections().keys() & set(client.__all__)))
def test_public_members(name: str) -> None:
    """Each public method and property of the class is in the section of its name."""
    section = _sections()[name]
    for member, _ in inspect.getmembers(getattr(client, name)):
        if not member.startswith("_"):
            assert re.search(rf"`{member}\b", section), member


@pytest.mark.parametrize("name", ["Latch", "Memnotify", "Observer", "Signals"])
def test_parameters(name: str) -> None:
    """The section gives the parameters of the constructor by their names."""
    parameters = list(inspect.signature(getattr(client, name)).parameters)
    (given,) = re.findall(rf"(?m)^`{name}\((.*?)\)`", _sections()[name])
    assert re.findall(r"(\w+)(?:=[^,]+)?(?:, |$)", given) == parameters


def test_environment_variables() -> None:
    """CONTRIBUTING.md lists the variables that the tests and the build read, and no others."""
    files = [*REPOSITORY.glob("tests/**/*.py"), *REPOSITORY.glob("benchmarks/*.py"), REPOSITORY / "setup.py"]
    read = {
        name
        for file in files
        for name in re.findall(r"""(?:environ\.get\(|[A-Z_]+ = )"(MEMNOTIFY_\w+)\"""", file.read_text())
    }
    table = (REPOSITORY / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"(?m)^\| `(MEMNOTIFY_\w+)` \|", table)) == read


def test_one_c_program() -> None:
    """memnotify(4) and docs/clients/c.md show examples/wait.c, without the comments at its head."""
    shown = PROGRAM[PROGRAM.index("#define") :]
    (page,) = re.findall(r"(?ms)^```c\n(.*?)^```", (REPOSITORY / "docs/clients/c.md").read_text())
    assert page == shown
    manual = (REPOSITORY / "docs/man/memnotify.4").read_text()
    (block,) = re.findall(r"(?ms)^\.Sh EXAMPLES\n.*?^\.Bd -literal\n(.*?)^\.Ed", manual)
    assert block.replace("\\e", "\\").replace("\\-", "-") == shown
