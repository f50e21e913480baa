# SPDX-License-Identifier: MIT
"""``memnotify doctor`` in a process of its own."""

import json
import subprocess
from collections.abc import Sequence

from support.daemon import PROGRAM

from memnotify.cli.doctor.checks import CHECKS


def findings(
    *arguments: str, name: str = "memnotify-test", program: Sequence[str] = PROGRAM
) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code and the finding of each check."""
    command = [*program, "doctor", "--name", name, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["healthy"] == (done.returncode == 0)
    checks = {check["name"]: check for check in result["checks"]}
    assert list(checks) == list(CHECKS)
    return done.returncode, checks
