# SPDX-License-Identifier: MIT
"""The kept inputs of the fuzzer: where there is no Atheris, they are tried all the same."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import targets


@pytest.mark.parametrize("name", targets.TARGETS)
def test_kept_inputs(name: str) -> None:
    """In a process of its own: the target of frames keeps a thread that serves, and replaces the log."""
    command = [
        sys.executable,
        "-c",
        f"from fuzz import targets\nfor data in targets.kept({name!r}): targets.TARGETS[{name!r}](data)",
    ]
    subprocess.run(command, check=True, timeout=120, cwd=Path(__file__).parents[1])
    assert targets.kept(name)
