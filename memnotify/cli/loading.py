# SPDX-License-Identifier: MIT
"""Whether this installation can serve: some have no compiled module."""

import importlib

_BUILD = "apt install gcc libc6-dev pkg-config libfuse3-dev python3-dev, then pip install . in a clone"


def obstacle() -> tuple[str, str] | None:
    """Return why the daemon cannot be loaded, and what to do; None if it can."""
    try:
        importlib.import_module("memnotify.transports.session")
    except ImportError as error:
        if error.name == "_cffi_backend":
            return "cffi is not installed", "apt install python3-cffi-backend, or pip install cffi"
        if isinstance(error, ModuleNotFoundError) and error.name == "memnotify._shim":
            return (
                "the compiled module is not installed: this installation has neither serve nor simulate",
                f"install the Debian package memnotify or the wheel for this platform, or build it: {_BUILD}",
            )
        return f"the daemon cannot be loaded: {error}", "apt install fuse3, or reinstall memnotify"
    return None
