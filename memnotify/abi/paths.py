# SPDX-License-Identifier: MIT
"""Where the device is if no path is given."""

import os

DEFAULT_PATH = "/dev/memnotify"


def user_path(name: str = "memnotify") -> str | None:
    """Return where an ordinary user serves without a path: $XDG_RUNTIME_DIR/NAME; None if that is not set."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(directory, name) if os.path.isabs(directory) else None
