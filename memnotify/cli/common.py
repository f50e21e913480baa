# SPDX-License-Identifier: MIT
"""What commands say to their user, on stderr."""

import contextlib
import sys

from memnotify.client import ThresholdError


def tell(command: str, text: str) -> None:
    """Say a line. Where stderr takes nothing, as of a terminal that is gone, the command goes on."""
    with contextlib.suppress(OSError):
        print(f"memnotify {command}: {text}", file=sys.stderr, flush=True)


def explain(path: str, error: OSError) -> str:
    """Return what to say of a device or of thresholds that are refused."""
    what = "" if isinstance(error, ThresholdError) and error.filename is None else f"{path}: "
    return f"{what}{error.strerror}"
