# SPDX-License-Identifier: MIT
"""Build memnotify._shim, the only compiled module, against the libfuse3 that pkg-config finds."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
REMEDY = (
    "On Debian and Ubuntu: apt install gcc libc6-dev pkg-config libfuse3-dev python3-dev. "
    "Without serve, nothing is compiled: MEMNOTIFY_PURE=1 pip install ."
)


def pkg_config(*question: str) -> list[str]:
    """Return pkg-config's answer about fuse3; if there is none, exit with what to install."""
    try:
        answer = subprocess.run(
            ["pkg-config", *question, "fuse3"], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        sys.exit(f"memnotify: pkg-config is not installed. {REMEDY}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"memnotify: libfuse3's headers are not installed: {error.stderr.strip()}\n{REMEDY}")
    return shlex.split(answer.stdout)


def declarations(name: str) -> str:
    """Return the text of a header; cffi parses it with its comments."""
    return (HERE / name).read_text()


def require_compiler() -> None:
    """Exit with what to install if there is no C compiler."""
    command = shlex.split(os.environ.get("CC", "gcc"))[0]
    if shutil.which(command) is None:
        sys.exit(f"memnotify: the C compiler {command} is not installed. {REMEDY}")


require_compiler()
ffibuilder = FFI()
ffibuilder.cdef(declarations("shim.h"))
ffibuilder.cdef(declarations("system.h"))
ffibuilder.set_source(
    "memnotify._shim",
    '#include "shim.h"\n#include "system.h"',
    sources=["cffi_build/shim.c", "cffi_build/system.c"],
    include_dirs=[str(HERE)],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", *pkg_config("--cflags")],
    extra_link_args=pkg_config("--libs"),
)
