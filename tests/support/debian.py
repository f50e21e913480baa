# SPDX-License-Identifier: MIT
"""Where Debian's packages come from."""

import os
import re
import shutil
import subprocess


def mirror() -> str | None:
    """Return the mirror of Debian that this machine's apt uses; None where it has none, or is no Debian."""
    if shutil.which("apt-get") is None:
        return None
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    environment = {**os.environ, "LC_ALL": "C"}
    shown = subprocess.run(targets, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"^\S+/debian/?$", shown, re.MULTILINE)
    return found and found[0]
